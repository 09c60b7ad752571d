import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bridge.delivery.ingest import ingest
from bridge.errors import StoreInUse, StoreUnusable
from bridge.events.normalize import Rules
from bridge.model import Cursor
from bridge.store.sqlite import backup
from bridge.store.sqlite.backup import back_up, put_back
from bridge.store.sqlite.store import SqliteStore
from tests.support.outbox import unsent
from tests.support.rows import HQ, batch, cursor, row

NOW = datetime(2026, 11, 23, tzinfo=UTC)
RULES = Rules(key=b"k")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bridge.db"


def test_a_copy_is_made_beside_a_bridge_that_writes(path: Path) -> None:
    copy = path.with_name("copy.db")
    with SqliteStore(path) as store:
        ingest(store, batch(*(row(f"a{number}", number) for number in range(500))), rules=RULES, now=NOW)
        with store.transaction() as transaction:  # in the middle of which the copy is made
            transaction.place(HQ)
            assert back_up(path, copy, NOW) == copy.stat().st_size
        ingest(store, batch(row("later", 900), since=cursor(499)), rules=RULES, now=NOW)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert sorted(file.name for file in path.parent.iterdir()) == ["bridge.db", "bridge.db.lock", "copy.db"]
    with SqliteStore(copy) as store:
        assert len(unsent(store.exchange)) == 500, "what waits is sent; the mirror begins anew"
        assert (store.place(HQ).cursor, store.count_accounts(HQ)) == (Cursor(), 0)


def test_the_original_goes_on_and_the_copy_begins_a_lineage_of_its_own(path: Path) -> None:
    with SqliteStore(path) as store:
        ingest(store, batch(row("a", 1)), rules=RULES, now=NOW)
        before = store.place(HQ).lineage
        back_up(path, path.with_name("copy.db"), NOW)
    with SqliteStore(path) as store:
        assert (store.place(HQ).lineage, store.restored) == (before, "")
    with SqliteStore(path.with_name("copy.db")) as store:
        assert store.place(HQ).lineage > before
        assert "the copy of 2026-11-23T00:00:00Z" in store.restored


def test_a_copy_in_the_place_of_a_store_leaves_nothing_of_it_beside(path: Path) -> None:
    with SqliteStore(path) as store:
        ingest(store, batch(row("a", 1)), rules=RULES, now=NOW)
        back_up(path, path.with_name("copy.db"), NOW)
        ingest(store, batch(row("b", 2), since=cursor(1)), rules=RULES, now=NOW)
    path.with_name("bridge.db-wal").write_bytes(b"left behind by a kill")
    kept = put_back(path.with_name("copy.db"), path, NOW)
    assert kept is not None
    assert kept.with_name(f"{kept.name}-wal").read_bytes() == b"left behind by a kill"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with SqliteStore(path) as store:
        assert [found.sequence for found in unsent(store.exchange)] == [1]
        assert store.restored


def test_a_copy_made_by_other_means_is_marked_when_it_is_put_back(path: Path) -> None:
    other = path.with_name("elsewhere.db")
    with SqliteStore(other) as store:
        before = store.place(HQ).lineage
    assert put_back(other, path, NOW) is None
    with SqliteStore(path) as store:
        assert store.place(HQ).lineage > before
        assert "a copy of unknown time, put back 2026-11-23T00:00:00Z" in store.restored
    with SqliteStore(other) as store:
        assert store.place(HQ).lineage == before, "the copy itself is not touched"


@pytest.mark.parametrize("step", range(12))
def test_a_restore_killed_at_any_step_is_done_once_more_or_was_never_begun(
    path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """No store ever takes itself for the newest state and is not, and nothing of the former one is lost."""
    with SqliteStore(path) as store:
        ingest(store, batch(row("a", 1)), rules=RULES, now=NOW)
        back_up(path, path.with_name("copy.db"), NOW)
    with SqliteStore(path) as store:
        ingest(store, batch(row("b", 2), since=cursor(1)), rules=RULES, now=NOW)
        lineage = store.place(HQ).lineage
    former, wal = path.read_bytes(), b"left behind by a kill, and full of news"
    path.with_name("bridge.db-wal").write_bytes(wal)
    left = step

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            return real(*args, **more)

        return call

    with monkeypatch.context() as killing:
        for name in ("unlink", "rename"):
            killing.setattr(Path, name, counted(getattr(Path, name)))
        killing.setattr(shutil, "copyfile", counted(shutil.copyfile))
        for name in ("_mark_as_copy", "_make_durable"):
            killing.setattr(backup, name, counted(getattr(backup, name)))
        with suppress(KeyboardInterrupt):
            put_back(path.with_name("copy.db"), path, NOW)
    if not path.exists():
        with pytest.raises(StoreUnusable, match=r"is missing.*run account-bridge restore once more"):
            SqliteStore(path).open()
    elif path.read_bytes() == former:
        assert path.with_name("bridge.db-wal").read_bytes() == wal, "nothing happened yet"
    if not path.exists() or path.read_bytes() == former:
        put_back(path.with_name("copy.db"), path, NOW + timedelta(seconds=1))
    with SqliteStore(path) as store:
        assert store.place(HQ).lineage > lineage
    kept = [file for file in path.parent.glob("bridge.db.before-*") if not file.name.endswith(("-wal", "-shm"))]
    assert [file.read_bytes() for file in kept] == [former]
    assert kept[0].with_name(f"{kept[0].name}-wal").read_bytes() == wal, "without it, it would be an older state"


def test_a_store_in_use_is_not_replaced(path: Path) -> None:
    with SqliteStore(path):
        back_up(path, path.with_name("copy.db"), NOW)
        with pytest.raises(StoreInUse):
            put_back(path.with_name("copy.db"), path, NOW)


def test_what_is_no_store_is_neither_copied_nor_put_back(path: Path) -> None:
    with pytest.raises(StoreUnusable, match="there is no store"):
        back_up(path, path.with_name("copy.db"), NOW)
    path.with_name("junk").write_bytes(b"junk " * 1000)
    with pytest.raises(StoreUnusable, match="damaged or no store"):
        put_back(path.with_name("junk"), path, NOW)
    path.with_name("empty").touch()
    with pytest.raises(StoreUnusable, match="no store that this version"):
        put_back(path.with_name("empty"), path, NOW)
    assert not path.exists()


def test_a_backup_overwrites_nothing_and_leaves_no_half_of_itself(path: Path) -> None:
    with SqliteStore(path):
        pass
    path.with_name("copy.db").write_text("mine")
    with pytest.raises(FileExistsError):
        back_up(path, path.with_name("copy.db"), NOW)
    assert path.with_name("copy.db").read_text() == "mine"
    with pytest.raises(StoreUnusable, match="cannot be written"):
        back_up(path, path.parent / "nowhere" / "copy.db", NOW)


def test_a_name_with_signs_in_it_is_only_a_name(path: Path) -> None:
    odd = path.with_name("a?b#c%20d e.db")
    with SqliteStore(odd) as store:
        before = store.generation
        back_up(odd, path.with_name("copy?mode=memory.db"), NOW)
    put_back(path.with_name("copy?mode=memory.db"), odd, NOW)
    with SqliteStore(odd) as store:
        assert store.generation > before
