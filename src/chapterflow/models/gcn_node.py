"""Node classification: Kipf & Welling's two graph convolutions over one graph.

Book: chapter 5, "Graph convolution".
Paper: Kipf & Welling, "Semi-supervised classification with graph convolutional networks", ICLR
2017 (Cora: 0.815, 200 epochs).
Expected: 0.95 on `citations`; 0.815 on `cora`, mean of 10 seeds.
Command: chapterflow run gcn-node
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from chapterflow.models.base import ChapterModel, InputSpec, ModelParams
from chapterflow.types import Fraction, PositiveInt

if TYPE_CHECKING:
    import keras


class Params(ModelParams):
    """The paper's hyperparameters.

    Attributes:
        hidden: Output features of the first convolution.
        dropout: Dropout rate of the inputs of each convolution.
        weight_decay: L2 penalty of the first kernel; the loss gains half the sum of its squares,
            times this factor.
    """

    hidden: PositiveInt = 16
    dropout: Fraction = 0.5
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 5e-4


def build(params: Params, data: InputSpec) -> keras.Model:
    """Two graph convolutions: `features` `(n, f)` and `edges` `(e, 2)` -> logits `(n, classes)`.

    Features may be sparse, and stay sparse until the first kernel has reduced their number. Edges,
    source and target, are sorted by source.
    """
    import keras

    from chapterflow.models.layers.graph_convolution import (
        FeatureDropout,
        GraphConvolution,
        RowNormalization,
    )

    features = keras.Input((data.shape[-1],), sparse=True, name="features")
    edges = keras.Input((2,), dtype="int32", name="edges")
    x = RowNormalization(name="normalize")(features)
    x = FeatureDropout(params.dropout, name="dropout1")(x)
    x = GraphConvolution(
        params.hidden,
        activation="relu",
        kernel_regularizer=keras.regularizers.L2(params.weight_decay / 2),
        directed=data.directed,
        name="conv1",
    )([x, edges])
    x = FeatureDropout(params.dropout, name="dropout2")(x)
    logits = GraphConvolution(data.classes, directed=data.directed, name="logits")([x, edges])
    return keras.Model({"features": features, "edges": edges}, logits, name="gcn-node")


MODEL = ChapterModel(
    "gcn-node", Params, build, "Graph convolution", "two graph convolutions: classes nodes"
)
