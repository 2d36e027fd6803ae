"""Read, override and check `params.yaml` and `datasets.yaml`."""

import copy
import functools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from chapterflow.config.settings import EACH, ONE, PROFILES, Profile, Settings
from chapterflow.data.source import get_source, source_names
from chapterflow.errors import ConfigError, DataError, describe, nearest
from chapterflow.files import open_regular
from chapterflow.kinds.dataset import get_kind
from chapterflow.models.base import ModelParams
from chapterflow.models.catalog import FOLDER, get_model, model_names

#: File of the user's own datasets: `chapterflow data add` writes it, and git tracks it.
OWN = "datasets.yaml"


#: Bounds of a YAML text, far above any that a person writes: bytes, and values once its aliases
#: are followed, which can stand for more than the memory holds.
MAX_BYTES, MAX_VALUES = 1 << 20, 100_000
#: Bits of a number; Python writes longer ones only after its limit on digits has been changed.
MAX_BITS = 128
#: Characters of a received value in a message.
LENGTH = 200


class _Loader(yaml.SafeLoader):
    """Refuse duplicate keys, which YAML would silently resolve to the last, and damaged values."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        pairs = node.value if isinstance(node, yaml.MappingNode) else []  # `!!set [a]` is none.
        for key_node, _ in pairs:
            key = self.construct_object(key_node, deep=True)
            try:
                duplicate = key in seen
                seen.add(key)
            except TypeError:
                continue  # Reported by the class above.
            if duplicate:
                line = key_node.start_mark.line + 1
                name = Path(node.start_mark.name).name
                raise ConfigError(f"{name}, line {line}: duplicate key {shown(key)}.")
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        # What the constructors of numbers, dates and others raise for text that is none.
        except (ValueError, KeyError, AttributeError, TypeError, OverflowError, IndexError):
            tag = node.tag.rpartition(":")[2]
            value = None
        else:
            tag = ""
            if isinstance(value, int) and value.bit_length() > MAX_BITS:
                tag = f"number of {MAX_BITS} bits or fewer"
        if tag:
            problem = f"{shown(node.value)} is no valid {tag}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return value


def parse_yaml(text: str, name: str) -> Any:
    """Return what a YAML text of bounded size holds: null, text, numbers, dates, lists, mappings.

    Args:
        name: Where the text comes from, for messages.

    Raises:
        ConfigError: If it is not valid YAML, has duplicate keys, or is too large or too deep.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{name}: must have at most {MAX_BYTES:,} characters. Received: more")
    loader = None
    try:
        loader = _Loader(text)
        loader.name = name  # Errors name it.
        document = loader.get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None)
        raise ConfigError(
            f"{name}{where}: not valid YAML: {problem or 'cannot be parsed'}."
        ) from None
    except ValueError as error:
        # The scanner converts the version of a `%YAML` directive, however many digits it has.
        reason = str(error).partition(";")[0]
        raise ConfigError(f"{name}: not valid YAML: {reason}.") from None
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply. Received: hundreds of levels") from None
    finally:
        if loader is not None:
            loader.dispose()
    waiting, count = [document], 0
    while waiting:
        value = waiting.pop()
        count += 1
        if isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list | tuple | set):
            waiting += value
        if count + len(waiting) > MAX_VALUES:
            raise ConfigError(
                f"{name}: must hold at most {MAX_VALUES:,} values. Received: more (an alias, "
                "`*name`, counts as what it stands for)"
            )
    return document


#: A command reads the same files many times, and parsing takes most of each time.
_parsed = functools.lru_cache(maxsize=4)(parse_yaml)


def shown(value: Any) -> str:
    """Return a received value for a message, cut to a length that a person reads."""
    text = repr(value)
    return text if len(text) <= LENGTH else f"{text[:LENGTH]}..."


def read_params(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds.

    Raises:
        ConfigError: If the file cannot be read, is empty, or is not a YAML mapping.
    """
    try:
        with open_regular(path) as file:
            text = file.read(MAX_BYTES + 1).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError, DataError) as error:
        raise ConfigError(f"{path.name} cannot be read: {error}") from None
    document = copy.deepcopy(_parsed(text, path.name))
    if document is None:
        raise ConfigError(f"{path.name} is empty. `git checkout {path.name}` restores it.")
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
            raise ConfigError(f"{path.name}: unknown key {shown(key)}.{nearest(key, own)}")
        if not isinstance(blocks, dict):
            raise ConfigError(f"{path.name}: {key} must be a mapping. Received: {shown(blocks)}")
        own[key] = blocks
    return own


def add_own(document: dict[str, Any], own: Mapping[str, dict[str, Any]]) -> None:
    """Add the user's own datasets and their roles to the document of `params.yaml`.

    Raises:
        ConfigError: If a name is taken, or a role unknown.
    """
    datasets, roles = document.get("datasets"), document.get("roles")
    if not isinstance(datasets, dict) or not isinstance(roles, dict):
        return  # Reported with the other faults of params.yaml.
    for name, block in own["datasets"].items():
        if name in datasets:
            raise ConfigError(
                f"datasets.yaml: the dataset {name!r} is in params.yaml too. Rename one."
            )
        datasets[name] = block
    for role, by_profile in own["roles"].items():
        if not isinstance(roles.get(role), dict) or not isinstance(by_profile, dict):
            raise ConfigError(
                f"datasets.yaml: roles.{role} must be a role of params.yaml, with a dataset for a "
                f"profile.{nearest(role, map(str, roles))}"
            )
        roles[role] = roles[role] | by_profile


def apply_overrides(document: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set `a.b.c=value` (the value in YAML) in `document`.

    An override of `models.NAME.KEY` wins over the model's profile blocks too.

    Raises:
        ConfigError: If an override is not `path=value` or leads through something not a mapping.
    """
    for override in overrides:
        path, equals, text = override.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise ConfigError(f"--set takes path=value. Received: {shown(override)}")
        value = parse_yaml(text, f"--set {path[:LENGTH]}")
        for place in _places(document, keys):
            _set(place, keys, path, value)


def _places(document: dict[str, Any], keys: list[str]) -> list[dict[str, Any]]:
    """Return the mappings in which to set an override: one, except for groups of a model's keys.

    A model's profile blocks win over the rest of its block, so a parameter is removed from them,
    and a key of a group (`models.gcn.beside.gin.train`) is set wherever the group occurs.
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


TAGS = {*source_names(), ONE, EACH}


def explained(
    error: ValidationError,
    root: type[BaseModel],
    prefix: str = "",
    in_block: Mapping[str, str] | None = None,
    own: Collection[str] = (),
) -> list[str]:
    """Return one line for each fault of a pydantic error.

    Args:
        error: The error.
        root: Class of the record.
        prefix: Place of the record in `params.yaml`; empty for all of it.
        in_block: By first key, the profile block that it was written in.
        own: Datasets that `datasets.yaml` defines.
    """
    lines = []
    for fault in error.errors():
        loc = [str(part) for part in fault["loc"] if part != "[key]"]
        keys = [in_block[loc[0]], *loc] if in_block and loc and loc[0] in in_block else loc
        # A discriminated union puts its tag into the location; users do not write it there.
        path = ".".join(part for part in ([prefix] if prefix else []) + keys if part not in TAGS)
        if fault["type"] == "extra_forbidden":
            valid = _fields_at(root, loc[:-1])
            lines.append(f"{path}: unknown key.{nearest(loc[-1], valid)}")
        elif fault["type"] == "missing":
            file = OWN if loc[0] == "datasets" and loc[1:2] and loc[1] in own else "params.yaml"
            block = path.rpartition(".")[0].replace(".", ": ")
            place = f"below `{block}:` in {file}" if block else f"to {file}"
            keys_below = ", ".join(_fields_at(root, loc))
            content = f", with the keys {keys_below}" if keys_below else ""
            line = f"{path}: missing. Add `{loc[-1]}:` {place}{content}"
            if path.startswith("validation."):
                line += f", or defaults to {get_kind(loc[1]).bounds.__name__}"
            lines.append(f"{line}.")
        elif fault["type"] == "union_tag_not_found":
            sources = ", ".join(source_names())
            lines.append(f"{path}.kind: missing. Add `kind:`, which names the source: {sources}.")
        elif fault["type"] == "union_tag_invalid":
            received = fault["ctx"]["tag"]
            lines.append(
                f"{path}.kind: unknown source {received!r}.{nearest(received, source_names())}"
            )
        else:
            lines.append(f"{path}: {fault['msg'].lower()}. Received: {shown(fault['input'])}")
    return lines


def _fields_at(root: type[BaseModel], loc: Sequence[str]) -> list[str]:
    """Return the keys that are valid at a location below a settings class."""
    schema = TypeAdapter(root).json_schema()
    node: Any = schema
    for part in loc:
        node = _dereference(schema, node)
        if "properties" in node and part in node["properties"]:
            node = node["properties"][part]
        elif "discriminator" in node:
            node = {"$ref": node["discriminator"]["mapping"].get(part, "")}
        else:
            patterns = node.get("patternProperties") or {}
            node = node.get("additionalProperties") or next(iter(patterns.values()), {})
    return sorted(_dereference(schema, node).get("properties", {}))


def _dereference(schema: Any, node: Any) -> Any:
    while isinstance(node, dict) and "$ref" in node:
        node = schema["$defs"].get(node["$ref"].rpartition("/")[2], {})
    return node if isinstance(node, dict) else {}


def cross_check(settings: Settings, faults: list[str]) -> None:
    """Add the faults of several keys together: unknown names, shares that leave nothing."""
    for role, datasets in settings.roles.items():
        for profile in PROFILES:
            if profile not in datasets:
                faults.append(f"roles.{role}: names no dataset for the profile {profile!r}.")
            elif datasets[profile] not in settings.datasets:
                faults.append(
                    f"roles.{role}.{profile}: unknown dataset {datasets[profile]!r}."
                    f"{nearest(datasets[profile], settings.datasets)}"
                )
    for name, profiles in settings.models.items():
        for params in profiles.values():
            for role in params.roles():
                fault = f"models.{name}.role: unknown role {role!r}.{nearest(role, settings.roles)}"
                if role not in settings.roles and fault not in faults:
                    faults.append(fault)
    _check_thresholds(settings, faults)
    _check_accepted(settings, faults)
    mirrors: dict[tuple[str, str | None], str] = {}
    for name, dataset in settings.datasets.items():
        folder = getattr(dataset, "mirror", None)
        # Sources of one archive each may share a folder.
        place = (str(folder), getattr(getattr(dataset, "file", None), "name", None))
        if folder is not None and mirrors.setdefault(place, name) != name:
            # A copied block would silently fetch the other dataset's files.
            faults.append(
                f"datasets.{name}.mirror: {folder!r} is the folder of {mirrors[place]!r}. "
                "Omit `mirror` for data that no mirror has."
            )
        held_out = sum(getattr(dataset, share, None) or 0.0 for share in ("validation", "test"))
        if held_out >= 1:
            faults.append(
                f"datasets.{name}: validation and test leave nothing to train on. "
                f"Received: {held_out:g} of all examples"
            )


def _check_thresholds(settings: Settings, faults: list[str]) -> None:
    """Add a fault for each threshold of an unknown role: no gate would ever read it."""
    for name, thresholds in settings.promotion:
        for role in thresholds if isinstance(thresholds, dict) else ():
            if role not in settings.roles:
                faults.append(
                    f"promotion.{name}.{role}: unknown role.{nearest(role, settings.roles)}"
                )


def _check_accepted(settings: Settings, faults: list[str]) -> None:
    """Add a fault for each accepted bound of a dataset that its kind of data does not have."""
    for name, dataset in settings.datasets.items():
        accepted = getattr(dataset, "accept", None)
        if accepted:
            bounds = settings.validation.bounds(get_source(dataset.kind).gives)
            try:
                type(bounds).model_validate(bounds.model_dump() | accepted)
            except ValidationError as error:
                faults.extend(explained(error, type(bounds), f"datasets.{name}.accept"))


def check_embedded(document: Mapping[str, Any], faults: list[str]) -> None:
    """Add a fault for each role whose embedded dataset has another name: `dvc.yaml` relies on it.

    Overrides are for one call, which DVC does not see, so they may differ.
    """
    roles = document.get("roles")
    for role, datasets in roles.items() if isinstance(roles, dict) else ():
        embedded = datasets.get("embedded", role) if isinstance(datasets, dict) else role
        if embedded != role:
            faults.append(
                f"roles.{role}.embedded: must be {role!r}, because `dvc.yaml` finds the dataset by "
                f"the name of its role. Received: {embedded!r}. Rename the role or the dataset; "
                "`--data` and `--set` choose another dataset for one call."
            )


def load_settings(
    path: Path,
    *,
    profile: str | None = None,
    overrides: Sequence[str] = (),
    own: Mapping[str, dict[str, Any]] | None = None,
    models: bool = True,
) -> Settings:
    """Read, override and check `params.yaml` and the user's own datasets.

    Args:
        path: The file.
        own: Own datasets and roles, instead of those in `datasets.yaml`.
        profile: Active profile, instead of the file's.
        overrides: `path=value` strings, as `--set` takes them.
        models: Whether to read the blocks of models; without, a broken model file does no harm.

    Raises:
        ConfigError: One line for each fault, with the path of the key, the value received, and the
            nearest valid name for an unknown one.
    """
    document = read_params(path)
    own = read_own(path.with_name(OWN)) if own is None else own
    add_own(document, own)
    faults: list[str] = []
    check_embedded(document, faults)
    apply_overrides(document, overrides)
    if profile is not None:
        document["profile"] = profile
    blocks = document.get("models") if models else {}
    params: dict[str, dict[Profile, ModelParams]] = {}
    if isinstance(blocks, dict):
        for name, block in blocks.items():
            params[str(name)] = _model_params(str(name), block, faults)
    elif "models" in document:
        faults.append(f"models: must be a mapping of model names. Received: {shown(blocks)}")
    try:
        settings = Settings.model_validate(document | {"models": params})
    except ValidationError as error:
        faults.extend(explained(error, Settings, own=own["datasets"]))
        raise ConfigError("\n".join(faults)) from None
    # The best model of a role is registered under the role's name.
    faults.extend(
        f"models.{name}: {name!r} is the name of a role too. Rename one."
        for name in settings.models.keys() & settings.roles.keys()
    )
    cross_check(settings, faults)
    if faults:
        raise ConfigError("\n".join(faults))
    return settings


def _model_params(name: str, block: Any, faults: list[str]) -> dict[Profile, ModelParams]:
    path = f"models.{name}"
    try:
        params_class: type[ModelParams] = get_model(name).params
    except KeyError:
        faults.append(
            f"{path}: there is no file chapterflow/models/{name.replace('-', '_')}.py, and no "
            f"entry point {name!r} of the group chapterflow.models."
            f"{nearest(name, model_names())}"
        )
        return {}
    except Exception as error:  # A file may raise anything when it is imported.
        faults.append(f"{path}: {describe(error, FOLDER)}")
        return {}
    if not isinstance(block, dict):
        faults.append(f"{path}: must be a mapping of parameters. Received: {shown(block)}")
        return {}
    base = {key: value for key, value in block.items() if key not in PROFILES}
    resolved: dict[Profile, ModelParams] = {}
    for profile in PROFILES:
        changes = block.get(profile, {})
        if not isinstance(changes, dict):
            faults.append(f"{path}.{profile}: must be a mapping. Received: {shown(changes)}")
            continue
        try:
            params = params_class.model_validate(base | changes)
        except ValidationError as error:
            for fault in explained(error, params_class, path, dict.fromkeys(changes, profile)):
                if fault not in faults:
                    faults.append(fault)
            continue
        resolved[profile] = params
        for variant in params.beside:
            try:
                params.variant(variant)
            except ValidationError as error:
                place = f"{path}.beside.{variant}.change"
                faults.extend(f for f in explained(error, params_class, place) if f not in faults)
    return resolved
