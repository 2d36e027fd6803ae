"""`params.yaml` -> settings: the one place that reads it, and that says what is wrong with it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from chapterflow.config.faults import cross_check, explained
from chapterflow.config.files import OWN, add_own, read_own, read_params
from chapterflow.config.overrides import apply_overrides
from chapterflow.errors import ConfigError, told
from chapterflow.models.parts.base import ModelParams
from chapterflow.models.parts.registry import FOLDER, get_model, model_names
from chapterflow.settings import PROFILES, Profile, Settings, nearest

__all__ = ["load_settings"]


def load_settings(
    path: Path,
    *,
    profile: str | None = None,
    overrides: Sequence[str] = (),
    own: Mapping[str, dict[str, Any]] | None = None,
    models: bool = True,
) -> Settings:
    """Read, override and check `params.yaml`, and the user's own datasets beside it.

    Args:
        path: The file.
        own: Own datasets and roles, in place of those of `datasets.yaml`.
        profile: Active profile, in place of the file's.
        overrides: `path=value` strings, as `--set` takes them.
        models: Whether the blocks of models are read. Who needs none of them is not stopped by one
            that is broken.

    Raises:
        ConfigError: One line for each fault, with the path of the key, the value received, and the
            nearest valid name where a name is unknown.
    """
    document = read_params(path)
    add_own(document, read_own(path.with_name(OWN)) if own is None else own)
    apply_overrides(document, overrides)
    if profile is not None:
        document["profile"] = profile
    faults: list[str] = []
    blocks = document.get("models") if models else {}
    params: dict[str, dict[Profile, ModelParams]] = {}
    if isinstance(blocks, dict):
        for name, block in blocks.items():
            params[str(name)] = _model_params(str(name), block, faults)
    elif "models" in document:
        faults.append(f"models: must be a mapping of model names. Received: {blocks!r}")
    try:
        settings = Settings.model_validate(document | {"models": params})
    except ValidationError as error:
        faults.extend(explained(error, Settings))
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
            f"{path}: there is no file chapterflow/models/{name.replace('-', '_')}.py."
            f"{nearest(name, model_names())}"
        )
        return {}
    except Exception as error:  # Whatever a file does when it is imported.
        faults.append(f"{path}: {told(error, FOLDER)}")
        return {}
    if not isinstance(block, dict):
        faults.append(f"{path}: must be a mapping of parameters. Received: {block!r}")
        return {}
    base = {key: value for key, value in block.items() if key not in PROFILES}
    resolved: dict[Profile, ModelParams] = {}
    for profile in PROFILES:
        changes = block.get(profile, {})
        if not isinstance(changes, dict):
            faults.append(f"{path}.{profile}: must be a mapping. Received: {changes!r}")
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
