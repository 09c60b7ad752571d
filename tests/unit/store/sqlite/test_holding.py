from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bridge.store.sqlite.store import SqliteStore
from tests.support.outbox import unsent
from tests.support.rows import HQ
from tests.unit.store.tables.test_outbox import add

NOW = datetime(2026, 11, 23, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(tmp_path / "bridge.db") as opened:
        yield opened


@pytest.mark.parametrize("account", ["a", "b"])
def test_a_commit_costs_no_more_however_much_is_held(store: SqliteStore, account: str) -> None:
    """Counted in steps of SQLite's machine: what is held stays for as long as an operator takes to decide."""
    add(store, HQ, "a")
    store.exchange.park(unsent(store.exchange)[0], "too large", NOW)
    steps = []
    for _ in range(2):
        steps.append(0)

        def count() -> int:
            steps[-1] += 1
            return 0

        store._db.set_progress_handler(count, 1)  # noqa: SLF001 - as above
        add(store, HQ, *[account] * 10)
        store._db.set_progress_handler(None, 0)  # noqa: SLF001 - as above
        add(store, HQ, *["a"] * 1000)
    assert steps[1] <= steps[0] + 200
