"""Aliases changed together, and only if nobody changed them meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from chapterflow.environment import process_identity, process_is_gone
from chapterflow.errors import StoreUnavailable
from chapterflow.tracking.runs import PROCESS
from chapterflow.tracking.versions import holder

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: Seconds to wait for somebody else's change, which takes a fraction of one.
PATIENCE = 20.0


class Changed(Exception):
    """An alias does not name the version that the change was decided on.

    Attributes:
        found: Version that it names; None where it names none.
    """

    def __init__(self, found: str | None) -> None:
        super().__init__(found)
        self.found = found


def swap(
    client: MlflowClient,
    name: str,
    alias: str,
    expected: str | None,
    changes: Mapping[str, str | None],
) -> None:
    """Change aliases of a registered model in one step, if `alias` still names `expected`.

    In a database this is one transaction: readers see all of it or nothing. A tracking server has
    no such call: there the changes are made one by one, in their order, under a lock that the
    server itself keeps, so that of two at once one is too late. Order them so that whoever reads in
    between finds a true state: `previous-champion` first, `champion` next.

    Args:
        client: MLflow client.
        name: Registered model.
        alias: Alias that decides who comes first.
        expected: Version number that it must name now; None for no version.
        changes: Version number by alias; None removes it.

    Raises:
        Changed: If it names another version; nothing was changed.
        StoreUnavailable: If a change of somebody else's does not end.
    """
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

    store = client._get_registry_client().store
    if isinstance(store, SqlAlchemyStore):
        _in_one_transaction(store, name, alias, expected, changes)
        return
    with _locked(client, name):
        held = holder(client, name, alias)
        found = held.number if held else None
        if found != expected:
            raise Changed(found)
        for changed, version in changes.items():
            if version is None:
                client.delete_registered_model_alias(name, changed)
            else:
                client.set_registered_model_alias(name, changed, version)


def _in_one_transaction(
    store: Any, name: str, alias: str, expected: str | None, changes: Mapping[str, str | None]
) -> None:
    # MLflow's own tables through its own store: there is no call that changes two aliases at once.
    from mlflow.store.model_registry.dbmodels.models import (
        SqlRegisteredModel,
        SqlRegisteredModelAlias,
    )

    outdated: Changed | None = None
    with store.ManagedSessionMaker(read_only=False) as session:
        # A write first: it takes the lock, so that what is read next cannot change any more.
        now = time.time_ns() // 1_000_000
        store._get_query(session, SqlRegisteredModel).filter(
            SqlRegisteredModel.name == name
        ).update({SqlRegisteredModel.last_updated_time: now}, synchronize_session=False)
        held = store._get_registered_model_alias(session, name, alias)
        found = str(held.version) if held else None
        if found != expected:
            outdated = Changed(found)
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
    if outdated is not None:  # Raised within, MLflow would make an error of its own of it.
        raise outdated


@contextmanager
def _locked(client: MlflowClient, name: str) -> Iterator[None]:
    """Hold a registered model of a name of its own: a server makes each name once."""
    from mlflow.exceptions import MlflowException

    lock = f"{name}.changing-aliases"
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            client.create_registered_model(
                lock,
                tags={PROCESS: process_identity()},
                description="Aliases are being changed. It goes away by itself.",
            )
            break
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        if time.monotonic() > deadline:
            raise StoreUnavailable(
                f"The aliases of {name!r} must be free to change. Received: a lock that somebody "
                f"holds. If nobody does, delete the registered model {lock!r} in the MLflow UI."
            )
        try:
            owner = client.get_registered_model(lock).tags.get(PROCESS, "")
            if process_is_gone(owner):
                client.delete_registered_model(lock)
        except MlflowException:
            pass  # It went away just now.
        time.sleep(0.1)
    try:
        yield
    finally:
        client.delete_registered_model(lock)
