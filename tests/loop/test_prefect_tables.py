"""What a Prefect server of this project does otherwise than Prefect's own."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL, temporary_settings

from pipelines import prefect_server, prefect_tables


def create(url: str) -> None:
    with temporary_settings({PREFECT_SERVER_DATABASE_CONNECTION_URL: url}):
        prefect_tables.create_tables()


def statements(sql: str) -> list[list[str]]:
    """Return the lines of each statement in order: migrations set constraints in any."""
    each = sql.split(";\n")
    return sorted(sorted(line.strip(" \t,") for line in one.splitlines()) for one in each)


def test_the_tables_are_those_of_the_installed_prefects_migrations(tmp_path: Path) -> None:
    create(f"sqlite+aiosqlite:///{tmp_path}/prefect.db")
    made = statements(prefect_tables.dump(tmp_path / "prefect.db"))
    assert made == statements(prefect_tables.migrated()), (
        "Prefect's tables have changed: `python -m pipelines.prefect_tables` writes the file"
    )


def test_a_database_that_exists_stays(tmp_path: Path) -> None:
    path = tmp_path / "prefect.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE mine (id)")
    create(f"sqlite+aiosqlite:///{path}")
    assert "mine" in prefect_tables.dump(path)
    assert "flow_run" not in prefect_tables.dump(path)


@pytest.mark.parametrize("url", ["sqlite+aiosqlite:///:memory:", "postgresql+asyncpg://host/name"])
def test_other_databases_are_left_to_prefect(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    create(url)
    assert not list(tmp_path.iterdir())


def test_another_version_of_prefect_makes_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefect_tables, "script", lambda: tmp_path / "prefect-0.sql")
    create(f"sqlite+aiosqlite:///{tmp_path}/prefect.db")
    assert not list(tmp_path.iterdir())


def test_routers_that_flows_ask_exist() -> None:
    from prefect.server.api.server import API_ROUTERS

    assert {*prefect_server.ASKED} <= {router.prefix for router in API_ROUTERS}
