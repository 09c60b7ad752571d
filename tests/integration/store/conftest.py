"""The same tests as those of every store, with a PostgreSQL of our own."""

from collections.abc import Iterator

import pytest

from bridge.store.tables.store import TableStore
from tests.support.engines import PostgresEngine
from tests.support.postgres import PrivatePostgres, is_installed


@pytest.fixture
def engine(server: PrivatePostgres) -> PostgresEngine:
    return PostgresEngine(server)


@pytest.fixture
def store(engine: PostgresEngine) -> Iterator[TableStore]:
    with engine.store() as opened:
        yield opened


@pytest.fixture(scope="module")
def private() -> Iterator[PrivatePostgres]:
    """Return a server that is broken, and mended again."""
    if not is_installed():
        pytest.skip("PostgreSQL is not installed here (Debian: postgresql)")
    with PrivatePostgres() as started:
        yield started


@pytest.fixture
def own(private: PrivatePostgres) -> PostgresEngine:
    return PostgresEngine(private)
