"""Several bridges on one store, as processes: whichever ends, in whatever way, another one goes on with its PBXs."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest

from tests.support import pgbouncer
from tests.support.cluster import LEASE_SECONDS, Cluster, cluster
from tests.support.postgres import PrivatePostgres, is_installed
from tests.support.process import run
from tests.support.rabbit import PrivateBroker
from tests.support.site import stopped
from tests.support.witness import Witness, read

pytestmark = pytest.mark.skipif(not is_installed(), reason="PostgreSQL is not installed here (Debian: postgresql)")

ACCOUNTS = 20
NAMES = ("hq", "branch", "depot", "shop", "lab", "yard")
TAKEN_OVER_SECONDS = LEASE_SECONDS + 3
HANDED_OVER_SECONDS = 2.0


@pytest.fixture(scope="module")
def server() -> Iterator[PrivatePostgres]:
    with PrivatePostgres() as started:
        yield started


def once_and_in_order(witness: Witness, *, twice: int = 0) -> None:
    """Each change came, in the order of its source, and nothing twice but so much."""
    assert len(witness.ids) - len(set(witness.ids)) <= twice
    for name in NAMES:
        first = list(
            dict.fromkeys(event["sequence"] for event in witness.deliveries if event["source"] == f"/pbx/{name}")
        )
        assert first == sorted(first)


def is_taken_over(number: int, holders: Mapping[str, int]) -> bool:
    """Tell whether others have all that the bridge of that number had."""
    return number not in holders.values() and all(holders.values())


async def started(place: Cluster, count: int) -> None:
    for number in range(1, count + 1):
        place.start(number)
    await place.all_held()
    witness = await read(place.broker, place.queue, until=ACCOUNTS * len(NAMES))
    once_and_in_order(witness)


async def killed_one_after_the_other(place: Cluster) -> None:
    for _ in range(2):
        number = next(iter(place.holders().values()))
        place.bridges[number].kill()
        changes = place.change(5)
        seconds = await place.until(partial(is_taken_over, number))
        assert 1 < seconds <= TAKEN_OVER_SECONDS
        once_and_in_order(await read(place.broker, place.queue, until=changes))
    (left,) = set(place.holders().values())
    assert await stopped(place.bridges[left]) == 0


async def test_two_of_three_are_killed_and_nothing_is_lost_doubled_or_stuck(
    server: PrivatePostgres, tmp_path: Path, broker: PrivateBroker
) -> None:
    async with cluster(tmp_path, broker, server, names=NAMES, accounts=ACCOUNTS) as place:
        await started(place, 3)
        await killed_one_after_the_other(place)


@pytest.mark.skipif(not pgbouncer.is_installed(), reason="pgbouncer is not installed here (Debian: pgbouncer)")
async def test_the_same_behind_a_pooler_with_fewer_sessions_than_the_bridges_would_have(
    server: PrivatePostgres, tmp_path: Path, broker: PrivateBroker
) -> None:
    with pgbouncer.PgBouncer(server, sessions=4) as pooler:
        async with cluster(tmp_path, broker, server, names=NAMES, accounts=ACCOUNTS) as place:
            place.store_url = server.url(place.database, port=pooler.port)
            place.settings["BRIDGE_STORE_THROUGH_POOLER"] = "true"
            await started(place, 3)
            await killed_one_after_the_other(place)


async def test_a_bridge_that_stops_hands_over_at_once(
    server: PrivatePostgres, tmp_path: Path, broker: PrivateBroker
) -> None:
    async with cluster(tmp_path, broker, server, names=NAMES, accounts=ACCOUNTS) as place:
        await started(place, 2)
        place.start(3)
        first = next(iter(place.holders().values()))
        changes = place.change(5)
        place.bridges[first]._process.terminate()  # noqa: SLF001 - and look meanwhile
        seconds = await place.until(partial(is_taken_over, first))
        assert seconds <= HANDED_OVER_SECONDS
        assert place.bridges[first].wait() == 0
        once_and_in_order(await read(broker, place.queue, until=changes))


async def test_a_bridge_that_freezes_is_overtaken_and_goes_on_as_another_one(
    server: PrivatePostgres, tmp_path: Path, broker: PrivateBroker
) -> None:
    async with cluster(tmp_path, broker, server, names=NAMES, accounts=ACCOUNTS) as place:
        await started(place, 2)
        first = next(iter(place.holders().values()))
        place.bridges[first].pause()
        changes = place.change(5)
        seconds = await place.until(partial(is_taken_over, first))
        assert seconds <= TAKEN_OVER_SECONDS
        once_and_in_order(await read(broker, place.queue, until=changes), twice=changes)
        place.bridges[first].go_on()
        place.bridges[first].wait_for_log("bridge.lives_anew")
        changes = place.change(5)
        once_and_in_order(await read(broker, place.queue, until=changes), twice=changes)
        for bridge in place.bridges.values():
            assert await stopped(bridge) == 0


async def told(place: Cluster, number: int, *arguments: str, code: int = 0) -> str:
    """Return what a command prints on the machine of that bridge; it has to end with *code*."""
    got, command = await asyncio.to_thread(run, *arguments, environment=place.environment(number))
    assert got == code, command.printed
    return "\n".join(command.out if not code else command.err)


async def test_a_command_reaches_the_bridge_that_has_the_pbx_whichever_is_asked(
    server: PrivatePostgres, tmp_path: Path, broker: PrivateBroker
) -> None:
    async with cluster(tmp_path, broker, server, names=NAMES, accounts=ACCOUNTS) as place:
        await started(place, 2)
        holders = place.holders()
        for name in ("hq", "branch"):
            other = 3 - holders[name]
            assert f"{name} is paused" in await told(place, other, "pause", name, "--reason", "moving house")
            board = json.loads(await told(place, holders[name], "status", "--json"))
            assert board["sources"][name]["is_paused"]
            assert f"{name} is read again" in await told(place, other, "resume", name)
            assert "not paused" in await told(place, other, "resume", name)
            assert "full walk begins" in await told(place, other, "resync", name)
            place.bridges[holders[name]].wait_for_log("source.verified", 2)
        assert "Did you mean 'branch'" in await told(place, 1, "pause", "brunch", code=1)
        await asyncio.sleep(6)  # as long as it takes until who has what is shown anew
        board = json.loads(await told(place, 1, "status", "--json"))
        assert {peer["held"] for peer in board["cluster"]["peers"]} - {0} == set(Counter(holders.values()).values())
        assert board["cluster"]["holders"].keys() == set(NAMES)
        assert "2 bridges share them" in await told(place, 1, "status")
