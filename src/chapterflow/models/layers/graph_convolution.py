"""Layers for graphs: convolutions over neighbours, readout, and operations on sparse features.

Shapes: `n` nodes, `f` features, `b` graphs in a batch, each padded with empty nodes to the size of
the largest. An adjacency matrix has 1 where an edge leads from the row's node to the column's node,
and no self-loops; the layers normalise it themselves. It is dense, `(n, n)` or `(b, n, n)`, or a
`tf.SparseTensor` `(n, n)`. The features `(n, f)` of a single graph may also be sparse.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

READOUTS = ("mean", "sum", "max")


@keras.saving.register_keras_serializable(package="chapterflow")
class GraphConvolution(keras.layers.Layer):  # type: ignore[misc]
    """Graph convolution (Kipf & Welling, ICLR 2017): each node sees the mean of its neighbours.

    `activation(D^-1/2 (A + I) D^-1/2 X W + b)`, where D is the degree matrix of A + I. For
    directed edges, rows are scaled by row degrees and columns by column degrees.

    Call it on `[features, adjacency]`. Padding nodes have no edges, so they do not affect the other
    nodes.

    Args:
        units: Output features per node.
        activation: Activation function, or None.
        neighbours: Whether to use the neighbours; if false, this is a dense layer on each node
            that ignores the structure.
        kernel_regularizer: Regularizer of the kernel, or None.
    """

    def __init__(
        self,
        units: int,
        activation: Any = None,
        neighbours: bool = True,
        kernel_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units = units
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
        features, adjacency = inputs
        # The kernel comes first: it reduces the number of features and turns sparse ones dense.
        x = ops.matmul(features, self.kernel)
        if self.neighbours:
            out, into = _inverse_roots(adjacency)
            # (A + I) x: adding the self-loops to the product keeps a sparse A unchanged.
            scaled = into[..., None] * x
            x = out[..., None] * (sum_of_neighbours(adjacency, scaled) + scaled)
        return self.activation(x + self.bias)

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
        }


@keras.saving.register_keras_serializable(package="chapterflow")
class GINConvolution(keras.layers.Layer):  # type: ignore[misc]
    """Graph isomorphism convolution (Xu et al., ICLR 2019): each node sees the sum of neighbours.

    `activation(MLP((1 + eps) X + A X))` with a trainable `eps`, initially 0, and an MLP of two
    layers of `units` with ReLU between them. Unlike a mean, the sum distinguishes multisets of
    neighbours. The paper's batch normalisation is omitted because it would mix the graphs of a
    batch.

    Call it on `[features, adjacency]`.
    """

    def __init__(self, units: int, activation: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.activation = keras.activations.get(activation)
        policy = self.dtype_policy
        self.hidden = keras.layers.Dense(units, activation="relu", dtype=policy, name="hidden")
        self.out = keras.layers.Dense(units, dtype=policy, name="out")

    def build(self, input_shape: Any) -> None:
        """Create `eps` and the two dense layers."""
        self.eps = self.add_weight((), initializer="zeros", name="eps")
        self.hidden.build(input_shape[0])
        self.out.build((*input_shape[0][:-1], self.units))
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Return `(..., n, units)`."""
        features, adjacency = inputs
        x = _dense(features)
        x = (1 + self.eps) * x + sum_of_neighbours(adjacency, x)
        return self.activation(self.out(self.hidden(x)))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return `(..., n, units)`."""
        return (*input_shape[0][:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the layer."""
        config: dict[str, Any] = super().get_config()
        return config | {
            "units": self.units,
            "activation": keras.activations.serialize(self.activation),
        }


@keras.saving.register_keras_serializable(package="chapterflow")
class Readout(keras.layers.Layer):  # type: ignore[misc]
    """Node features -> one vector per graph: their mean, sum or maximum.

    Call it on `[features, sizes]`: `(b, n, f)`, and `(b,)` with the number of nodes in each graph
    without padding. A graph without nodes gives zeros.
    """

    def __init__(self, mode: str = "mean", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if mode not in READOUTS:
            raise ValueError(f"mode must be one of {', '.join(READOUTS)}. Received: {mode!r}")
        self.mode = mode

    def call(self, inputs: Any) -> Any:
        """Return `(b, f)`."""
        features, sizes = inputs
        positions = ops.arange(ops.shape(features)[1], dtype="int32")
        real = (positions[None, :] < ops.cast(sizes, "int32")[:, None])[..., None]
        if self.mode == "max":
            largest = ops.max(ops.where(real, features, float("-inf")), axis=1)
            return ops.where(ops.isfinite(largest), largest, 0.0)
        total = ops.sum(ops.where(real, features, 0.0), axis=1)
        if self.mode == "sum":
            return total
        return total / ops.cast(ops.maximum(sizes, 1), total.dtype)[:, None]

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return `(b, f)`."""
        return (input_shape[0][0], input_shape[0][-1])

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
        total = _row_sums(inputs)
        scale = 1 / ops.where(total == 0, 1.0, total)
        return inputs.with_values(inputs.values * ops.take(scale, inputs.indices[:, 0]))

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        """Return the spec of the inputs, including their sparsity."""
        return keras.KerasTensor(inputs.shape, inputs.dtype, sparse=inputs.sparse)


@keras.saving.register_keras_serializable(package="chapterflow")
class FeatureDropout(keras.layers.Dropout):  # type: ignore[misc]
    """Dropout that keeps sparse features sparse: zeros need no mask."""

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Drop and rescale features in training; return them unchanged otherwise."""
        if not _is_sparse(inputs):
            return super().call(inputs, training=training)
        return inputs.with_values(super().call(inputs.values, training=training))

    def compute_output_spec(self, inputs: Any, training: bool = False) -> keras.KerasTensor:
        """Return the spec of the inputs, including their sparsity."""
        return keras.KerasTensor(inputs.shape, inputs.dtype, sparse=inputs.sparse)


def sum_of_neighbours(adjacency: Any, x: Any) -> Any:
    """Return `A x`, `(..., n, f)`: for each node the sum over the targets of its edges."""
    return ops.matmul(adjacency, x)


def _inverse_roots(adjacency: Any) -> tuple[Any, Any]:
    """Return `1 / sqrt(degree + 1)` `(..., n)` of the rows and of the columns."""
    if _is_sparse(adjacency):
        degrees = _row_sums(adjacency), _row_sums(adjacency, axis=0)
    else:
        degrees = ops.sum(adjacency, axis=-1), ops.sum(adjacency, axis=-2)
    out, into = (ops.rsqrt(degree + 1) for degree in degrees)
    return out, into


def _is_sparse(x: Any) -> bool:
    import tensorflow as tf

    return isinstance(x, tf.SparseTensor)


def _dense(x: Any) -> Any:
    import tensorflow as tf

    return tf.sparse.to_dense(x) if _is_sparse(x) else x


def _row_sums(x: Any, axis: int = 1) -> Any:
    """Return the sums of a sparse matrix along an axis."""
    import tensorflow as tf

    other = 1 - axis
    return tf.math.unsorted_segment_sum(x.values, x.indices[:, other], x.dense_shape[other])
