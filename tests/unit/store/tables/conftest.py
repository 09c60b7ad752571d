"""What every store has to do, done by SQLite; ``tests/integration/store`` does it with PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.store.tables.store import TableStore
from tests.support.engines import Engine, SqliteEngine


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return SqliteEngine(tmp_path)


@pytest.fixture
def store(engine: Engine) -> Iterator[TableStore]:
    with engine.store() as opened:
        yield opened
