"""The promise, with the bridge as a process of its own and its plugs pulled."""

import asyncio
from pathlib import Path

import pytest

from bridge.simulator.modes import Modes
from bridge.simulator.pbx import Pbx
from bridge.simulator.server import serve
from tests.support.process import Command
from tests.support.rabbit import PrivateBroker, free_port
from tests.support.site import PASSWORD, asked, rows_are_handed_out, site, stopped
from tests.support.witness import bind, read

ACCOUNTS = 2000


async def test_a_bridge_killed_in_the_middle_of_a_walk_goes_on_from_its_cursor(
    tmp_path: Path, broker: PrivateBroker
) -> None:
    async with site(tmp_path, broker, accounts=ACCOUNTS, round_trip_seconds=0.001) as place:
        with place.bridge() as first:
            await rows_are_handed_out(place, ACCOUNTS // 2)
            first.kill()
        before = place.rows_handed_out
        with place.bridge() as second:
            witness = await place.witness(until=ACCOUNTS)
            assert await asyncio.to_thread(second.wait_for_log, "source.starting")
            assert second.logs("source.starting")[0]["resumes"]
            assert await stopped(second) == 0
        read_again = place.rows_handed_out - before
        assert read_again < ACCOUNTS, "it did not begin anew"
    assert {event["subject"] for event in witness.deliveries} == set(place.pbx.truth())
    assert witness.sequences == list(range(1, ACCOUNTS + 1))
    assert len(witness.ids) - ACCOUNTS <= 256, "no more than a window is delivered twice"


async def test_a_stop_and_a_start_deliver_everything_once(tmp_path: Path, broker: PrivateBroker) -> None:
    async with site(tmp_path, broker, accounts=ACCOUNTS, round_trip_seconds=0.001) as place:
        for share in (4, 2):
            with place.bridge() as bridge:
                await rows_are_handed_out(place, ACCOUNTS // share)
                assert await stopped(bridge) == 0
        with place.bridge() as last:
            witness = await place.witness(until=ACCOUNTS)
            assert await stopped(last) == 0
    assert len(witness.ids) == len(set(witness.ids)) == ACCOUNTS
    assert [int(event["sequence"]) for event in witness.deliveries] == list(range(1, ACCOUNTS + 1))


@pytest.mark.parametrize("way", ["stop", "kill"])
async def test_a_broker_that_goes_away_in_the_middle_loses_nothing(
    tmp_path: Path, broken: PrivateBroker, way: str
) -> None:
    async with site(tmp_path, broken, accounts=ACCOUNTS, round_trip_seconds=0.001) as place:
        with place.bridge() as bridge:
            await rows_are_handed_out(place, ACCOUNTS // 2)
            await asyncio.to_thread(getattr(broken, way))
            await asyncio.to_thread(bridge.wait_for_log, "broker.failed")
            await rows_are_handed_out(place, ACCOUNTS)
            await asyncio.to_thread(broken.start)
            witness = await place.witness(until=ACCOUNTS)
            assert await stopped(bridge) == 0
    assert witness.sequences == list(range(1, ACCOUNTS + 1))
    assert len(witness.ids) - ACCOUNTS <= 256, "no more than a window is delivered twice"


async def test_a_pbx_that_comes_and_goes_loses_nothing(tmp_path: Path, broker: PrivateBroker) -> None:
    async with site(tmp_path, broker, accounts=300, round_trip_seconds=0.001) as place:
        with place.bridge() as bridge:
            for share in (3, 2):
                await rows_are_handed_out(place, 300 // share)
                place.served.drop_connections()
            witness = await place.witness(until=300)
            changed = place.pbx.pick()
            place.pbx.change_display_name(changed, "New Name")
            after = await place.witness(until=1)
            assert await stopped(bridge) == 0
    assert len(witness.ids) == 300
    told = after.deliveries[0]["data"]
    assert (told["change"], told["changed"], told["account"]["display_name"]) == (
        "updated",
        ["display_name"],
        "New Name",
    )


async def test_a_bridge_started_first_waits_and_says_so(tmp_path: Path, broken: PrivateBroker) -> None:
    await asyncio.to_thread(broken.kill)
    port = free_port()
    pbx = Pbx(accounts=20, app="app", password=PASSWORD)
    environment = {
        "BRIDGE_PBX_URL": f"ws://127.0.0.1:{port}",
        "BRIDGE_PBX_APP": "app",
        "BRIDGE_PBX_PASSWORD": PASSWORD,
        "BRIDGE_RABBITMQ_URL": broken.url,
        "BRIDGE_STORE_URL": f"sqlite:///{tmp_path / 'bridge.db'}",
        "BRIDGE_STATUS_PORT": "0",
    }
    with Command("run", environment=environment) as bridge:
        waiting = await asyncio.to_thread(bridge.wait_for_log, "broker.failed")
        assert f"127.0.0.1:{broken.port}" in waiting["problem"]
        await asyncio.to_thread(broken.start)
        waiting = await asyncio.to_thread(bridge.wait_for_log, "source.failed")
        assert f"127.0.0.1:{port}" in waiting["problem"]
        assert "again_in_seconds" in waiting
        await bind(broken, "pbx.accounts", "everything")
        async with serve(pbx, port=port):
            witness = await read(broken, "everything", until=20)
        assert await stopped(bridge) == 0
    assert len(witness.ids) == 20


async def test_a_stop_does_not_wait_for_a_broker_that_is_away(tmp_path: Path) -> None:
    async with serve(Pbx(accounts=5, app="app", password=PASSWORD)) as served:
        environment = {
            "BRIDGE_PBX_URL": served.url,
            "BRIDGE_PBX_APP": "app",
            "BRIDGE_PBX_PASSWORD": PASSWORD,
            "BRIDGE_RABBITMQ_URL": "amqp://127.0.0.1:1/",
            "BRIDGE_STORE_URL": f"sqlite:///{tmp_path / 'bridge.db'}",
            "BRIDGE_STATUS_PORT": "0",
            "BRIDGE_RABBITMQ_LOG_STREAM": "false",  # or else the log would have to be compared first
        }
        with Command("run", environment=environment) as bridge:
            await asyncio.to_thread(bridge.wait_for_log, "source.verified")
            failures = len(bridge.logs("broker.failed"))
            assert await stopped(bridge) == 0
            assert len(bridge.logs("broker.failed")) <= failures + 1, "it did not go on trying"
            assert bridge.logs("bridge.stopped")
        with Command("run", environment=environment) as again:
            kept = await asyncio.to_thread(again.wait_for_log, "source.starting")
            assert (kept["resumes"], kept["events_so_far"]) == (True, 5)
            assert await stopped(again) == 0


async def test_a_wrong_password_is_loud_slow_and_no_end(tmp_path: Path, broker: PrivateBroker) -> None:
    async with site(tmp_path, broker, accounts=5) as place:
        place.environment["BRIDGE_PBX_PASSWORD"] = "wr0ng-s3cret"
        with place.bridge() as bridge:
            refused = await asyncio.to_thread(bridge.wait_for_log, "source.failed")
            assert refused["level"] == "error"
            assert "Name or Password of the App object" in refused["problem"]
            assert refused["again_in_seconds"] >= 30
            assert await stopped(bridge) == 0
            assert "wr0ng-s3cret" not in bridge.printed
            assert "Traceback" not in bridge.printed


async def test_held_deletions_wait_for_an_operators_yes(tmp_path: Path, broker: PrivateBroker) -> None:
    """Half of the accounts vanish without a word: two walks notice, and a person decides."""
    port = free_port()
    async with site(tmp_path, broker, accounts=60) as place:
        place.environment["BRIDGE_STATUS_PORT"] = str(port)
        place.pbx.modes = Modes.parse(["del-none"])
        with place.bridge() as bridge:
            await place.witness(until=60)
            for guid in sorted(place.pbx.truth())[:30]:
                place.pbx.delete(guid)
            for walk in (2, 3):
                assert await asked(place, "resync", "hq") == (0, "a full walk begins as soon as the PBX is reached")
                await asyncio.to_thread(bridge.wait_for_log, "source.verified", walk)
            held = bridge.logs("source.verified")[-1]
            assert (held["held"], held["deleted"], held["accounts"]) == (30, 0, 60)
            _, status = await asked(place, "status")
            assert "30 accounts are gone from the PBX" in status
            assert "account-bridge resync hq --accept-deletions" in status
            await asked(place, "resync", "hq", "--accept-deletions")
            done = await asyncio.to_thread(bridge.wait_for_log, "source.verified", 4)
            assert (done["held"], done["deleted"], done["accounts"]) == (0, 30, 30)
            witness = await place.witness(until=30)
            assert {event["data"]["change"] for event in witness.deliveries} == {"deleted"}
            assert {event["data"]["reason"] for event in witness.deliveries} == {"missing"}
            code, words = await asked(place, "resync", "nobody")
            assert (code, "no PBX of this bridge is called 'nobody'" in words) == (1, True)
            assert await stopped(bridge) == 0
