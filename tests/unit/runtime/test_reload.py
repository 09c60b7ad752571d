from pathlib import Path

import pytest

from bridge.runtime.reload import compare
from bridge.runtime.reloaded import Reloaded
from tests.support.settings import load

HEAD = '[rabbitmq]\nurl = "amqp://bridge:br0ker-s3cret@broker/"\n'


def pbx(name: str, more: str = "", password: str = "pl4nted-s3cret") -> str:  # noqa: S107 - made up
    return f'[[pbx]]\nname = "{name}"\nurl = "wss://{name}"\napp = "a"\npassword = "{password}"\n{more}\n'


def compared(tmp_path: Path, before: str, after: str) -> Reloaded:
    return compare(load({}, HEAD + before, tmp_path), load({}, HEAD + after, tmp_path))


def test_pbxs_are_known_by_their_names_wherever_they_stand(tmp_path: Path) -> None:
    assert compared(tmp_path, pbx("a") + pbx("b"), pbx("b") + pbx("a")) == Reloaded([], [], [], [], [])
    assert compared(tmp_path, pbx("a") + pbx("b"), pbx("c") + pbx("a")) == Reloaded(["c"], ["b"], [], [], [])


@pytest.mark.parametrize("changed", [pbx("a", "ask_ahead = 7"), pbx("a", password="another-s3cret")])
def test_a_pbx_of_which_anything_differs_is_connected_anew(tmp_path: Path, changed: str) -> None:
    assert compared(tmp_path, pbx("a"), changed) == Reloaded([], [], ["a"], [], [])


def test_other_keys_are_named_and_what_they_say_is_not(tmp_path: Path) -> None:
    more = (
        '[walk]\nnightly_at = "03:30"\nmax_at_once = 3\n[publish]\nmask = ["numbers"]\n[[subscriber]]\nqueue = "q"\n'
        '[listen]\nhost = "127.0.0.1"\n[[listen.app]]\nname = "x"\npassword = "pl4nted-s3cret"\n'
    )
    done = compared(tmp_path, pbx("a"), pbx("a") + more)
    assert sorted(done.needs_restart) == ["listen", "publish.mask", "subscriber", "walk.max_at_once", "walk.nightly_at"]
    told = list(done.sentences())
    assert told[0] == "no PBX was added, removed or changed"
    assert not any(value in told[1] for value in ("03:30", "s3cret", "numbers"))


def test_what_was_done_is_told_by_name() -> None:
    told = Reloaded(["a", "b"], ["c"], ["d"], ["e.toml: no"], ["log.level"]).sentences()
    assert list(told) == [
        "added: a, b",
        "removed: c",
        "changed: d",
        "not taken over: e.toml: no",
        "changed, and needs a restart of the bridge: log.level",
    ]
