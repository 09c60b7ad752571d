"""What a broker refuses, and what a bridge holds back, end to end: each waits for its remedy, nothing is lost."""

import asyncio
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.process import Command
from tests.support.rabbit import PrivateBroker
from tests.support.site import Site, asked, rows_are_handed_out, site, stopped
from tests.support.witness import Witness, bind

LONG_NAME = 1000 * "L"
NARROW, WIDE = 1700, 16_777_216
"""Bytes: an event of a usual account is about 900."""


@pytest.fixture
def narrow() -> Iterator[PrivateBroker]:
    """A broker that takes no large messages."""
    with PrivateBroker(f"max_message_size = {NARROW}") as started:
        yield started


def raise_limit(broker: PrivateBroker) -> None:
    broker.ctl("eval", f"application:set_env(rabbit, max_message_size, {WIDE}).")


def names(witness: Witness) -> list[str]:
    return [event["data"]["account"]["display_name"] for event in witness.deliveries]


async def only_parked(place: Site) -> dict[str, Any]:
    code, listed = await asked(place, "parked", "--json")
    assert code == 0
    (found,) = json.loads(listed)
    return dict(found)


def sequences(witness: Witness) -> list[int]:
    return [int(event["sequence"]) for event in witness.deliveries]


async def test_an_event_too_large_for_the_broker_waits_alone_with_its_account_until_the_limit_is_raised(
    tmp_path: Path, narrow: PrivateBroker
) -> None:
    async with site(tmp_path, narrow, accounts=10) as place:
        with place.bridge() as bridge:
            await place.witness(until=10)
            large, other = sorted(place.pbx.truth())[:2]
            place.pbx.change_display_name(large, LONG_NAME)
            parked = await asyncio.to_thread(bridge.wait_for_log, "event.parked")
            assert "max_message_size" in parked["reason"]
            place.pbx.change_display_name(large, "short again")
            place.pbx.change_display_name(other, "goes past it")
            assert names(await place.witness(until=1)) == ["goes past it"]

            found = await only_parked(place)
            assert found["waiting"] == 1
            _, status = await asked(place, "status")
            assert "The broker refused 1 event for good, and 1 waits behind" in status

            await asyncio.to_thread(raise_limit, narrow)
            assert (await asked(place, "parked", "retry", str(found["position"])))[0] == 0
            after = await place.witness(until=2)
            assert [len(name) for name in names(after)] == [len(LONG_NAME), len("short again")]
            assert sequences(after) == [11, 12]
            assert await asked(place, "parked") == (0, "No event is parked.")
            assert await stopped(bridge) == 0


async def test_a_discarded_event_lets_go_what_waited_behind_it(tmp_path: Path, narrow: PrivateBroker) -> None:
    async with site(tmp_path, narrow, accounts=3) as place:
        with place.bridge() as bridge:
            await place.witness(until=3)
            guid = place.pbx.pick()
            place.pbx.change_display_name(guid, LONG_NAME)
            await asyncio.to_thread(bridge.wait_for_log, "event.parked")
            place.pbx.change_display_name(guid, "short again")
            await rows_are_handed_out(place, 5)
            assert await stopped(bridge) == 0
        first = str((await only_parked(place))["position"])
        decided = await asked(place, "parked", "discard", first, "--yes", "--reason", "nobody needs it")
        assert decided == (0, f"event {first} is discarded"), "a stopped bridge's store is worked on directly"
        with place.bridge() as bridge:
            # The next one is let go; "previous" in it has the long name, so that the broker refuses it as well.
            await asyncio.to_thread(bridge.wait_for_log, "event.parked")
            second = str((await only_parked(place))["position"])
            assert await asked(place, "parked", "discard", second, "--yes", "--reason", "nor this one")
            place.pbx.change_display_name(guid, "and on it goes")
            assert names(await place.witness(until=1)) == ["and on it goes"]
            assert await stopped(bridge) == 0


async def test_what_no_queue_takes_is_held_shown_and_sent_once_one_does(tmp_path: Path, broker: PrivateBroker) -> None:
    async with site(tmp_path, broker, accounts=50) as place:
        place.environment["BRIDGE_RABBITMQ_LOG_STREAM"] = "false"
        await asyncio.to_thread(broker.ctl, "delete_queue", place.queue)
        with place.bridge() as bridge:
            failed = await asyncio.to_thread(bridge.wait_for_log, "event.not_taken")
            assert "hq.account.initial" in failed["problem"]
            code, status = await asked(place, "status")
            assert (code, failed["problem"] in status) == (1, True)
            await bind(broker, place.exchange, place.queue)
            witness = await place.witness(until=50)
            assert await stopped(bridge) == 0
    assert sequences(witness) == list(range(1, 51))


async def test_a_full_outbox_stops_reading_and_reading_goes_on_by_itself(tmp_path: Path, broken: PrivateBroker) -> None:
    async with site(tmp_path, broken, accounts=1000) as place:
        place.environment["BRIDGE_STORE_MAX_UNSENT_EVENTS"] = "100"
        place.environment["BRIDGE_RABBITMQ_LOG_STREAM"] = "false"  # with one, nothing is read before it was asked
        await asyncio.to_thread(broken.stop)
        with place.bridge() as bridge:
            full = await asyncio.to_thread(bridge.wait_for_log, "outbox.full")
            assert "store.max_unsent_events is 100" in full["problem"]
            _, status = await asked(place, "status")
            assert "The PBXs are not read until there is room" in status
            assert place.rows_handed_out < 1000, "the PBX keeps the others"
            await asyncio.to_thread(broken.start)
            witness = await place.witness(until=1000)
            assert await stopped(bridge) == 0
    assert witness.sequences == list(range(1, 1001))


async def remedy(bridge: Command) -> str:
    """Return the command that the bridge names for what it is not allowed."""
    for count in range(1, 5):  # the ends of its connections come first
        failed = await asyncio.to_thread(bridge.wait_for_log, "broker.failed", count)
        if "Allow it: " in failed["problem"]:
            return str(failed["problem"].split("Allow it: ")[1])
    raise AssertionError(bridge.printed)


async def test_a_right_taken_away_is_named_with_the_command_that_gives_it_back(
    tmp_path: Path, broken: PrivateBroker
) -> None:
    """RabbitMQ remembers what a channel may do: a right taken away shows at the next connection."""
    ctl = broken.ctl
    async with site(tmp_path, broken, accounts=20) as place:
        everything = "^" + re.escape(place.exchange)
        await asyncio.to_thread(ctl, "add_user", "bridge", "s3cret-of-bridge")
        await asyncio.to_thread(ctl, "set_permissions", "bridge", everything, everything, everything)
        place.environment["BRIDGE_RABBITMQ_URL"] = broken.url_of("bridge", "s3cret-of-bridge")
        with place.bridge() as bridge:
            await place.witness(until=20)
            await asyncio.to_thread(ctl, "set_permissions", "bridge", "^$", "^$", "^$")
            await asyncio.to_thread(ctl, "close_all_user_connections", "bridge", "maintenance")
            place.pbx.change_display_name(place.pbx.pick(), "meanwhile")
            program, *arguments = shlex.split(await remedy(bridge))
            assert program == "rabbitmqctl"
            await asyncio.to_thread(ctl, *arguments)
            assert names(await place.witness(until=1)) == ["meanwhile"]
            assert await stopped(bridge) == 0
            assert "s3cret-of-bridge" not in bridge.printed
