"""`--set path=value`: a change of the configuration for one call."""

from collections.abc import Sequence
from typing import Any

import yaml

from chapterflow.errors import ConfigError
from chapterflow.settings import PROFILES, nearest


def apply_overrides(document: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set `a.b.c=value` (the value in YAML) in `document`, in place.

    An override of `models.NAME.KEY` wins over the model's profile blocks too.

    Raises:
        ConfigError: If an override is not `path=value` or leads through something not a mapping.
    """
    for override in overrides:
        path, equals, text = override.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise ConfigError(f"--set takes path=value. Received: {override!r}")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"--set {path}: the value is not valid YAML: {text!r}") from None
        for place in _places(document, keys):
            _set(place, keys, path, value)


def _places(document: dict[str, Any], keys: list[str]) -> list[dict[str, Any]]:
    """Return the documents in which an override is set: one, but for groups of a model's keys.

    A model's profile blocks win over the rest of its block, so that a parameter leaves them, and a
    key of a group (`models.gcn.beside.gin.train`) is set wherever the group stands.
    """
    models = document.get("models")
    block = models.get(keys[1]) if isinstance(models, dict) and len(keys) > 2 else None
    if keys[0] != "models" or not isinstance(block, dict):
        return [document]
    own = [block[name] for name in PROFILES if isinstance(block.get(name), dict)]
    if len(keys) == 3:
        for profile in own:
            profile.pop(keys[2], None)
        return [document]

    def leads(holder: Any) -> bool:
        for key in keys[2:-1]:
            holder = holder.get(key) if isinstance(holder, dict) else None
        return isinstance(holder, dict)

    holders = [holder for holder in (block, *own) if leads(holder)] or [block]
    return [{"models": {keys[1]: holder}} for holder in holders]


def _set(document: dict[str, Any], keys: list[str], path: str, value: Any) -> None:
    target: Any = document
    for depth, key in enumerate(keys[:-1]):
        if isinstance(target, dict) and key not in target and keys[0] == "models" and depth == 2:
            target[key] = {}  # a group of parameters that has its defaults so far
        if not isinstance(target, dict) or key not in target:
            valid = target if isinstance(target, dict) else ()
            raise ConfigError(
                f"--set {path}: unknown key {'.'.join(keys[: depth + 1])!r}."
                f"{nearest(key, map(str, valid))}"
            )
        target = target[key]
    if not isinstance(target, dict):
        raise ConfigError(f"--set {path}: {'.'.join(keys[:-1])} has no keys to set.")
    target[keys[-1]] = value
