"""Layers for graphs: convolutions over neighbours, readout, and operations on sparse features.

Shapes: `n` nodes, `f` features, `e` edges, `b` graphs in a batch. The layers take the structure of
a graph in three forms, without self-loops, and normalise it themselves:

- edges, int `(e, 2)`, source and target, sorted by source. Several graphs are one graph of all
  their nodes, numbered on from graph to graph. Cost and memory grow with the edges.
- adjacency, `tf.SparseTensor` `(n, n)`: 1 where an edge leads from the row's node to the column's
  node. The features `(n, f)` may also be sparse.
- adjacency, dense, `(n, n)` or `(b, n, n)`: each graph is padded with empty nodes to the size of
  the largest. Only small graphs fit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

READOUTS = ("mean", "sum", "max")
#: Columns of a product of a sparse matrix: from 32 on, TensorFlow computes row by row with a method
#: that takes ten times as long for each number.
NARROW = 31


def small_uniform() -> keras.initializers.Initializer:
    """Return initial weights between -1 / sqrt(f) and 1 / sqrt(f), for f features of the input.

    Those of PyTorch's `Linear`. Sums over the nodes of a graph are large: with Keras's larger
    weights, the first steps of more trainings end with a layer whose units are all zero.
    """
    return keras.initializers.VarianceScaling(1 / 3, mode="fan_in", distribution="uniform")


@keras.saving.register_keras_serializable(package="chapterflow")
class GraphConvolution(keras.layers.Layer):  # type: ignore[misc]
    """Graph convolution (Kipf & Welling, ICLR 2017): each node sees the mean of its neighbours.

    `activation(D^-1/2 (A + I) D^-1/2 X W + b)`, where D is the degree matrix of A + I. For
    directed edges, rows are scaled by row degrees and columns by column degrees.

    Call it on `[features, edges]` or `[features, adjacency]`. Padding nodes have no edges, so they
    do not affect the other nodes.

    Args:
        units: Output features per node.
        activation: Activation function, or None.
        neighbours: Whether to use the neighbours; if false, this is a dense layer on each node
            that ignores the structure.
        kernel_regularizer: Regularizer of the kernel, or None.
        directed: Whether an edge may lack its opposite; see `sum_of_neighbours`.
    """

    def __init__(
        self,
        units: int,
        activation: Any = None,
        neighbours: bool = True,
        kernel_regularizer: Any = None,
        directed: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.directed = directed
        self.activation = keras.activations.get(activation)
        self.neighbours = neighbours
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)

    def build(self, input_shape: Any) -> None:
        """Create the kernel `(f, units)` and the bias `(units,)`."""
        self.kernel = self.add_weight(
            (input_shape[0][-1], self.units),
            initializer="glorot_uniform",
            regularizer=self.kernel_regularizer,
            name="kernel",
        )
        self.bias = self.add_weight((self.units,), initializer="zeros", name="bias")
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Return `(..., n, units)`."""
        features, structure = inputs
        # Neighbours are summed where a node has fewer features. The kernel turns sparse features
        # dense.
        if _is_sparse(features) or features.shape[-1] > self.units:
            return self.of_products(_product(features, self.kernel), structure)
        if self.neighbours:
            features = self._with_neighbours(features, structure)
        return self.activation(_biased(_product(features, self.kernel), self.bias))

    def of_products(self, products: Any, structure: Any) -> Any:
        """Return the outputs `(..., n, units)` from the products of features and kernel."""
        if self.neighbours:
            products = self._with_neighbours(products, structure)
        return self.activation(_biased(products, self.bias))

    def _with_neighbours(self, x: Any, structure: Any) -> Any:
        """Return the normalised sum of each node and its neighbours."""
        if _is_edges(structure) and not _by_segments():
            return _edge_product(*_normalized(structure, x, self.directed), x, self.directed)
        out, into = _inverse_roots(structure, x, self.directed)
        # (A + I) x: adding the self-loops to the product keeps a sparse A unchanged.
        scaled = into[..., None] * x
        return out[..., None] * (sum_of_neighbours(structure, scaled, self.directed) + scaled)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return `(..., n, units)`."""
        return (*input_shape[0][:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the layer."""
        config: dict[str, Any] = super().get_config()
        return config | {
            "units": self.units,
            "activation": keras.activations.serialize(self.activation),
            "neighbours": self.neighbours,
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "directed": self.directed,
        }


@keras.saving.register_keras_serializable(package="chapterflow")
class GINConvolution(keras.layers.Layer):  # type: ignore[misc]
    """Graph isomorphism convolution (Xu et al., ICLR 2019): each node sees the sum of neighbours.

    `activation(MLP((1 + eps) X + A X))` with a trainable `eps`, initially 0, and an MLP of two
    layers of `units` with ReLU between them. Unlike a mean, the sum distinguishes multisets of
    neighbours.

    Call it on `[features, edges]` or `[features, adjacency]`.

    Args:
        normalize: Whether both layers of the MLP end with batch normalisation over the nodes, as in
            the paper. In training, all nodes count, so batches must have no padding nodes.
        directed: Whether an edge may lack its opposite; see `sum_of_neighbours`.
    """

    def __init__(
        self,
        units: int,
        activation: Any = None,
        normalize: bool = False,
        directed: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.normalize = normalize
        self.directed = directed
        self.activation = keras.activations.get(activation)
        policy = self.dtype_policy
        self.hidden = keras.layers.Dense(
            units, kernel_initializer=small_uniform(), dtype=policy, name="hidden"
        )
        self.out = keras.layers.Dense(
            units, kernel_initializer=small_uniform(), dtype=policy, name="out"
        )
        if normalize:
            # The rates of PyTorch, with which the paper trained.
            rates = {"momentum": 0.9, "epsilon": 1e-5, "dtype": policy}
            self.hidden_norm = keras.layers.BatchNormalization(**rates, name="hidden_norm")
            self.out_norm = keras.layers.BatchNormalization(**rates, name="out_norm")

    def build(self, input_shape: Any) -> None:
        """Create `eps` and the two dense layers."""
        self.eps = self.add_weight((), initializer="zeros", name="eps")
        self.hidden.build(input_shape[0])
        inner = (*input_shape[0][:-1], self.units)
        self.out.build(inner)
        if self.normalize:
            self.hidden_norm.build(inner)
            self.out_norm.build(inner)
        self.built = True

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Return `(..., n, units)`."""
        features, structure = inputs
        x = self._with_neighbours(_dense(features), structure)
        # Not the layers' own calls; see `_biased`.
        x = _biased(ops.matmul(x, self.hidden.kernel), self.hidden.bias)
        x = ops.relu(self.hidden_norm(x, training=training) if self.normalize else x)
        x = _biased(ops.matmul(x, self.out.kernel), self.out.bias)
        return self.activation(self.out_norm(x, training=training) if self.normalize else x)

    def _with_neighbours(self, x: Any, structure: Any) -> Any:
        """Return `(1 + eps) x + A x`."""
        if not _is_edges(structure) or _by_segments():
            return (1 + self.eps) * x + sum_of_neighbours(structure, x, self.directed)
        import tensorflow as tf

        product = _products(structure, None, x)

        # TensorFlow's own gradient, for shapes that it does not know, has twice the operations.
        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def total(x: Any, factor: Any) -> Any:
            return factor * x + product(x), lambda g: (
                factor * g + product(g, self.directed),
                tf.reduce_sum(g * x),
            )

        return total(x, 1 + tf.convert_to_tensor(self.eps))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return `(..., n, units)`."""
        return (*input_shape[0][:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the layer."""
        config: dict[str, Any] = super().get_config()
        return config | {
            "units": self.units,
            "activation": keras.activations.serialize(self.activation),
            "normalize": self.normalize,
            "directed": self.directed,
        }


@keras.saving.register_keras_serializable(package="chapterflow")
class Readout(keras.layers.Layer):  # type: ignore[misc]
    """Node features -> one vector per graph: their mean, sum or maximum.

    Call it on `[features, sizes]`: `(n, f)`, the nodes of all graphs, or `(b, n, f)`, padded; and
    `(b,)`, the number of nodes in each graph without padding. Nodes after the last graph do not
    count. A graph without nodes gives zeros.
    """

    def __init__(self, mode: str = "mean", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if mode not in READOUTS:
            raise ValueError(f"mode must be one of {', '.join(READOUTS)}. Received: {mode!r}")
        self.mode = mode

    def call(self, inputs: Any) -> Any:
        """Return `(b, f)`."""
        features, sizes = inputs
        if len(features.shape) == 2:
            return self._of_joined(features, sizes)
        positions = ops.arange(ops.shape(features)[1], dtype="int32")
        real = (positions[None, :] < ops.cast(sizes, "int32")[:, None])[..., None]
        if self.mode == "max":
            largest = ops.max(ops.where(real, features, float("-inf")), axis=1)
            return ops.where(ops.isfinite(largest), largest, 0.0)
        total = ops.sum(ops.where(real, features, 0.0), axis=1)
        if self.mode == "sum":
            return total
        return total / ops.cast(ops.maximum(sizes, 1), total.dtype)[:, None]

    def _of_joined(self, features: Any, sizes: Any) -> Any:
        """Return `(b, f)` of the nodes of all graphs, one graph after the other."""
        import tensorflow as tf

        def places() -> tuple[Any, ...]:
            nodes = features.shape[0] or tf.shape(features)[0]
            return graph_of_nodes(sizes, nodes), tf.range(nodes), tf.size(sizes) + 1

        # Equal for all readouts of a model.
        graph, rows, segments = _once(sizes, "_places", (features.shape[0],), places)
        if self.mode == "max":
            largest = tf.math.unsorted_segment_max(features, graph, segments)[:-1]
            return tf.where(sizes[:, None] > 0, largest, tf.zeros_like(largest))
        total = _sum_of_nodes(features, graph, rows, segments)
        if self.mode == "sum":
            return total
        return total / tf.cast(tf.maximum(sizes, 1), total.dtype)[:, None]

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return `(b, f)`."""
        return (input_shape[1][0], input_shape[0][-1])

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the layer."""
        config: dict[str, Any] = super().get_config()
        return config | {"mode": self.mode}


@keras.saving.register_keras_serializable(package="chapterflow")
class RowNormalization(keras.layers.Layer):  # type: ignore[misc]
    """Divide each node's features by their sum unless the sum is 0 (Kipf & Welling 2017)."""

    def call(self, inputs: Any) -> Any:
        """Return the features; sparse features stay sparse."""
        if not _is_sparse(inputs):
            total = ops.sum(inputs, axis=-1, keepdims=True)
            return inputs / ops.where(total == 0, 1.0, total)
        import tensorflow as tf

        def scaled(values: Any, indices: Any, shape: Any) -> Any:
            rows = indices[:, 0]
            total = tf.math.unsorted_segment_sum(values, rows, shape[0])
            scale = 1 / tf.where(total == 0, tf.ones_like(total), total)
            return values * tf.gather(scale, rows)

        return inputs.with_values(_ahead(scaled, inputs.values, inputs.indices, inputs.dense_shape))

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        """Return the spec of the inputs, including their sparsity."""
        return keras.KerasTensor(inputs.shape, inputs.dtype, sparse=inputs.sparse)


@keras.saving.register_keras_serializable(package="chapterflow")
class FeatureDropout(keras.layers.Dropout):  # type: ignore[misc]
    """Dropout that keeps sparse features sparse: zeros need no mask.

    8 random bits decide on a feature, or 16 if the rate is not a multiple of 1 / 256; Keras draws
    32, which takes four times as long. The rate is exact to 1 / 131,072.
    """

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Drop and rescale features in training; return them unchanged otherwise."""
        if not training or not self.rate:
            return inputs
        if not _is_sparse(inputs):
            return self._dropped(inputs)
        return inputs.with_values(self._dropped(inputs.values))

    def _dropped(self, x: Any) -> Any:
        import tensorflow as tf

        numbers = tf.uint16 if self.rate * 256 % 1 else tf.uint8
        least = round(self.rate * (numbers.max + 1))
        if least > numbers.max:
            return tf.zeros_like(x)
        size = x.shape.num_elements() or tf.size(x)
        words = -(-size * numbers.size // 4)
        seed = tf.cast(self.seed_generator.next(), tf.int32)
        drawn = tf.bitcast(
            tf.random.stateless_uniform([words], seed, None, None, tf.uint32), numbers
        )
        kept = tf.reshape(drawn, [-1])[:size] >= tf.constant(least, numbers)
        kept = tf.reshape(kept, x.shape if x.shape.is_fully_defined() else tf.shape(x))
        return x * (1 / (1 - self.rate)) * tf.cast(kept, x.dtype)

    def compute_output_spec(self, inputs: Any, training: bool = False) -> keras.KerasTensor:
        """Return the spec of the inputs, including their sparsity."""
        return keras.KerasTensor(inputs.shape, inputs.dtype, sparse=inputs.sparse)


@keras.saving.register_keras_serializable(package="chapterflow")
class Adjacency(keras.layers.Layer):  # type: ignore[misc]
    """Edges -> adjacency matrix, for a network whose other layers need one.

    Call it on `[features, edges]`, `(n, f)` and `(e, 2)`, for the matrix `(n, n)` of one graph; on
    `[features, edges, sizes]` for the padded features `(b, m, f)` and matrices `(b, m, m)` of `b`
    graphs of up to `m` nodes.

    Args:
        sparse: Whether the matrix of one graph is a `tf.SparseTensor`.
    """

    def __init__(self, sparse: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sparse = sparse

    def call(self, inputs: Any) -> Any:
        """Return the matrix, or features and matrices."""
        import tensorflow as tf

        features, edges, *sizes = inputs
        count = tf.shape(features)[0]
        ones = tf.ones(tf.shape(edges)[:1], self.compute_dtype)
        if not sizes:
            if not self.sparse:
                return tf.scatter_nd(edges, ones, [count, count])
            shape = tf.cast(tf.stack([count, count]), tf.int64)
            return tf.SparseTensor(tf.cast(edges, tf.int64), ones, shape)
        graphs, width = tf.size(sizes[0]), tf.reduce_max(sizes[0])
        graph = graph_of_nodes(sizes[0], count)
        place = tf.range(count) - tf.gather(tf.cumsum(sizes[0], exclusive=True), graph)
        padded = tf.scatter_nd(
            tf.stack([graph, place], axis=1), features, [graphs, width, tf.shape(features)[1]]
        )
        ends = tf.gather(place, edges)
        at = tf.concat([tf.gather(graph, edges[:, :1]), ends], axis=1)
        return padded, tf.scatter_nd(at, ones, [graphs, width, width])

    def compute_output_spec(self, inputs: Any) -> Any:
        """Return the spec of the matrix, or of features and matrices."""
        if len(inputs) == 2:
            return keras.KerasTensor((None, None), self.compute_dtype, sparse=self.sparse)
        return (
            keras.KerasTensor((None, None, inputs[0].shape[-1]), self.compute_dtype),
            keras.KerasTensor((None, None, None), self.compute_dtype),
        )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the layer."""
        config: dict[str, Any] = super().get_config()
        return config | {"sparse": self.sparse}


def reads_edges(model: keras.Model) -> keras.Model:
    """Return a model of graphs that reads edges instead of an adjacency matrix.

    Any other model is returned as it is. Models that were logged before graphs were joined, and
    models with layers for dense matrices, take a matrix.
    """
    named = model.input if isinstance(model.input, dict) else {}
    if "features" not in named or "adjacency" not in named:
        return model
    adjacency = named["adjacency"]
    width = named["features"].shape[-1]
    given = {
        "features": keras.Input((width,), name="features"),
        "edges": keras.Input((2,), dtype="int32", name="edges"),
    }
    read = dict(given)
    if len(adjacency.shape) == 2:
        sparse = bool(adjacency.sparse)
        read["adjacency"] = Adjacency(sparse, name="from_edges")(list(given.values()))
    else:
        given["sizes"] = keras.Input((), dtype="int32", name="sizes")
        padded = Adjacency(name="from_edges")(list(given.values()))
        read |= {"features": padded[0], "adjacency": padded[1], "sizes": given["sizes"]}
    outputs = model.call({name: read[name] for name in named})
    return keras.Model(given, outputs, name=model.name)


def graph_of_nodes(sizes: Any, nodes: Any) -> Any:
    """Return the number of each node's graph, `(n,)`; b for nodes after the last graph.

    Args:
        sizes: Nodes of each graph, `(b,)`.
        nodes: Number of all nodes, n.
    """
    import tensorflow as tf

    ends = tf.cumsum(sizes)
    # `tf.searchsorted` reshapes first, in a dozen operations.
    rows = tf.range(nodes, dtype=ends.dtype)[None]
    return tf.raw_ops.UpperBound(sorted_inputs=ends[None], values=rows)[0]


def _sum_of_nodes(x: Any, graph: Any, rows: Any, segments: Any) -> Any:
    """Return the sum of the node features of each graph, `(b, f)`.

    Args:
        graph: Number of each node's graph, `(n,)`, in ascending order.
        rows: Number of each node, `(n,)`.
        segments: Number of graphs, and one for nodes after the last graph, b + 1.
    """
    import tensorflow as tf

    # TensorFlow's own gradient of a segment sum takes ten times as long as reading its rows.
    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def total(x: Any) -> Any:
        sums = tf.sparse.segment_sum(x, rows, graph, num_segments=segments)[:-1]
        return sums, lambda gradient: tf.gather(tf.pad(gradient, [[0, 1], [0, 0]]), graph)

    return total(x)


def sum_of_neighbours(structure: Any, x: Any, directed: bool = True) -> Any:
    """Return `A x`, `(..., n, f)`: for each node the sum over the targets of its edges.

    Args:
        directed: Whether an edge may lack its opposite; if false, the gradient assumes that A is
            symmetric, which takes half the time.
    """
    if not _is_edges(structure):
        return _product(structure, x)
    import tensorflow as tf

    if not _by_segments():
        return _edge_product(structure, None, x, directed)
    sources, targets = structure[:, 0], structure[:, 1]
    nodes = tf.shape(x, structure.dtype)[0]

    # Reads and sums rows in one operation, which takes less than `gather` and a segment sum.
    def total(x: Any) -> Any:
        return tf.sparse.segment_sum(x, targets, sources, num_segments=nodes)

    if directed:
        return total(x)
    return tf.custom_gradient(lambda x: (total(x), total))(x)


def _by_segments() -> bool:
    """Return whether to sum by segments: a GPU has no deterministic sparse product."""
    import tensorflow as tf

    return bool(tf.config.list_logical_devices("GPU"))


def _once(tensor: Any, name: str, options: tuple[Any, ...], make: Callable[[], Any]) -> Any:
    """Return `make()`, which a tensor keeps for other layers that are traced in the same graph.

    Small networks take as long to trace as to train, and each operation of a step takes longer to
    start than to compute.

    Args:
        options: What else the result depends on.
    """
    import tensorflow as tf

    context = tf.compat.v1.get_default_graph(), options
    known = getattr(tensor, name, None)
    if known is None or known[0] != context:
        known = context, make()
        setattr(tensor, name, known)
    return known[1]


def _ahead(make: Callable[..., Any], *tensors: Any) -> Any:
    """Return `make(*tensors)`, of constants of a compiled function before it is compiled.

    An operation that is traced, compiled and folded to a constant takes ten times as long as one
    that is computed at once.
    """
    import tensorflow as tf

    if tf.executing_eagerly():
        return make(*tensors)
    values = [tf.get_static_value(tensor) for tensor in tensors]
    if any(value is None for value in values):
        return make(*tensors)
    with tf.init_scope():
        made = tf.nest.map_structure(lambda part: part.numpy(), make(*map(tf.constant, values)))
    return tf.nest.map_structure(tf.constant, made)


def _normalized(edges: Any, x: Any, directed: bool) -> tuple[Any, Any]:
    """Return `D^-1/2 (A + I) D^-1/2` as edges with loops, `(e + n, 2)`, and weights `(e + n,)`.

    Args:
        x: Node features `(n, f)`, for their number and dtype.
    """
    import tensorflow as tf

    def normalized(edges: Any) -> tuple[Any, Any]:
        out, into = _inverse_roots(edges, x, directed)
        nodes = tf.range(tf.size(out), dtype=edges.dtype)
        weights = tf.gather(out, edges[:, 0]) * tf.gather(into, edges[:, 1])
        return (
            tf.concat([edges, tf.stack([nodes, nodes], axis=1)], axis=0),
            tf.concat([weights, out * into], axis=0),
        )

    options = x.shape[0], x.dtype, directed
    matrix: tuple[Any, Any] = _once(
        edges,
        "_normalized",
        options,
        # Without a known number of nodes, the result depends on more than the edges.
        lambda: _ahead(normalized, edges) if x.shape[0] else normalized(edges),
    )
    return matrix


def _edge_product(edges: Any, weights: Any, x: Any, directed: bool) -> Any:
    """Return the product `(n, f)` of a sparse matrix of weighted edges and node features.

    Weights have no gradient.

    Args:
        edges: Row and column of each weight, `(e, 2)`.
        weights: `(e,)`, or None for ones.
        directed: Whether the matrix may be asymmetric.
    """
    import tensorflow as tf

    product = _products(edges, weights, x)
    return tf.custom_gradient(lambda x: (product(x), lambda g: product(g, directed)))(x)


def _products(edges: Any, weights: Any, x: Any) -> Callable[..., Any]:
    """Return a function of the products of a sparse matrix, or of its transpose, and features.

    They take a third to two thirds of the time of a segment sum.

    Args:
        edges: Row and column of each weight, `(e, 2)`.
        weights: `(e,)`, or None for ones.
        x: Node features `(n, f)`, for their number and dtype.
    """
    import tensorflow as tf

    width = x.shape[-1]
    # A node of 32 features is multiplied as two nodes of 16; see `NARROW`.
    parts = next(p for p in range(1, width + 1) if width % p == 0 and width // p <= NARROW)
    if parts > 8:
        parts = 1  # such as a prime number of features

    def matrix(edges: Any, values: Any = None) -> dict[str, Any]:
        places = tf.cast(edges, tf.int64)
        if values is None:
            values = tf.ones(tf.shape(edges)[:1], x.dtype)
        nodes = x.shape[0] or tf.shape(x, tf.int64)[0]
        if parts > 1:
            part = tf.range(parts, dtype=tf.int64)[:, None]
            places = tf.reshape(places[:, None] * parts + part, [-1, 2])
            values = tf.reshape(tf.broadcast_to(values[:, None], [tf.size(values), parts]), [-1])
            nodes *= parts
        return {
            "a_indices": places,
            "a_values": values,
            "a_shape": tf.convert_to_tensor([nodes, nodes], tf.int64),
        }

    given = [edges] if weights is None else [edges, weights]
    sparse = _once(
        edges,
        f"_matrix{parts}",
        (x.shape[0], x.dtype),
        lambda: _ahead(matrix, *given) if x.shape[0] else matrix(*given),
    )

    def product(x: Any, transposed: bool = False) -> Any:
        def of(part: Any) -> Any:
            return tf.raw_ops.SparseTensorDenseMatMul(**sparse, b=part, adjoint_a=transposed)

        if parts == 1:
            return _in_columns(of, x)
        return tf.reshape(of(tf.reshape(x, [-1, width // parts])), [-1, width])

    return product


def _in_columns(product: Any, dense: Any) -> Any:
    """Return the product of a sparse matrix and a dense one, by groups of `NARROW` columns."""
    import tensorflow as tf

    width = dense.shape[-1]
    if width <= NARROW:
        return product(dense)
    parts = -(-width // 16)
    sizes = [width // parts + (part < width % parts) for part in range(parts)]
    return tf.concat([product(part) for part in tf.split(dense, sizes, axis=1)], axis=1)


def _inverse_roots(structure: Any, x: Any, directed: bool = True) -> tuple[Any, Any]:
    """Return `1 / sqrt(degree + 1)` `(..., n)` of the rows and of the columns.

    Args:
        x: Node features `(..., n, f)`, for their number and dtype.
        directed: Whether rows and columns may differ in an edge list.
    """
    if _is_edges(structure):
        import tensorflow as tf

        def of_edges() -> tuple[Any, Any]:
            nodes = x.shape[0] or tf.shape(x, structure.dtype)[0]
            counts = [
                tf.raw_ops.DenseBincount(input=ends, size=nodes, weights=tf.constant([], x.dtype))
                for ends in tf.unstack(structure, 2, axis=1)[: 1 + directed]
            ]
            roots = [tf.math.rsqrt(count + 1) for count in counts]
            return roots[0], roots[-1]

        options = x.shape[0], x.dtype, directed
        roots: tuple[Any, Any] = _once(structure, "_inverse_roots", options, of_edges)
        return roots
    if _is_sparse(structure):
        degrees = _row_sums(structure), _row_sums(structure, axis=0)
    else:
        degrees = ops.sum(structure, axis=-1), ops.sum(structure, axis=-2)
    out, into = (ops.rsqrt(degree + 1) for degree in degrees)
    return out, into


def _is_edges(structure: Any) -> bool:
    return str(keras.backend.standardize_dtype(structure.dtype)).startswith(("int", "uint"))


def _is_sparse(x: Any) -> bool:
    import tensorflow as tf

    return isinstance(x, tf.SparseTensor)


def _product(x: Any, dense: Any) -> Any:
    """Return the product of two matrices, of which the first may be sparse."""
    if not _is_sparse(x):
        return ops.matmul(x, dense)
    import tensorflow as tf

    # Keras takes 17 times as long for Cora's features, forward and backward.
    return _in_columns(
        lambda part: tf.sparse.sparse_dense_matmul(x, part), tf.convert_to_tensor(dense)
    )


def _biased(product: Any, bias: Any) -> Any:
    """Return the sum of a product of matrices and a bias.

    The control dependency keeps TensorFlow from fusing product and sum: oneDNN compiles the fused
    operation for each number of rows, which takes ten times as long as the product, and almost
    every batch of graphs has another number of nodes.
    """
    import tensorflow as tf

    with tf.control_dependencies([product]):
        # Its gradient takes a third of the operations of `+`.
        return tf.nn.bias_add(product, tf.convert_to_tensor(bias))


def _dense(x: Any) -> Any:
    import tensorflow as tf

    return tf.sparse.to_dense(x) if _is_sparse(x) else x


def _row_sums(x: Any, axis: int = 1) -> Any:
    """Return the sums of a sparse matrix along an axis."""
    import tensorflow as tf

    ones = tf.ones((x.dense_shape[axis], 1), x.dtype)
    return tf.sparse.sparse_dense_matmul(x, ones, adjoint_a=axis == 0)[:, 0]
