"""Change aliases and tags at once, but only if nobody else changed the alias in the meantime."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from chapterflow.environment import process_identity, process_is_gone
from chapterflow.errors import StoreUnavailable
from chapterflow.tracking.reader import refusals
from chapterflow.tracking.runs import PROCESS
from chapterflow.tracking.versions import holder

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: Value of a tag by version number and key; None removes the tag.
Tags = Mapping[str, Mapping[str, str | None]]
#: Seconds to wait for a change by another process, which takes a fraction of a second.
PATIENCE = 20.0


class Changed(Exception):
    """An alias no longer names the version that the decision was based on.

    Attributes:
        number: Version that it names now; None if it names none.
    """

    def __init__(self, number: str | None) -> None:
        super().__init__(number)
        self.number = number


def swap(
    client: MlflowClient,
    name: str,
    alias: str,
    expected: str | None,
    changes: Mapping[str, str | None],
    tags: Tags | None = None,
) -> None:
    """Change a registered model's aliases and versions in one step, if `alias` names `expected`.

    In a database, all changes are one transaction. A tracking server has no such call: there, they
    are made one by one, tags first, then aliases in the given order, under a lock on the server,
    so only one of two processes succeeds. The order must keep every intermediate state valid:
    `previous-champion` first, then `champion`.

    Args:
        client: MLflow client.
        name: Registered model.
        alias: Alias that is compared with `expected`.
        expected: Version number that it must name; None for no version.
        changes: Version number by alias; None removes it.
        tags: Tags of versions; None removes a tag.

    Raises:
        Changed: If it names another version; nothing was changed.
        StoreUnavailable: If another process keeps the lock.
    """
    if is_transactional(client):
        store = client._get_registry_client().store
        _in_one_transaction(store, name, alias, expected, changes, tags or {})
        return
    with _locked(client, name):
        current = holder(client, name, alias)
        number = current.number if current else None
        if number != expected:
            raise Changed(number)
        _apply(client, name, changes, tags or {})


def is_transactional(client: MlflowClient) -> bool:
    """Tell whether `swap` is one transaction here, so a killed process leaves all of it or none."""
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

    return isinstance(client._get_registry_client().store, SqlAlchemyStore)


def put(client: MlflowClient, name: str, changes: Mapping[str, str | None], tags: Tags) -> None:
    """Change aliases and tags whatever they are: completes or undoes a half-made `swap`."""
    with _locked(client, name):
        _apply(client, name, changes, tags)


def _apply(client: MlflowClient, name: str, changes: Mapping[str, str | None], tags: Tags) -> None:
    for number, values in tags.items():
        present = client.get_model_version(name, number).tags
        for key, value in values.items():
            if value is not None:
                client.set_model_version_tag(name, number, key, value)
            elif key in present:
                client.delete_model_version_tag(name, number, key)
    for changed, version in changes.items():
        if version is None:
            client.delete_registered_model_alias(name, changed)
        else:
            client.set_registered_model_alias(name, changed, version)


def _in_one_transaction(
    store: Any,
    name: str,
    alias: str,
    expected: str | None,
    changes: Mapping[str, str | None],
    tags: Tags,
) -> None:
    # MLflow has no call that changes two aliases at once, so this uses the tables of its store.
    from mlflow.store.model_registry.dbmodels.models import (
        SqlModelVersionTag,
        SqlRegisteredModel,
        SqlRegisteredModelAlias,
    )

    outdated: Changed | None = None
    with store.ManagedSessionMaker(read_only=False) as session:
        # Writing first takes the lock, so the alias cannot change after it is read.
        now = time.time_ns() // 1_000_000
        store._get_query(session, SqlRegisteredModel).filter(
            SqlRegisteredModel.name == name
        ).update({SqlRegisteredModel.last_updated_time: now}, synchronize_session=False)
        current = store._get_registered_model_alias(session, name, alias)
        number = str(current.version) if current else None
        if number != expected:
            outdated = Changed(number)
        else:
            workspace = store._get_registered_model(session, name).workspace
            for changed, version in changes.items():
                if version is not None:
                    session.merge(
                        SqlRegisteredModelAlias(
                            workspace=workspace, name=name, alias=changed, version=int(version)
                        )
                    )
                elif (row := store._get_registered_model_alias(session, name, changed)) is not None:
                    session.delete(row)
            for version, values in tags.items():
                about = {"workspace": workspace, "name": name, "version": int(version)}
                for key, value in values.items():
                    if value is not None:
                        session.merge(SqlModelVersionTag(**about, key=key, value=value))
                    elif row := store._get_model_version_tag(session, name, version, key):
                        session.delete(row)
    if outdated is not None:  # Inside the session, MLflow would replace it with its own error.
        raise outdated


@contextmanager
def _locked(client: MlflowClient, name: str) -> Iterator[None]:
    """Lock the aliases by creating a registered model, which a server does only once per name."""
    lock = f"{name}.changing-aliases"
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            client.create_registered_model(
                lock,
                tags={PROCESS: process_identity()},
                description="Lock while aliases change; removed automatically.",
            )
            break
        except refusals() as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        if time.monotonic() > deadline:
            raise StoreUnavailable(
                f"The aliases of {name!r} must not be locked. Received: a lock by another process. "
                f"If no other process runs, delete the registered model {lock!r} in the MLflow UI."
            )
        try:
            owner = client.get_registered_model(lock).tags.get(PROCESS, "")
            if process_is_gone(owner):
                client.delete_registered_model(lock)
        except refusals():
            pass  # The other process has just removed its lock; the next turn takes it.
        time.sleep(0.1)
    try:
        yield
    finally:
        client.delete_registered_model(lock)
