"""Change aliases together, and only if nobody has changed them in between."""

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

#: Seconds to wait for another process's change, which takes a fraction of a second.
PATIENCE = 20.0


class Changed(Exception):
    """An alias does not name the version that the change was decided on.

    Attributes:
        number: Version that it names; None if it names none.
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
) -> None:
    """Change aliases of a registered model in one step, if `alias` still names `expected`.

    In a database this is one transaction: readers see all of it or nothing. A tracking server has
    no such call: there the changes are made one by one, in their order, under a lock on the server,
    so that the second of two processes is refused. Order them so that a reader in between sees a
    valid state: `previous-champion` first, `champion` next.

    Args:
        client: MLflow client.
        name: Registered model.
        alias: Alias that decides who comes first.
        expected: Version number that it must name now; None for no version.
        changes: Version number by alias; None removes it.

    Raises:
        Changed: If it names another version; nothing was changed.
        StoreUnavailable: If a change by another process does not end.
    """
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

    store = client._get_registry_client().store
    if isinstance(store, SqlAlchemyStore):
        _in_one_transaction(store, name, alias, expected, changes)
        return
    with _locked(client, name):
        current = holder(client, name, alias)
        number = current.number if current else None
        if number != expected:
            raise Changed(number)
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
    if outdated is not None:  # Within the session MLflow would turn it into its own error.
        raise outdated


@contextmanager
def _locked(client: MlflowClient, name: str) -> Iterator[None]:
    """Lock the aliases by creating a registered model: a server creates each name once."""
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
                f"The aliases of {name!r} must be free to change. Received: a lock of another "
                f"process. If there is none, delete the registered model {lock!r} in the MLflow UI."
            )
        try:
            owner = client.get_registered_model(lock).tags.get(PROCESS, "")
            if process_is_gone(owner):
                client.delete_registered_model(lock)
        except MlflowException:
            pass  # The other process has just removed it.
        time.sleep(0.1)
    try:
        yield
    finally:
        client.delete_registered_model(lock)
