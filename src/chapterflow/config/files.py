"""The files of a configuration, as mappings: `params.yaml`, and `datasets.yaml` beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from chapterflow.errors import ConfigError
from chapterflow.settings import nearest

#: The user's own datasets, beside params.yaml: `chapterflow data add` writes it, and git tracks it.
OWN = "datasets.yaml"


class _NoDuplicates(yaml.SafeLoader):
    """YAML lets a later key silently replace an earlier one; a configuration must not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for position, key in enumerate(keys):
            if key in keys[:position]:
                line = node.value[position][0].start_mark.line + 1
                name = Path(node.start_mark.name).name
                raise ConfigError(f"{name}, line {line}: the key {key!r} stands twice.")
        return super().construct_mapping(node, deep)


def read_params(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds.

    Raises:
        ConfigError: If the file cannot be read, is empty, or is not a YAML mapping.
    """
    try:
        with path.open(encoding="utf-8") as file:  # It names itself in what the loader raises.
            document = yaml.load(file, Loader=_NoDuplicates)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise ConfigError(f"{path.name}{where}: not valid YAML: {problem}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name} cannot be read: {error}") from None
    if document is None:
        raise ConfigError(f"{path.name} is empty. `git checkout {path.name}` brings it back.")
    if not isinstance(document, dict):
        raise ConfigError(
            f"{path.name} must hold a mapping of keys to values. "
            f"Received: {type(document).__name__}"
        )
    return document


def read_own(path: Path) -> dict[str, dict[str, Any]]:
    """Return the user's own datasets, and the roles that they fill, from `datasets.yaml`.

    Args:
        path: The file; `{"datasets": {}, "roles": {}}` where there is none.

    Raises:
        ConfigError: If it holds anything else.
    """
    own: dict[str, dict[str, Any]] = {"datasets": {}, "roles": {}}
    if not path.exists():
        return own
    for key, blocks in read_params(path).items():
        if key not in own:
            raise ConfigError(f"{path.name}: unknown key {key!r}.{nearest(key, own)}")
        if not isinstance(blocks, dict):
            raise ConfigError(f"{path.name}: {key} must be a mapping. Received: {blocks!r}")
        own[key] = blocks
    return own


def add_own(document: dict[str, Any], own: Mapping[str, dict[str, Any]]) -> None:
    """Add the user's own datasets to `params.yaml`'s, in place; let them fill their roles.

    Raises:
        ConfigError: If a name is taken, or a role unknown.
    """
    datasets, roles = document.get("datasets"), document.get("roles")
    if not isinstance(datasets, dict) or not isinstance(roles, dict):
        return  # Faults of params.yaml, which are told with its others.
    for name, block in own["datasets"].items():
        if name in datasets:
            raise ConfigError(
                f"datasets.yaml: the dataset {name!r} stands in params.yaml too. Rename one."
            )
        datasets[name] = block
    for role, by_profile in own["roles"].items():
        if not isinstance(roles.get(role), dict) or not isinstance(by_profile, dict):
            raise ConfigError(
                f"datasets.yaml: roles.{role} must be a role of params.yaml, with a dataset for a "
                f"profile.{nearest(role, map(str, roles))}"
            )
        roles[role] = roles[role] | by_profile
