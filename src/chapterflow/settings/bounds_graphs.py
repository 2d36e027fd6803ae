"""Bounds of the validation suites for graphs."""

from typing import Annotated

from pydantic import Field

from chapterflow.models.parts.base import Strict
from chapterflow.settings.types import Share


class GraphExpectations(Strict):
    """Bounds of the suites for many graphs and for one graph of many nodes.

    Attributes:
        class_divergence: Largest Kullback-Leibler divergence, in nats, of a split's class shares
            from equal shares.
        duplicates: Largest share of examples that repeat another one, bit for bit.
        isolated: Largest share of nodes without an edge: of each graph, or of the one graph.
        value_use: Smallest share of the value range that the largest feature uses.
    """

    class_divergence: Annotated[float, Field(ge=0)]
    duplicates: Share
    isolated: Share
    value_use: Share
