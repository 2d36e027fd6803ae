"""Sources of curves: generated ones, and a series from a CSV file."""

from typing import Annotated, Literal

from pydantic import Field

from chapterflow.models.parts.base import PositiveInt, Strict
from chapterflow.settings.types import RemoteFile, Seed, SplitShare


class Curves(Strict):
    """Generated curves under noise, whose clean form is the target.

    Attributes:
        seed: Seed of curves, noise and splits.
        count: Number of curves.
        length: Samples in a curve.
        noise: Standard deviations of the noise; curves take them in turn.
        validation: Share of all curves for early stopping.
        test: Share of all curves held out for evaluation.
    """

    kind: Literal["curves"]
    seed: Seed
    count: Annotated[int, Field(ge=10)]
    length: Annotated[int, Field(ge=16)]
    noise: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1, max_length=100)]
    validation: SplitShare
    test: SplitShare


class CsvSeries(Strict):
    """Windows of one or more series in the columns of a CSV file.

    Attributes:
        mirror: Folder of the file below `CHAPTERFLOW_MIRROR`; null for a file that no mirror
            holds, which comes from `upstream` always.
        upstream: Base addresses (`https://`, `file://`, `package://` or a path), tried in order.
        file: The CSV file; lines that start with `#` are comments.
        time: Column of times: ISO 8601 dates or times, or numbers.
        values: Columns of measured values.
        step: `regular`: all steps are equal; `month`: one calendar month each; `irregular`: any.
        blank_rows: `skip` passes over rows in which all the value columns are empty; `refuse`
            takes them for damage. A row in which some are empty is an error always.
        last: Last time that is read, as it is written in the file; null reads all.
        log: Whether to take logarithms, for values whose changes are relative to their size.
        window: Samples in a window.
        stride: Samples between the starts of train windows, which may overlap. Those of the other
            splits never do.
        parts: Each window is divided at random into so many parts, and is one example for each:
            there the part is hidden from the input and is what is scored.
        validation: Share of the time span, after the train share.
        test: Share of the time span at its end.
    """

    kind: Literal["csv-series"]
    seed: Seed
    mirror: str | None = None
    upstream: Annotated[list[str], Field(min_length=1)]
    file: RemoteFile
    time: str
    values: Annotated[list[str], Field(min_length=1)]
    step: Literal["regular", "month", "irregular"] = "regular"
    blank_rows: Literal["refuse", "skip"] = "refuse"
    last: str | None = None
    log: bool = False
    window: Annotated[int, Field(ge=8)] = 32
    stride: PositiveInt = 1
    parts: Annotated[int, Field(ge=2, le=50)] = 5
    validation: SplitShare
    test: SplitShare
    title: str = "Series from a CSV file"
    licence: str = "unknown"
