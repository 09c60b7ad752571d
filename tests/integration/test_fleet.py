"""Many PBXs in one bridge: who is read when, and what becomes of those that are added, removed and changed."""

import asyncio
import random
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest

from bridge.broker.connection import connect
from bridge.broker.fence import hold_fences
from bridge.broker.topology import Topology
from bridge.clock import utc_now
from bridge.errors import BadConfig
from bridge.model import SourceName
from bridge.observability.report import sentences
from bridge.runtime.listening import serve_inbound
from bridge.runtime.reloaded import Reloaded
from bridge.simulator.pbx import Pbx
from bridge.simulator.server import keep_calling
from tests.support.fleet import PASSWORD, Fleet, assert_told_once, fleet, until, until_read
from tests.support.rabbit import PrivateBroker
from tests.support.settings import load


def note_order(pbxs: Iterable[Pbx]) -> list[int]:
    """Return a list to which the number of a PBX is put whenever that begins to hand accounts out after another did."""
    order: list[int] = []

    def note(number: int) -> None:
        if order[-1:] != [number]:
            order.append(number)

    for number, pbx in enumerate(pbxs):
        pbx.on_rows.append(partial(note, number))
    return order


async def test_one_after_the_other_is_read(tmp_path: Path, broker: PrivateBroker) -> None:
    async with fleet(tmp_path, broker, pbxs=8, accounts=30) as place:
        order = note_order(each.pbx for each in place.served)
        async with place.running(range(8), walk="max_at_once = 1") as bridge:
            await until(lambda: all(part.verified_at for part in bridge.board.sources.values()))
        assert sorted(order) == list(range(8)), "nobody had to wait in the midst"
        witness = await place.witness(8 * 30)
        assert len(witness.ids) == len(set(witness.ids)) == 8 * 30


async def test_pbxs_that_dial_have_their_turns_too(tmp_path: Path, broker: PrivateBroker) -> None:
    names = [f"pbx-{number}" for number in range(5)]
    pbxs = [Pbx(accounts=30, seed=each, name=name, app="app", password=PASSWORD) for each, name in enumerate(names)]
    more = (
        'max_at_once = 1\n[listen]\nhost = "127.0.0.1"\nport = 0\npoll_interval_seconds = 0.2\n'
        f'[[listen.app]]\nname = "app"\npassword = "{PASSWORD}"\n'
    )
    place = Fleet(tmp_path, broker, [])
    order = note_order(pbxs)
    settings = load({}, place.text([], walk=more), tmp_path)
    async with place.running([], walk=more) as bridge, serve_inbound(settings, bridge) as door:
        assert door is not None
        sources = bridge.board.sources
        calling = [asyncio.create_task(keep_calling(pbx, f"ws://127.0.0.1:{door.port}/pbx/app")) for pbx in pbxs]
        try:
            await until(lambda: len(sources) == 5 and all(part.verified_at for part in sources.values()))
        finally:
            for task in calling:
                task.cancel()
            await asyncio.wait(calling)
        assert sorted(order) == list(range(5)), "nobody had to wait in the midst"
        with pytest.raises(BadConfig, match="a PBX that dials us is called"):
            await place.reload(place.text([], walk=more) + place.table(next(iter(sources)), "ws://127.0.0.1:1"))


async def test_one_that_hangs_in_its_first_reading_holds_nobody_up(tmp_path: Path, broker: PrivateBroker) -> None:
    async with fleet(tmp_path, broker, pbxs=4, accounts=30) as place:
        hanging, pbx = place.served[0], place.served[0].pbx
        pbx.on_rows.append(lambda: hanging.stop_answering() if len(pbx.oracle.deliveries) == 10 else None)
        async with place.running(range(4), walk="max_at_once = 1") as bridge:
            parts = bridge.board.sources
            await until(lambda: all(part.verified_at for name, part in parts.items() if name != "p0"))
            assert not parts["p0"].verified_at
            hanging.start_answering()
            hanging.drop_connections()
            await until(lambda: parts["p0"].caught_up_at)
        witness = await place.witness(4 * 30)
        assert len(witness.ids) == len(set(witness.ids)) == 4 * 30


async def test_a_change_of_who_was_read_does_not_wait_for_those_that_are_not(
    tmp_path: Path, broker: PrivateBroker
) -> None:
    async with fleet(tmp_path, broker, pbxs=6, accounts=300) as place:
        for served in place.served[1:]:
            served.round_trip_seconds = 0.02
        async with place.running(range(6), walk="max_at_once = 2") as bridge:
            parts = bridge.board.sources
            await until(lambda: parts["p0"].verified_at)
            changes, pbx = parts["p0"].changes, place.served[0].pbx
            pbx.rename(pbx.pick())
            await until(lambda: parts["p0"].changes > changes and not parts["p0"].unsent)
            assert sum(part.verified_at is None for part in parts.values()) > 2
            assert any(part.waits_for_turn for part in parts.values())


async def test_pbxs_are_added_removed_and_changed_while_others_are_read(tmp_path: Path, broker: PrivateBroker) -> None:
    async with fleet(tmp_path, broker, pbxs=4, accounts=40) as place, place.running([0, 1]) as bridge:
        sources = bridge.board.sources
        await until(lambda: all(part.verified_at for part in sources.values()))
        rows = sources["p1"].rows
        text = place.text([1, 2, 3]).replace('name = "p1"', 'name = "p1"\nask_ahead = 7')
        done = await place.reload(text)
        assert (done.added, done.removed, done.changed, done.needs_restart) == (["p2", "p3"], ["p0"], ["p1"], [])
        assert set(sources) == {"p1", "p2", "p3"} == set(bridge.dialled)
        await until(lambda: all(part.caught_up_at and not part.unsent for part in sources.values()))
        assert sources["p1"].rows == rows, "it goes on where it was"
        assert bridge.board.left[SourceName("p0")].accounts == 40
        assert bridge.board.stuck() == []
        assert (await place.reload(text)) == Reloaded([], [], [], [], [])
        done = await place.reload(place.text(range(4)))
        assert (done.added, done.changed) == (["p0"], ["p1"])
        pbx = place.served[0].pbx
        pbx.rename(pbx.pick())
        await until(lambda: sources["p0"].changes == 1 and not sources["p0"].unsent)
        await until(lambda: all(part.caught_up_at and not part.unsent for part in sources.values()))
    assert_told_once(await place.witness(4 * 40 + 1), place.served)


async def test_a_mistake_changes_nothing_and_is_shown_until_the_next_time(
    tmp_path: Path, broker: PrivateBroker
) -> None:
    async with fleet(tmp_path, broker, pbxs=2, accounts=3) as place, place.running([0]) as bridge:
        with pytest.raises(BadConfig) as problem:
            await place.reload(place.text([1]) + "\npol_interval_seconds = 1\n[log]\nlevel = 7\n")
        assert "2 mistakes" in str(problem.value)
        assert list(bridge.board.sources) == ["p0"]
        assert "pol_interval_seconds" in bridge.board.config_trouble
        assert (await place.reload(place.text([0, 1]))).added == ["p1"]
        assert bridge.board.config_trouble == ""


async def test_what_needs_a_restart_is_named_each_time_and_without_its_value(
    tmp_path: Path, broker: PrivateBroker
) -> None:
    async with fleet(tmp_path, broker, pbxs=2, accounts=3) as place, place.running([0]):
        text = place.text([0], walk="max_at_once = 3")
        text = text.replace("log_stream = false", "log_stream = false\nwindow = 17") + '\n[[subscriber]]\nqueue = "q"'
        for _ in range(2):
            done = await place.reload(text)
            assert sorted(done.needs_restart) == ["rabbitmq.window", "subscriber", "walk.max_at_once"]
            assert "17" not in " ".join(done.sentences())


async def test_a_pbx_that_was_removed_may_be_published_for_by_another_bridge_once_everything_is_sent(
    tmp_path: Path, broker: PrivateBroker
) -> None:
    async with fleet(tmp_path, broker, pbxs=2, accounts=3) as place, place.running([0, 1]) as bridge:
        await until(lambda: bridge.board.published >= 6 + 2)
        fence = f"{place.exchange}.writer.p1"

        async def is_free() -> bool:
            async with connect([broker.url], client_name="test") as connection:
                return not await hold_fences(connection, [fence], Topology(place.exchange))

        assert not await is_free()
        await place.reload(place.text([0]))
        while not await is_free():
            await asyncio.sleep(0.1)
        await place.reload(place.text([0, 1]))
        pbx = place.served[1].pbx
        pbx.rename(pbx.pick())
        await until(lambda: bridge.board.sources["p1"].changes and not bridge.board.sources["p1"].unsent)
        while await is_free():
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("is_broker_killed", [False, True])
async def test_under_load_and_trouble_nothing_is_lost_and_nothing_comes_twice(
    tmp_path: Path, *, is_broker_killed: bool
) -> None:
    with PrivateBroker() as own:
        async with fleet(tmp_path, own, pbxs=8, accounts=60) as place:
            chance = random.Random(7)  # noqa: S311 - reproducible, not secret
            over = asyncio.Event()

            async def keep_changing() -> None:
                while not over.is_set():
                    chance.choice(place.served).pbx.random_mutation()
                    await asyncio.sleep(0.02)

            async with place.running(range(8), walk="max_at_once = 3") as bridge:
                changing = asyncio.create_task(keep_changing())
                for turn in range(12):
                    wanted = [number for number in range(8) if chance.random() < 0.7]
                    await place.reload(place.text(wanted).replace("0.2", f"0.2{turn % 2 + 1}"))
                    if is_broker_killed and turn == 5:
                        own.kill()
                        await asyncio.to_thread(own.start)
                    chance.choice(place.served).drop_connections()
                    await asyncio.sleep(chance.random())
                over.set()
                await changing
                await place.reload(place.text(range(8)))
                await until_read(bridge, place.served)
            first = await place.witness(8 * 60)
        if is_broker_killed:  # what was in flight may come once more, with its id
            first.deliveries = first.first_deliveries
        assert_told_once(first, place.served)


async def test_one_mistake_in_one_file_stops_that_pbx_only_and_is_shown_until_it_is_mended(
    tmp_path: Path, broker: PrivateBroker
) -> None:
    async with fleet(tmp_path, broker, pbxs=3, accounts=5) as place:
        folder = tmp_path / "pbxs"
        folder.mkdir()

        def write(number: int, more: str = "") -> None:
            url = place.served[number].url
            text = f'url = "{url}"\napp = "app"\npassword = "{PASSWORD}"\npoll_interval_seconds = 0.2\n{more}'
            (folder / f"p{number}.toml").write_text(text)

        write(0)
        write(1, "ask_ahed = 7\n")
        more = f'[fleet]\npbx_dir = "{folder}"\n'
        async with place.running([], walk=more) as bridge:
            sources, text = bridge.board.sources, place.text([], walk=more)
            await until(lambda: sources["p0"].verified_at)
            assert list(sources) == ["p0"]
            said = " ".join(sentences(bridge.board, utc_now()))
            assert "p1.toml, line 5: ask_ahed: there is no such key; did you mean 'ask_ahead'?" in said
            write(0, "ask_ahead = 0\n")
            write(1, "ask_ahead = 7\n")
            write(2)
            done = await place.reload(text)
            assert (done.added, done.removed, done.changed) == (["p1", "p2"], [], [])
            assert ["p0.toml, line 5: ask_ahead: must be at least 1" in words for words in done.unusable] == [True]
            pbx = place.served[0].pbx
            pbx.rename(pbx.pick())
            await until(lambda: sources["p0"].changes == 6)
            write(0, "ask_ahead = 9\n")
            (folder / "p2.toml").unlink()
            done = await place.reload(text)
            assert (done.added, done.removed, done.changed, done.unusable) == ([], ["p2"], ["p0"], [])
            assert not bridge.board.unusable_files
