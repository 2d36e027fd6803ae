"""What is wrong with a configuration, a line for each fault."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from chapterflow.settings import PROFILES, Settings, nearest
from chapterflow.settings.datasets import KINDS
from chapterflow.settings.promotion import EACH, ONE

TAGS = KINDS | {ONE, EACH}


def explained(
    error: ValidationError,
    root: type[BaseModel],
    prefix: str = "",
    in_block: Mapping[str, str] | None = None,
) -> list[str]:
    """Return one line for each fault of a pydantic error.

    `in_block` maps first keys to the profile block that they were written in.
    """
    lines = []
    for fault in error.errors():
        loc = [str(part) for part in fault["loc"] if part != "[key]"]
        shown = [in_block[loc[0]], *loc] if in_block and loc and loc[0] in in_block else loc
        # A discriminated union puts its tag into the location; users do not write it there.
        path = ".".join(part for part in ([prefix] if prefix else []) + shown if part not in TAGS)
        if fault["type"] == "extra_forbidden":
            valid = _fields_at(root, loc[:-1])
            lines.append(f"{path}: unknown key.{nearest(loc[-1], valid)}")
        elif fault["type"] == "missing":
            lines.append(f"{path}: missing; this key is needed.")
        elif fault["type"] == "union_tag_invalid":
            received = fault["ctx"]["tag"]
            lines.append(f"{path}.kind: unknown kind {received!r}.{nearest(received, KINDS)}")
        else:
            lines.append(f"{path}: {fault['msg'].lower()}. Received: {fault['input']!r}")
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
    """Add what one key alone cannot show: names that point nowhere, shares that leave nothing."""
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
    mirrors: dict[tuple[str, str | None], str] = {}
    for name, dataset in settings.datasets.items():
        folder = getattr(dataset, "mirror", None)
        # Sources of one archive each may share a folder.
        place = (str(folder), getattr(getattr(dataset, "file", None), "name", None))
        if folder is not None and mirrors.setdefault(place, name) != name:
            # A copied block would quietly fetch the other dataset's files.
            faults.append(
                f"datasets.{name}.mirror: {folder!r} is the folder of {mirrors[place]!r}. "
                "Leave `mirror` out for data that no mirror holds."
            )
        held_out = sum(getattr(dataset, share, None) or 0.0 for share in ("validation", "test"))
        if held_out >= 1:
            faults.append(
                f"datasets.{name}: validation and test leave nothing to train on. "
                f"Received: {held_out:g} of all examples"
            )
    low, high = settings.validation.images.mean_value
    if low >= high:
        faults.append(
            "validation.images.mean_value: must be [lowest, highest]. "
            f"Received: {settings.validation.images.mean_value!r}"
        )
