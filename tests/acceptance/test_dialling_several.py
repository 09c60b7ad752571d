"""PBXs that dial several bridges which share a store: any of them will do, and the newest connection wins."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bridge.pbx.inbound.identity import Identity
from bridge.simulator.server import call
from tests.support.cluster import Cluster, cluster
from tests.support.dialled_site import PASSWORD, pbx_called
from tests.support.postgres import PrivatePostgres, is_installed
from tests.support.rabbit import PrivateBroker
from tests.support.witness import read

pytestmark = pytest.mark.skipif(not is_installed(), reason="PostgreSQL is not installed here (Debian: postgresql)")

ACCOUNTS = 10
SOURCE = Identity("example.com", "main").source
LISTENING = {
    "BRIDGE_LISTEN_HOST": "127.0.0.1",
    "BRIDGE_LISTEN_PORT": "0",
    "BRIDGE_LISTEN_INSECURE": "true",
    "BRIDGE_LISTEN_APP_NAME": "app",
    "BRIDGE_LISTEN_APP_PASSWORD": PASSWORD,
    "BRIDGE_LISTEN_POLL_INTERVAL_SECONDS": "0.2",
}


@pytest.fixture(scope="module")
def server() -> Iterator[PrivatePostgres]:
    with PrivatePostgres() as started:
        yield started


def url(place: Cluster, number: int) -> str:
    port = place.bridges[number].wait_for_log("listen.listening")["port"]
    return f"ws://127.0.0.1:{port}/pbx/app"


@asynccontextmanager
async def two_that_listen(folder: Path, broker: PrivateBroker, server: PrivatePostgres) -> AsyncIterator[Cluster]:
    async with cluster(folder, broker, server, names=(), accounts=0) as place:
        place.settings |= LISTENING
        for number in (1, 2):
            place.start(number).wait_for_log("listen.listening")
        yield place


async def test_the_newest_connection_wins_whichever_bridge_it_is_with(
    server: PrivatePostgres, tmp_path: Path, broker: PrivateBroker
) -> None:
    pbx = pbx_called("main", ACCOUNTS)
    async with two_that_listen(tmp_path, broker, server) as place:
        async with call(pbx, url(place, 1)):
            first = await read(broker, place.queue, until=ACCOUNTS)
            assert place.holders() == {SOURCE: 1}
            async with call(pbx, url(place, 2)):  # while the first one is still open
                await place.until(lambda holders: holders == {SOURCE: 2})
                pbx.change_display_name(pbx.pick())
                second = await read(broker, place.queue, until=1)
        async with call(pbx, url(place, 1)):
            await place.until(lambda holders: holders == {SOURCE: 1})
            pbx.change_display_name(pbx.pick())
            third = await read(broker, place.queue, until=1)
    assert [*first.sequences, *second.sequences, *third.sequences] == list(range(1, ACCOUNTS + 3))
    assert not pbx.oracle.mistakes


async def test_a_pbx_whose_bridge_was_killed_dials_the_other_one(
    server: PrivatePostgres, tmp_path: Path, broker: PrivateBroker
) -> None:
    pbx = pbx_called("main", ACCOUNTS)
    async with two_that_listen(tmp_path, broker, server) as place:
        async with call(pbx, url(place, 1)):
            first = await read(broker, place.queue, until=ACCOUNTS)
            place.bridges[1].kill()
        pbx.change_display_name(pbx.pick())
        async with call(pbx, url(place, 2)):  # its connection is kept until the dead one's lease is over
            await place.until(lambda holders: holders == {SOURCE: 2})
            came = list(first.sequences)
            while (
                came[-1] <= ACCOUNTS
            ):  # what the dead one could not record any more comes once more, before what is new
                came += (await read(broker, place.queue, until=1)).sequences
    assert list(dict.fromkeys(came)) == list(range(1, ACCOUNTS + 2))
    assert not pbx.oracle.mistakes
