"""The space of a sweep: what `--set` lets vary, and a `params.yaml` with the best values."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from chapterflow.config.load import load_settings, parse_yaml
from chapterflow.config.settings import PROFILES, Settings
from chapterflow.errors import ConfigError
from chapterflow.models.base import ModelParams

_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
LOG = "log:"
#: Keys of a model that no trial is judged by, or that would change its data.
FIXED = ("role", "beside", "folds", *PROFILES)
#: Significant digits of a proposed number.
DIGITS = 3
SYNTAX = (
    "A range is LOW..HIGH or log:LOW..HIGH, with LOW below HIGH; choices are A,B,C: "
    "`--set models.cnn.learning_rate=log:1e-4..1e-2 --set models.cnn.dense=64,128`"
)


@dataclass(frozen=True)
class Range:
    """Numbers between two bounds, both included.

    Attributes:
        name: Path of the parameter below its model: `learning_rate`.
        text: The range as the user wrote it.
        log: Whether orders of magnitude are equally likely.
        whole: Whether the parameter takes integers only.
    """

    name: str
    text: str
    low: float
    high: float
    log: bool
    whole: bool = False

    def rounded(self, value: float) -> float:
        """Return a value with as many digits as a person would write, within the bounds."""
        if self.whole:
            return int(value)
        return min(max(float(f"{value:.{DIGITS}g}"), float(self.low)), float(self.high))


@dataclass(frozen=True)
class Choice:
    """Some values of any type."""

    name: str
    text: str
    values: tuple[Any, ...]

    def labels(self) -> list[Any]:
        """Return the values as a storage takes them: those that are no plain values as YAML."""
        plain = (str, int, float, bool, type(None))
        return [value if isinstance(value, plain) else yaml_text(value) for value in self.values]

    def value(self, label: Any) -> Any:
        """Return the value of a label."""
        pairs = zip(self.labels(), self.values, strict=True)
        return next(value for known, value in pairs if (type(known), known) == (type(label), label))


Dimension = Range | Choice


@dataclass(frozen=True)
class Space:
    """What a sweep varies, and what it keeps.

    Attributes:
        model: The chapter model.
        dimensions: What varies.
        fixed: Overrides that all trials share.
    """

    model: str
    dimensions: tuple[Dimension, ...]
    fixed: tuple[str, ...]

    def size(self) -> int | None:
        """Return the number of different trials; None if it has no end."""
        size = 1
        for dimension in self.dimensions:
            if isinstance(dimension, Choice):
                size *= len(dimension.values)
            elif dimension.whole:
                size *= int(dimension.high - dimension.low) + 1
            else:
                return None
        return size

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """Return the values of a trial as `--set` takes them."""
        return [f"models.{self.model}.{name}={yaml_text(value)}" for name, value in values.items()]


def yaml_text(value: Any) -> str:
    """Return a value in YAML, in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), sort_keys=False)
    return text.removesuffix("...\n").strip()


def with_values(params: ModelParams, values: Mapping[str, Any]) -> ModelParams:
    """Return parameters with other values.

    Args:
        params: Parameters of a model.
        values: By the path of the parameter: `{"augment.rotation": 9}`.

    Raises:
        pydantic.ValidationError: If the values do not fit together.
    """
    document = params.model_dump()
    for name, value in values.items():
        holder = document
        *groups, last = name.split(".")
        for group in groups:
            holder[group] = dict(holder.get(group) or {})
            holder = holder[group]
        holder[last] = value
    return type(params).model_validate(document)


def read_space(
    path: Path, model: str, overrides: Sequence[str], *, profile: str | None = None
) -> tuple[Space, Settings]:
    """Split overrides into what a sweep varies and what it keeps, and check every bound and choice.

    Args:
        path: `params.yaml`.
        model: The chapter model.
        overrides: `path=value` strings; a value of the model may be a range or choices.
        profile: Profile; by default the file's.

    Returns:
        The space, and the settings that all trials share.

    Raises:
        ConfigError: If nothing varies, another thing than a parameter of the model does, or the
            model refuses a value.
    """
    dimensions: dict[str, Dimension] = {}
    fixed: list[str] = []
    for override in overrides:
        key, equals, text = override.partition("=")
        dimension = _read_dimension(key.strip(), text) if equals else None
        if dimension is None:
            fixed.append(override)
            continue
        prefix = f"models.{model}."
        if not key.strip().startswith(prefix):
            raise ConfigError(
                f"A sweep of {model} varies parameters below {prefix[:-1]}. "
                f"Received: --set {override}. Give it a single value"
            )
        name = key.strip().removeprefix(prefix)
        if name.partition(".")[0] in FIXED:
            raise ConfigError(
                f"A sweep cannot vary {', '.join(FIXED)}. Received: --set {override}. "
                "Name the parameter itself; --profile chooses the profile"
            )
        dimensions[name] = dimension
    settings = load_settings(path, profile=profile, overrides=fixed)
    settings.check_names([model], settings.models, "model")
    if not dimensions:
        raise ConfigError(
            "A sweep needs at least one --set with a range or choices. "
            f"Received: {' '.join(f'--set {text}' for text in overrides) or 'none'}. {SYNTAX}"
        )

    def check(name: str, value: Any) -> None:
        setting = f"models.{model}.{name}"
        with_value = load_settings(
            path, profile=profile, overrides=[*fixed, f"{setting}={yaml_text(value)}"]
        )
        taken: Any = with_value.params(model).model_dump()
        for part in name.split("."):
            taken = taken[part]
        if taken != value:
            raise ConfigError(
                f"{setting} cannot vary, because another parameter decides it (recipe: book does). "
                f"Received: {value}, which becomes {taken}. Remove one of the two"
            )

    faults, checked = [], []
    for dimension in dimensions.values():
        try:
            checked.append(_checked(dimension, check))
        except ConfigError as error:
            path_ = f"models.{model}.{dimension.name}"
            faults.append(f"{error} Correct `--set {path_}={dimension.text}`.")
    if faults:
        raise ConfigError("\n".join(faults))
    return Space(model, tuple(checked), tuple(fixed)), settings


def _read_dimension(path: str, text: str) -> Dimension | None:
    """Return a range or choices; None for a single value.

    Raises:
        ConfigError: If it begins like a range, or has choices, and is none or has too few.
    """
    text = text.strip()
    name = ".".join(path.split(".")[2:])
    body = text.removeprefix(LOG)
    ends = [number for end in body.split("..", 1) if (number := _number(end.strip())) is not None]
    if len(ends) == 2:
        low, high = ends
        log = body != text
        if low >= high or (log and low <= 0):
            more = "; LOW of a log range must be above 0" if log else ""
            raise ConfigError(f"--set {path}: {SYNTAX}{more}. Received: {text}")
        return Range(name, text, low, high, log)
    if body != text:
        raise ConfigError(f"--set {path}: {SYNTAX}. Received: {text}")
    if not path.startswith("models."):
        return None
    try:
        listed = parse_yaml(f"[{text}]", path)
    except ConfigError:
        return None  # Reported as a single value.
    if not isinstance(listed, list) or len(listed) < 2:
        return None
    # By their text: 1 and true are equal.
    values = {yaml_text(value): value for value in map(_exact, listed)}
    if len(values) < 2:
        raise ConfigError(f"--set {path} needs two different choices. Received: {text}")
    return Choice(name, text, tuple(values.values()))


def _number(text: str) -> int | float | None:
    if not _NUMBER.fullmatch(text):
        return None
    return int(text) if text.lstrip("+-").isdigit() else float(text)


def _exact(value: Any) -> Any:
    """Return a choice as meant: YAML takes `1e-4`, which lacks a point, for a text."""
    number = _number(value) if isinstance(value, str) else None
    return value if number is None else number


def _checked(dimension: Dimension, check: Callable[[str, Any], None]) -> Dimension:
    """Return a dimension whose values the model takes; a range as one of integers where it must.

    Args:
        dimension: The dimension.
        check: Raises a `ConfigError` if the model refuses a value of a parameter.
    """
    if isinstance(dimension, Choice):
        for value in dimension.values:
            check(dimension.name, value)
        return dimension
    for end in (dimension.low, dimension.high):
        check(dimension.name, end)
    whole = False
    if isinstance(dimension.low, int) and isinstance(dimension.high, int):
        try:
            check(dimension.name, dimension.low + 0.5)
        except ConfigError:
            whole = True
    return Range(
        dimension.name, dimension.text, dimension.low, dimension.high, dimension.log, whole
    )


def with_parameters(text: str, model: str, profile: str, values: Mapping[str, Any]) -> str:
    """Return the text of a `params.yaml` with other values of a model; all else stays as it is.

    A value goes where the profile reads it: into the model's block of the profile if that has the
    key, or if the profile is `book`, and into the model's own block otherwise.

    Args:
        text: The file.
        model: The chapter model.
        profile: The profile that the values are for.
        values: By the path of the parameter below the model.
    """
    for name, value in values.items():
        block = _child(_child(yaml.compose(text, yaml.SafeLoader), "models"), model)
        keys = name.split(".")
        own = _child(block, profile)
        if own is not None and (profile == "book" or _child(own, keys[0]) is not None):
            block = own
        elif profile == "book":
            keys = [profile, *keys]
        while len(keys) > 1 and isinstance(group := _child(block, keys[0]), yaml.MappingNode):
            block = group
            keys = keys[1:]
        inner = value
        for key in reversed(keys[1:]):
            inner = {key: inner}
        text = _replaced(text, block, keys[0], yaml_text(inner))
    return text


def _child(node: Any, key: str) -> Any:
    """Return the value of a key of a mapping; None if there is none."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return next((value for name, value in pairs if name.value == key), None)


def _replaced(text: str, block: Any, key: str, value: str) -> str:
    """Return a text with a key of a mapping set."""
    node = _child(block, key)
    if node is not None:
        return text[: node.start_mark.index] + value + text[_end(node) :]
    if block.flow_style:
        end = block.end_mark.index - 1
        comma = ", " if block.value else ""
        return f"{text[:end].rstrip()}{comma}{key}: {value}{text[end:]}"
    # Next to the other plain values, before groups and the blocks of profiles with their comments.
    plain = [value for _, value in block.value if isinstance(value, yaml.ScalarNode)]
    line = f"{' ' * block.start_mark.column}{key}: {value}\n"
    if plain:
        newline = text.find("\n", _end(plain[-1]))
        start = len(text) if newline < 0 else newline + 1
        line = line if newline >= 0 else f"\n{line}"
    else:
        start = block.start_mark.index - block.start_mark.column
    return text[:start] + line + text[start:]


def _end(node: Any) -> int:
    """Return where the text of a node ends; that of a block ends with its last value."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)
