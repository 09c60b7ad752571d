"""PBXs that dial and what becomes of them, with a store and without a network."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bridge.clock import steady
from bridge.errors import PbxBrokeProtocol
from bridge.events.normalize import Rules
from bridge.model import OutboxRow, SourceName
from bridge.observability.component_status import ComponentStatus, Level
from bridge.observability.report import problems, sentences
from bridge.observability.status import MAX_WAITING, BridgeStatus, ListenerStatus
from bridge.pbx.inbound.identity import Identity, Visit
from bridge.pbx.walk.actions import Pace
from bridge.runtime.bridge import Bridge, BrokerSide
from bridge.runtime.inbound_sources import Hearing, InboundSources
from bridge.runtime.options import Options
from bridge.store.records import InboundPbx, Newcomers
from bridge.store.sqlite.store import SqliteStore

HQ = Visit(Identity("example.com", "hq"), "192.0.2.1", "a" * 32)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


class NoBroker:
    """Is never asked for anything here."""

    def reconsider(self) -> None:
        """Take the news that what was refused may be taken now."""

    async def session(self) -> None:
        raise AssertionError

    async def send(self, _rows: list[OutboxRow]) -> None:
        raise AssertionError


@asynccontextmanager
async def callers(path: Path, newcomers: Newcomers | None = None) -> AsyncIterator[tuple[InboundSources, Bridge]]:
    now = datetime.now(UTC)
    board = BridgeStatus("0", now, ComponentStatus(now), listener=ListenerStatus("wss://x"), steady=steady)
    with SqliteStore(path / "bridge.db") as store:
        bridge = Bridge(store, [], BrokerSide(NoBroker()), Options(Rules(b"k")), board=board)  # type: ignore[arg-type]
        made = InboundSources(
            bridge, Pace(), taken={"dialled"}, build_hearing=lambda _name, _part: Hearing(),
            newcomers=newcomers or Newcomers(),
        )  # fmt: skip
        made.expect(await bridge.callers(LONG_AGO))
        try:
            yield made, bridge
        finally:
            bridge._offload.close()  # noqa: SLF001 - it never ran


def causes(bridge: Bridge) -> list[str]:
    return [problem.cause for problem in problems(bridge.board, datetime.now(UTC))]


async def test_a_new_pbx_waits_for_a_yes_where_that_is_wanted(tmp_path: Path) -> None:
    async with callers(tmp_path, Newcomers(is_asking=True)) as (door, bridge):
        for _ in range(2):
            with pytest.raises(PbxBrokeProtocol, match="waits for your yes"):
                await door.source_for(HQ)
        name = HQ.identity.source
        assert "pbx_waits" in causes(bridge)
        assert any(f"account-bridge admit {name}" in told for told in sentences(bridge.board, datetime.now(UTC)))
        assert bridge.board.level(datetime.now(UTC)) is Level.WARN
        assert not bridge.board.sources
        assert await bridge.admit(name)
        assert "pbx_waits" not in causes(bridge)
        assert (await door.source_for(HQ)).identity == HQ.identity
        assert not await bridge.admit(SourceName("nobody"))
    async with callers(tmp_path, Newcomers(is_asking=True)) as (door, bridge):
        assert list(bridge.board.sources) == [HQ.identity.source], "after a restart, too"
        await door.source_for(HQ)


async def test_a_name_that_is_taken_while_somebody_logs_in_is_taken(tmp_path: Path) -> None:
    async with callers(tmp_path) as (door, bridge):
        door._taken = bridge.dialled  # noqa: SLF001 - as in a bridge
        logging_in = asyncio.create_task(door.source_for(HQ))
        await asyncio.sleep(0)
        bridge.dialled = [HQ.identity.source]
        with pytest.raises(PbxBrokeProtocol, match="a PBX that we dial is called"):
            await logging_in
        assert not bridge.board.sources


async def test_those_that_wait_are_bounded(tmp_path: Path) -> None:
    async with callers(tmp_path, Newcomers(is_asking=True)) as (door, bridge):
        for number in range(MAX_WAITING + 5):
            with pytest.raises(PbxBrokeProtocol):
                await door.source_for(Visit(Identity("example.com", f"pbx {number}")))
        assert bridge.board.listener is not None
        assert len(bridge.board.listener.waiting) == MAX_WAITING
        assert not await bridge.admit(Identity("example.com", "pbx 0").source), "it has to dial again"


async def test_whoever_has_the_password_cannot_make_pbxs_without_end(tmp_path: Path) -> None:
    async with callers(tmp_path, Newcomers(per_hour=5)) as (door, bridge):
        await door.source_for(HQ)
        for number in range(20):
            visit = Visit(Identity("example.com", f"pbx {number}"))
            if number < 4:
                await door.source_for(visit)
                continue
            with pytest.raises(PbxBrokeProtocol, match="max_new_pbxs_per_hour"):
                await door.source_for(visit)
        await door.source_for(HQ)
        await door.source_for(Visit(Identity("EXAMPLE.com", "hq"), "192.0.2.1", "a" * 32))
        assert len(bridge.board.sources) == 5, "in capitals it is the same"


async def test_a_pbx_that_comes_from_elsewhere_is_a_warning_that_stays_until_a_yes(tmp_path: Path) -> None:
    other = Visit(HQ.identity, "198.51.100.9", "b" * 32)
    async with callers(tmp_path) as (door, bridge):
        await door.source_for(HQ)
        assert "pbx_unlike_before" not in causes(bridge)
        await door.source_for(other)
        await door.source_for(HQ)
        assert "pbx_unlike_before" in causes(bridge)
    async with callers(tmp_path) as (door, bridge):
        assert "pbx_unlike_before" in causes(bridge), "also after a restart"
        assert any("198.51.100.9" in told for told in sentences(bridge.board, datetime.now(UTC)))
        assert await bridge.admit(HQ.identity.source)
        assert "pbx_unlike_before" not in causes(bridge)
        await door.source_for(other)
        assert "pbx_unlike_before" not in causes(bridge)


async def test_a_name_of_a_pbx_that_we_dial_is_no_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Identity, "source", SourceName("dialled"))
    async with callers(tmp_path) as (door, _):
        with pytest.raises(PbxBrokeProtocol, match="a PBX that we dial"):
            await door.source_for(HQ)


async def test_ten_that_dial_at_once_are_counted_one_after_the_other(tmp_path: Path) -> None:
    async with callers(tmp_path, Newcomers(per_hour=3)) as (door, bridge):
        met = await asyncio.gather(
            *(door.source_for(Visit(Identity("example.com", f"pbx {number}"))) for number in range(10)),
            return_exceptions=True,
        )
        assert sum(isinstance(each, PbxBrokeProtocol) for each in met) == 7
        assert len(bridge.board.sources) == 3


def test_a_caller_that_waits_again_is_one() -> None:
    door = ListenerStatus("wss://x")
    for address in ("192.0.2.1", "192.0.2.2"):
        door.expect(InboundPbx(SourceName("a"), "example.com", "hq", address))
    assert [caller.address for caller in door.waiting.values()] == ["192.0.2.2"]
