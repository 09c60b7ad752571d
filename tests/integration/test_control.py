import asyncio
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
import structlog
from structlog.testing import capture_logs

from bridge.clock import steady
from bridge.delivery.leaving import Retired
from bridge.errors import BadConfig, BridgeError, NobodyAnswers
from bridge.model import AccountGuid, SourceName
from bridge.observability.component_status import ComponentStatus, Level
from bridge.observability.source_status import LastChange, SourceStatus
from bridge.observability.status import BridgeStatus, ListenerStatus
from bridge.ops.control_socket import ask, serve
from bridge.store.places import SqlitePlace
from bridge.store.records import Forgotten, InboundPbx, Parked

NOW = datetime(2026, 11, 24, tzinfo=UTC)
BODY = orjson.dumps({"subject": "a1", "data": {"account": {"display_name": "Erika", "emails": ["erika@example.com"]}}})


def board() -> BridgeStatus:
    made = BridgeStatus("0.1.0", NOW, ComponentStatus(NOW), {"hq": SourceStatus(NOW)}, steady=steady)
    made.broker.set_doing("connected", Level.OK, NOW)
    return made


@dataclass
class Told:
    """A bridge that writes down what it is told."""

    board: BridgeStatus = field(default_factory=board)
    heard: list[tuple[object, ...]] = field(default_factory=list)

    async def walk(self, name: SourceName, *, accept_deletions: bool) -> bool:
        self.heard.append(("resync", name, accept_deletions))
        return name == "hq"

    async def pause(self, name: SourceName, reason: str) -> bool:
        self.heard.append(("pause", name, reason))
        return name == "hq"

    async def resume(self, name: SourceName) -> bool:
        self.heard.append(("resume", name))
        return name == "hq" and self.heard.count(("resume", name)) == 1

    async def admit(self, name: SourceName) -> bool:
        self.heard.append(("admit", name))
        return name == "hq"

    async def forget(self, guid: AccountGuid) -> Forgotten:
        self.heard.append(("forget", guid))
        return Forgotten(1, 2, [], 0)

    async def retire(self, name: SourceName, *, tells_deletions: bool) -> Retired:
        if name == "hq":
            raise BridgeError("hq is followed")
        self.heard.append(("retire", name, tells_deletions))
        return Retired(3, is_gone=False)

    async def parked(self) -> Sequence[Parked]:
        return [Parked(7, SourceName("hq"), 3, "id-3", "hq.account.created", BODY, NOW, NOW, "too large", 2)]

    async def retry(self, position: int) -> bool:
        self.heard.append(("retry", position))
        return position == 7

    async def discard(self, position: int, reason: str) -> bool:
        self.heard.append(("discard", position, reason))
        return position == 7


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return SqlitePlace(tmp_path / "bridge.db").socket


async def test_a_running_bridge_does_what_it_is_told_and_says_so(path: Path) -> None:
    bridge = Told()
    async with serve(bridge, path):
        assert b"a full walk begins" in await ask(path, "POST", "/resync/hq", accept_deletions="yes")
        assert b"sent once more" in await ask(path, "POST", "/parked/7/retry")
        assert b"is discarded" in await ask(path, "POST", "/parked/7/discard", reason="nobody needs it & more")
        assert orjson.loads(await ask(path, "GET", "/status"))["sources"]["hq"]["doing"] == "starting"
    assert bridge.heard == [("resync", "hq", True), ("retry", 7), ("discard", 7, "nobody needs it & more")]


async def test_a_refusal_comes_with_the_words_of_the_bridge(path: Path) -> None:
    async with serve(Told(), path):
        with pytest.raises(BridgeError, match="no PBX of this bridge is called 'no'; there is hq"):
            await ask(path, "POST", "/resync/no")
        for decision in ("retry", "discard"):
            with pytest.raises(BridgeError, match="no event is parked at position 8"):
                await ask(path, "POST", f"/parked/8/{decision}", reason="why")


async def test_a_pbx_is_retired_with_or_without_a_word_and_not_while_it_is_followed(path: Path) -> None:
    bridge = Told()
    async with serve(bridge, path):
        done = orjson.loads(await ask(path, "POST", "/retire/branch", deletions="tell"))
        assert done == {"told": 3, "is_gone": False}
        await ask(path, "POST", "/retire/branch")
        with pytest.raises(BridgeError, match="hq is followed"):
            await ask(path, "POST", "/retire/hq")
    assert bridge.heard == [("retire", "branch", True), ("retire", "branch", False)]


async def test_of_a_parked_event_only_what_an_operator_needs_is_told(path: Path) -> None:
    async with serve(Told(), path):
        (told,) = orjson.loads(await ask(path, "GET", "/parked"))
    assert (told["position"], told["name"], told["reason"], told["waiting"]) == (7, "Erika", "too large", 2)
    assert "example.com" not in str(told)


async def test_while_a_recording_is_written_down_everything_else_goes_on(path: Path) -> None:
    """A thousand frames take half a second; of a thousand PBXs that is longer than any of them waits for a word."""
    bridge, has_gone_on = Told(), threading.Event()
    loop = asyncio.get_running_loop()

    def lines() -> Iterator[str]:
        loop.call_soon_threadsafe(has_gone_on.set)
        yield f"{has_gone_on.wait(5.0)}"

    bridge.board.sources[SourceName("hq")].recording = lines
    bridge.board.sources[SourceName("branch")] = SourceStatus(NOW)
    async with serve(bridge, path):
        assert orjson.loads(await ask(path, "GET", "/recordings")) == ["hq"]
        assert await ask(path, "GET", "/recordings/hq") == b"True"
        for name in ("branch", "nobody"):
            with pytest.raises(BridgeError, match=f"nothing that {name} said is kept"):
                await ask(path, "GET", f"/recordings/{name}")


async def test_only_the_user_of_the_bridge_can_open_the_socket(path: Path) -> None:
    async with serve(Told(), path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert os.umask(os.umask(0o22)) != 0o177, "the umask is as it was"
    assert not path.exists()


async def test_where_no_bridge_runs_it_is_said(path: Path) -> None:
    with pytest.raises(NobodyAnswers, match=r"no bridge answers at .*store\.url"):
        await ask(path, "GET", "/status")


async def test_the_socket_of_a_killed_bridge_is_in_nobodys_way(path: Path) -> None:
    server = await asyncio.start_unix_server(lambda _reader, _writer: None, path)
    server.close()
    assert path.exists()
    with pytest.raises(NobodyAnswers):
        await ask(path, "GET", "/status")
    async with serve(Told(), path):
        assert await ask(path, "GET", "/livez")


@pytest.fixture
def logging_on() -> Iterator[None]:
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.BoundLogger)
    yield
    structlog.configure(**before)


@pytest.mark.usefixtures("logging_on")
async def test_a_path_too_long_for_a_socket_keeps_no_bridge_from_running(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    with capture_logs() as logged:
        async with serve(Told(), SqlitePlace(folder / "bridge.db").socket):
            pass
    assert "give store.url a shorter path" in logged[0]["problem"]


async def test_a_pause_and_its_end_are_told_in_words(path: Path) -> None:
    bridge = Told()
    async with serve(bridge, path):
        assert b"hq is paused" in await ask(path, "POST", "/pause/hq", reason="firmware")
        assert b"hq is read again" in await ask(path, "POST", "/resume/hq")
        assert b"hq was not paused" in await ask(path, "POST", "/resume/hq")
        for target in ("/pause/hqq", "/resume/hqq"):
            with pytest.raises(
                BridgeError, match=r"no PBX of this bridge is called 'hqq'; there is hq\. Did you mean 'hq'"
            ):
                await ask(path, "POST", target)
    assert bridge.heard[0] == ("pause", "hq", "firmware")


async def test_forgetting_goes_through_the_running_bridge(path: Path) -> None:
    bridge = Told()
    async with serve(bridge, path):
        bridge.board.sources["hq"].last_change = LastChange(NOW, "Erika", "deleted")
        assert orjson.loads(await ask(path, "POST", "/forget/a%2F1"))["events"] == 2
        assert b"Erika" not in await ask(path, "GET", "/status")
    assert bridge.heard == [("forget", "a/1")]


@pytest.mark.parametrize(
    "said",
    [
        b"x" * 100_000,
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /status HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"POST /resync/hq HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n" + b"[" * 100_000,
        b"POST /resync/hq HTTP/1.1\r\nHost: bridge\r\nContent-Length: 100000\r\n\r\n" + b"[" * 100_000,
        b"POST /pause/%00%ff HTTP/1.1\r\nHost: bridge\r\n\r\n",
        b"POST /parked/7/discard HTTP/1.1\r\nHost: bridge\r\n\r\n",
        b"POST /parked/" + b"9" * 5000 + b"/retry HTTP/1.1\r\nHost: bridge\r\n\r\n",
        "POST /parked/٣/retry HTTP/1.1\r\nHost: bridge\r\n\r\n".encode(),
        b"\0\xff\r\n\r\n",
    ],
)
async def test_whatever_is_written_to_the_socket_the_next_one_is_served(path: Path, said: bytes) -> None:
    async with serve(Told(), path):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(said + b"\r\n")
        writer.write_eof()
        answer = b""
        with suppress(ConnectionError):  # which is an answer, too
            async with asyncio.timeout(10):
                answer = await reader.read()
        assert b" 500 " not in answer
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        assert await ask(path, "GET", "/livez")


@pytest.mark.parametrize("kind", ["link", "link to a socket", "file"])
async def test_whatever_else_is_in_the_place_of_the_socket_is_neither_removed_nor_talked_to(
    tmp_path: Path, kind: str
) -> None:
    """A link could lead commands, and the names in them, to somebody else."""
    path, elsewhere = tmp_path / "bridge.db.sock", tmp_path / "elsewhere"
    if kind == "file":
        path.write_text("precious")
    else:
        path.symlink_to(elsewhere)
    async with serve(Told(), elsewhere if kind == "link to a socket" else tmp_path / "another"):
        with pytest.raises(BadConfig, match="is no socket"):
            async with serve(Told(), path):
                pass
        with pytest.raises(BridgeError, match="is no socket"):
            await ask(path, "GET", "/livez")
    assert path.is_symlink() or path.read_text() == "precious"


async def test_a_yes_to_a_pbx_goes_to_the_bridge_and_a_name_that_nobody_has_is_answered(tmp_path: Path) -> None:
    told = Told()
    told.board.listener = ListenerStatus("wss://x")
    told.board.listener.expect(InboundPbx(SourceName("example-com-new-1"), "example.com", "new"))
    async with serve(told, tmp_path / "s"):
        assert b"is let in" in await ask(tmp_path / "s", "POST", "/admit/hq")
        with pytest.raises(BridgeError, match="waiting: example-com-new-1"):
            await ask(tmp_path / "s", "POST", "/admit/nobody")
    assert told.heard == [("admit", "hq"), ("admit", "nobody")]
