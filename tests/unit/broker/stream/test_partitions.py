from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

from bridge.broker.stream.partitions import choose_partition
from bridge.model import OutboxRow, SourceName

ROW = OutboxRow(1, SourceName("hq"), 1, "id", "t", "k", b"", datetime(2026, 1, 1, tzinfo=UTC), account="anna")


def test_an_account_is_always_in_the_same_partition() -> None:
    assert len({choose_partition(replace(ROW, sequence=number, position=number), 5) for number in range(50)}) == 1


def test_accounts_are_spread() -> None:
    found = Counter(choose_partition(replace(ROW, account=f"account {number}"), 4) for number in range(1000))
    assert set(found) == {0, 1, 2, 3}
    assert min(found.values()) > 150


def test_one_partition_needs_no_thought() -> None:
    assert choose_partition(ROW, 1) == 0


def test_what_is_about_no_account_goes_by_its_source() -> None:
    assert choose_partition(replace(ROW, account=None), 7) == choose_partition(replace(ROW, account="hq"), 7)
