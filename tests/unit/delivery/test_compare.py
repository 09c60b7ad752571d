"""Whether a row is what the mirror says, against a real SQLite file."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bridge.delivery.compare import agrees
from bridge.delivery.ingest import ingest
from bridge.events.normalize import Rules
from bridge.model import Row, SourceName
from bridge.store.sqlite.store import SqliteStore
from tests.support.rows import HQ, batch, row

RULES = Rules(key=b"k" * 32)
KNOWN = row("b", 7)
GONE = row("c", 8, is_deleted=True)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(tmp_path / "bridge.db") as opened:
        rows = (row("c", 6), KNOWN, GONE)
        ingest(opened, batch(*rows), rules=RULES, now=datetime(2026, 11, 23, tzinfo=UTC))
        yield opened


@pytest.mark.parametrize(
    ("told", "verdict"),
    [
        pytest.param(KNOWN, "known", id="just as it is known"),
        pytest.param(row("b", 7, pwd="other"), "known", id="what nobody is told differs"),
        pytest.param(row("b", 7, dn="other"), "neither", id="other content with the same numbers"),
        pytest.param(row("b", 7, is_deleted=True), "neither", id="deleted under the same numbers"),
        pytest.param(row("b", 9, dn="other"), "news", id="news of a known account"),
        pytest.param(row("a", 7), "news", id="another account with the same numbers"),
        pytest.param(row("a", 9), "news", id="an account nobody knew"),
        pytest.param(GONE, "known", id="a deletion that is known"),
        pytest.param(row("c", 8), "neither", id="there again under the numbers of its deletion"),
    ],
)
def test_a_row_is_what_is_known_or_news_or_a_contradiction(store: SqliteStore, told: Row, verdict: str) -> None:
    assert agrees(store, HQ, told, is_news=False, rules=RULES) == (verdict == "known")
    assert agrees(store, HQ, told, is_news=True, rules=RULES) == (verdict == "news")
    assert store.place(HQ).cursor == GONE.cursor, "and nothing moves"


def test_of_a_source_nobody_knows_everything_is_news(store: SqliteStore) -> None:
    other = SourceName("other")
    assert agrees(store, other, KNOWN, is_news=True, rules=RULES)
    assert not agrees(store, other, KNOWN, is_news=False, rules=RULES)
