"""The store on which the guarantee is shown: ``--store`` says which engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.store.postgres.store import StoreOptions
from bridge.store.sqlite.store import SqliteStore
from bridge.store.tables.store import TableStore
from tests.support.engines import PostgresEngine
from tests.support.world import hurried


@pytest.fixture
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[TableStore]:
    made: TableStore = SqliteStore(tmp_path / "bridge.db")
    if request.config.getoption("--store") == "postgresql":
        made = PostgresEngine(request.getfixturevalue("server"), StoreOptions(lease_seconds=600.0)).store()
    with made as opened:
        hurried(opened)
        yield opened
