import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bridge.errors import StoreInUse, StoreUnusable
from bridge.store.sqlite.backup import back_up, put_back
from bridge.store.sqlite.files import close_to_others, open_own
from bridge.store.sqlite.lock import StoreLock
from bridge.store.sqlite.store import SqliteStore


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "kept").mkdir()
    path = tmp_path / "kept" / "bridge.db"
    with SqliteStore(path):
        pass
    return path


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", ".lock"])
def test_a_file_that_others_can_read_is_closed_to_them_with_a_sentence(store: Path, suffix: str) -> None:
    path = store.with_name(f"bridge.db{suffix}")
    path.touch()
    store.parent.chmod(0o700)
    path.chmod(0o644)
    (sentence,) = close_to_others(store)
    assert (str(path) in sentence, "644" in sentence) == (True, True)
    assert mode(path) == 0o600
    assert not close_to_others(store), "once"


def test_a_folder_of_its_own_is_closed_and_of_a_shared_one_only_writing_ends(store: Path) -> None:
    store.parent.chmod(0o755)
    assert len(close_to_others(store)) == 1
    assert mode(store.parent) == 0o700
    (store.parent / "something else").touch()
    store.parent.chmod(0o777)
    assert len(close_to_others(store)) == 1
    assert mode(store.parent) == 0o755
    store.parent.chmod(0o1777)
    assert not close_to_others(store), "like /tmp, where nobody can replace a file of ours"


def test_what_cannot_be_closed_is_said(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_ours(_path: Path, _mode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    store.chmod(0o644)
    monkeypatch.setattr(Path, "chmod", not_ours)
    assert any("cannot be closed" in sentence for sentence in close_to_others(store))


def test_where_no_store_is_yet_nothing_is_closed(tmp_path: Path) -> None:
    assert not close_to_others(tmp_path / "nowhere" / "bridge.db")


@pytest.mark.parametrize("is_dangling", [False, True])
def test_a_link_in_the_place_of_the_lock_or_a_backup_is_refused(
    tmp_path: Path, store: Path, *, is_dangling: bool
) -> None:
    """Somebody who may write to the folder must not have us write to another file of ours."""
    elsewhere = tmp_path / "elsewhere"
    if not is_dangling:
        elsewhere.write_text("precious")
    lock = store.with_name("bridge.db.lock")
    lock.unlink()
    lock.symlink_to(elsewhere)
    with pytest.raises(StoreUnusable, match="symbolic link"):
        StoreLock(store).take()
    backup = tmp_path / "backup.db"
    backup.symlink_to(elsewhere)
    with pytest.raises(StoreUnusable, match="symbolic link"):
        back_up(store, backup, datetime.now(UTC))
    assert elsewhere.exists() is not is_dangling
    assert is_dangling or elsewhere.read_text() == "precious"


def test_a_link_that_comes_at_the_last_moment_is_refused_by_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr(Path, "is_symlink", lambda _path: False)
    with pytest.raises(OSError, match="symbolic links"):
        open_own(tmp_path / "link", os.O_RDWR)


def test_a_pipe_is_no_file_and_nobody_waits_for_its_other_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreUnusable, match="no file"):
        open_own(tmp_path / "pipe", os.O_RDWR)


def test_a_store_that_is_put_away_by_a_restore_is_closed_to_others(store: Path) -> None:
    """No start closes it later: it is no file of the store any more."""
    back_up(store, store.with_name("copy.db"), datetime.now(UTC))
    store.chmod(0o644)
    kept = put_back(store.with_name("copy.db"), store, datetime.now(UTC))
    assert kept is not None
    assert (mode(kept), mode(store)) == (0o600, 0o600)


def test_a_store_that_is_reached_by_a_link_has_the_lock_of_the_file(store: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(store)
    with SqliteStore(store), pytest.raises(StoreInUse), SqliteStore(link):
        pass
    with SqliteStore(link), pytest.raises(StoreInUse), SqliteStore(store):
        pass
