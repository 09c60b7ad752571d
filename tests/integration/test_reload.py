"""A bridge whose PBXs are added, removed and changed while it runs, in the moments in which that is awkward."""

import asyncio
import os
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from bridge.broker.connection import connect
from bridge.broker.fence import hold_fences
from bridge.broker.topology import Topology
from bridge.clock import utc_now
from bridge.config.loading import load_settings
from bridge.config.settings import Settings
from bridge.errors import BadConfig, BridgeError
from bridge.model import SourceName
from bridge.observability.source_status import SourceStatus
from bridge.ops import control_socket
from bridge.pbx.inbound.identity import Identity
from bridge.runtime import secret_files
from bridge.runtime.bridge import Bridge
from bridge.runtime.listening import serve_inbound
from bridge.simulator.pbx import Pbx
from bridge.simulator.server import keep_calling
from tests.support.fleet import PASSWORD, Fleet, assert_told_once, fleet, until
from tests.support.proxy import Proxy
from tests.support.rabbit import PrivateBroker
from tests.support.settings import load

P0, P1 = SourceName("p0"), SourceName("p1")


def is_read(part: SourceStatus) -> bool:
    return part.verified_at is not None and not part.unsent


class Gate:
    """Has a *bridge* wait whenever it is to follow a PBX no more."""

    def __init__(self, bridge: Bridge) -> None:
        self.reached, self.opened = asyncio.Event(), asyncio.Event()
        self._unfollow = bridge.unfollow
        bridge.unfollow = self._wait  # type: ignore[method-assign]

    async def _wait(self, name: SourceName) -> SourceStatus:
        self.reached.set()
        await self.opened.wait()
        return await self._unfollow(name)


async def is_free(place: Fleet, name: str) -> bool:
    """Tell whether another bridge could publish for the PBX of that name."""
    async with connect([place.broker.url], client_name="test") as connection:
        return not await hold_fences(connection, [f"{place.exchange}.writer.{name}"], Topology(place.exchange))


async def test_of_a_pbx_that_was_changed_or_removed_no_file_is_looked_at_that_it_had(
    tmp_path: Path, broker: PrivateBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secret_files, "LOOK_SECONDS", 0.1)
    first, second = tmp_path / "first", tmp_path / "second"
    async with fleet(tmp_path, broker, pbxs=1, accounts=3) as place:

        def text(file: Path) -> str:
            return place.text([0]).replace(f'password = "{PASSWORD}"', f'password_file = "{file}"')

        async def lose(file: Path) -> None:
            file.unlink()
            place.served[0].drop_connections()
            await until(lambda: bridge.board.sources[P0].file_trouble)

        async def nobody_looks(part: SourceStatus) -> None:
            words = part.file_trouble = "looked at by nobody"
            await asyncio.sleep(0.5)
            assert part.file_trouble == words

        for file in (first, second):
            file.write_text(PASSWORD)
        async with place.running([0]) as bridge:
            await place.reload(text(first))
            await until(lambda: bridge.board.sources[P0].caught_up_at)
            await lose(first)
            part = bridge.board.sources[P0]
            await place.reload(text(second))
            began = utc_now()  # until then the former connection may have caught up
            await until(lambda: part.caught_up_at is not None and part.caught_up_at > began)
            assert part.file_trouble == ""
            await nobody_looks(part)
            await lose(second)
            await place.reload(place.text([]) + place.table("other", "ws://127.0.0.1:1"))
            await nobody_looks(part)


async def test_a_walk_that_a_reload_broke_off_is_shown_no_more(tmp_path: Path, broker: PrivateBroker) -> None:
    """Or it would count as stuck for as long as the bridge runs."""
    async with fleet(tmp_path, broker, pbxs=1, accounts=200) as place:
        place.served[0].round_trip_seconds = 0.02
        async with place.running([0]) as bridge:
            part = bridge.board.sources[P0]
            await until(lambda: part.walk is not None and part.walk.accounts > 20)
            place.served[0].round_trip_seconds = 0.0
            await place.reload(place.text([0]).replace("0.2", "0.3"))
            await until(lambda: part.caught_up_at)
            assert part.walk is None


async def test_pbxs_are_read_while_the_configuration_is(tmp_path: Path, broker: PrivateBroker) -> None:
    async with fleet(tmp_path, broker, pbxs=1, accounts=3) as place, place.running([0]) as bridge:
        part, pbx = bridge.board.sources[P0], place.served[0].pbx
        await until(lambda: is_read(part))
        has_heard, load_at_once = threading.Event(), place.reloader._load  # noqa: SLF001 - a file that takes long

        def load_slowly() -> Settings:
            assert has_heard.wait(30)
            return load_at_once()

        place.reloader._load = load_slowly  # noqa: SLF001 - see above
        reloading = asyncio.create_task(place.reload(place.text([0])))
        await asyncio.sleep(0)
        before = part.cursor
        pbx.change_display_name(next(iter(pbx.truth())))
        await until(lambda: part.cursor != before)
        has_heard.set()
        await reloading


async def test_of_a_pbx_that_is_added_again_what_waits_is_shown_at_once(tmp_path: Path) -> None:
    """Or everything would seem to be sent, until it is counted the next time."""
    with PrivateBroker() as own:
        async with fleet(tmp_path, own, pbxs=2, accounts=3) as place, place.running([0, 1]) as bridge:
            await until(lambda: all(is_read(part) for part in bridge.board.sources.values()))
            await asyncio.to_thread(own.kill)
            pbx = place.served[0].pbx
            pbx.change_display_name(next(iter(pbx.truth())))
            await until(lambda: bridge.board.sources[P0].unsent)
            await place.reload(place.text([1]))
            await place.reload(place.text([0, 1]))
            assert bridge.board.sources[P0].unsent == 1


async def test_a_pbx_that_dials_gets_no_name_that_a_reload_is_giving(tmp_path: Path, broker: PrivateBroker) -> None:
    """Two would write one cursor, and one of them would be read on although the bridge was told to stop."""
    more = (
        '[listen]\nhost = "127.0.0.1"\nport = 0\npoll_interval_seconds = 0.2\n'
        f'[[listen.app]]\nname = "app"\npassword = "{PASSWORD}"\n'
    )
    caller = Pbx(accounts=3, seed=9, app="app", password=PASSWORD)
    name = Identity(caller.domain, caller.name).source
    async with fleet(tmp_path, broker, pbxs=2, accounts=3) as place:
        settings = load({}, place.text([0], walk=more), tmp_path)
        async with place.running([0], walk=more) as bridge, serve_inbound(settings, bridge) as door:
            assert door is not None
            gate = Gate(bridge)
            text = place.text([], walk=more) + "\n" + place.table(name, place.served[1].url)
            reloading = asyncio.create_task(place.reload(text))
            await gate.reached.wait()
            calling = asyncio.create_task(keep_calling(caller, f"ws://127.0.0.1:{door.port}/pbx/app"))
            try:
                await until(lambda: door.record.refusals)
                assert name not in bridge.board.sources
                gate.opened.set()
                await reloading
                await until(lambda: bridge.board.sources[name].caught_up_at)
            finally:
                calling.cancel()
                await asyncio.wait([calling])
            assert not caller.oracle.deliveries


async def test_whoever_is_removed_in_the_midst_of_its_walk_leaves_nothing_behind(
    tmp_path: Path, broker: PrivateBroker
) -> None:
    """No turn, no row that counts, nothing that is watched: so it may come and go as often as anybody likes."""
    chance = random.Random(3)  # noqa: S311 - reproducible, not secret
    async with fleet(tmp_path, broker, pbxs=6, accounts=400) as place:
        walk = "max_at_once = 2\nmax_rows_ahead = 64"
        away = f"\n{place.table('away', 'ws://127.0.0.1:1')}"
        async with place.running([0], walk=walk) as bridge:
            for _ in range(40):
                await place.reload(place.text([number for number in range(6) if chance.random() < 0.5]) + away)
                await asyncio.sleep(chance.expovariate(20))
            await place.reload(place.text([]) + away)
            assert (bridge.turnstile.inside, bridge.turnstile.waiting) == (0, 0)
            assert bridge._budget.rows == 0  # noqa: SLF001 - it shows nowhere
            assert list(bridge.board.sources) == ["away"] == list(bridge.dialled)
            assert bridge.board.stuck() == []
            await until(lambda: not bridge._leaving)  # noqa: SLF001 - the same
            for number in range(6):
                while not await is_free(place, f"p{number}"):
                    await asyncio.sleep(0.1)
            await place.reload(place.text(range(6)))
            await until(lambda: all(map(is_read, bridge.board.sources.values())))
        assert_told_once(await place.witness(6 * 400), place.served)


@pytest.mark.parametrize("by", ["reload", "reload while the broker is away", "restart"])
async def test_a_pbx_that_another_bridge_followed_meanwhile_begins_behind_what_that_told(
    tmp_path: Path, broker: PrivateBroker, by: str
) -> None:
    """Under numbers that come before those no subscriber would hear of it; and no other PBX is told anew for that."""
    async with fleet(tmp_path, broker, pbxs=2, accounts=5) as place, Proxy(broker.port) as way:
        place.broker_url = broker.url.replace(f":{broker.port}", f":{way.port}")
        (tmp_path / "elsewhere").mkdir()
        elsewhere = Fleet(tmp_path / "elsewhere", broker, place.served)
        elsewhere.exchange = place.exchange
        place.has_log = elsewhere.has_log = True
        pbx = place.served[1].pbx

        async def tells_a_change(bridge: Bridge) -> None:
            part = bridge.board.sources[P1]
            await until(lambda: part.caught_up_at and not part.unsent)
            before = part.changes
            pbx.rename(pbx.pick())
            await until(lambda: part.changes > before and not part.unsent)

        async with place.running([0, 1]) as bridge:
            await until(lambda: all(map(is_read, bridge.board.sources.values())))
            await place.reload(place.text([0]))
            while not await is_free(place, "p1"):
                await asyncio.sleep(0.1)
            async with elsewhere.running([1]) as other:
                await until(lambda: is_read(other.board.sources[P1]))
                await tells_a_change(other)
            if by == "reload while the broker is away":
                way.refuse()
                await place.reload(place.text([0, 1]))
                await asyncio.sleep(1)  # time for a look that fails
                assert bridge.board.sources[P1].caught_up_at is None, "or it would have numbers before anybody looked"
                way.reset()
            if by != "restart":
                await place.reload(place.text([0, 1]))
                await tells_a_change(bridge)
        if by == "restart":
            async with place.running([0]) as bridge:  # which reads the log beyond what the other one told
                await until(lambda: bridge.board.sources[P0].caught_up_at)
            async with place.running([0, 1]) as bridge:
                await tells_a_change(bridge)
        told = (await place.witness(5)).deliveries
        lineages = [event["lineage"] for event in told if event["source"] == "/pbx/p1"]
        assert lineages == sorted(lineages)
        assert len(set(lineages)) == 3
        assert len({event["lineage"] for event in told if event["source"] == "/pbx/p0"}) == 1


async def test_whoever_commands_a_bridge_that_is_stopping_hears_so(tmp_path: Path, broker: PrivateBroker) -> None:
    async with fleet(tmp_path, broker, pbxs=2, accounts=3) as place:
        async with place.running([0, 1]) as bridge:
            await until(lambda: all(map(is_read, bridge.board.sources.values())))
            gate = Gate(bridge)
            reloading = asyncio.create_task(place.reload(place.text([0])))
            await gate.reached.wait()
        gate.opened.set()
        for command in (reloading, bridge.pause(P0, "")):
            with pytest.raises(BridgeError, match="the bridge is stopping"):
                await command


async def test_whatever_is_wrong_with_the_configuration_the_state_of_the_bridge_can_be_asked_for(
    tmp_path: Path, broker: PrivateBroker
) -> None:
    """A folder may have a name that JSON cannot carry."""
    async with fleet(tmp_path, broker, pbxs=1, accounts=3) as place, place.running([0]) as bridge:
        folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
        place.reloader._load = lambda: load_settings(  # noqa: SLF001 - as in a process with this variable
            place.file, {"BRIDGE_FLEET_PBX_DIR": str(folder)}
        )
        path = tmp_path / "bridge.sock"
        async with control_socket.serve(bridge, path, place.reloader):
            place.file.write_text(place.text([0]))
            with pytest.raises(BadConfig, match="cannot be read: No such file"):
                await control_socket.ask(path, "POST", "/reload")
            assert b"cannot be read: No such file" in await control_socket.ask(path, "GET", "/status")


async def test_a_pbx_may_be_removed_while_it_is_paused(
    tmp_path: Path, broker: PrivateBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet(tmp_path, broker, pbxs=2, accounts=3) as place, place.running([0, 1]) as bridge:
        await until(lambda: all(map(is_read, bridge.board.sources.values())))
        _slow_down(bridge, monkeypatch)
        pausing = asyncio.create_task(bridge.pause(P1, "moved"))
        await asyncio.sleep(0)
        assert (await place.reload(place.text([0]))).removed == ["p1"]
        assert await pausing
        await place.reload(place.text([0, 1]))
        await until(lambda: bridge.board.sources[P1].is_paused)


def _slow_down(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a pause take longer to be recorded than a reload takes to settle."""
    store: Any = bridge._store  # noqa: SLF001 - its moment cannot be met otherwise
    pause = store.pause

    def slow(*told: Any) -> None:
        time.sleep(0.5)
        pause(*told)

    monkeypatch.setattr(store, "pause", slow)
