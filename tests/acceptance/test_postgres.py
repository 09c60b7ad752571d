"""The program on a store in PostgreSQL, as people run it."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import pytest

from tests.support.postgres import PASSWORD, PrivatePostgres, is_installed
from tests.support.process import Command, run
from tests.support.rabbit import PrivateBroker
from tests.support.site import Site, rows_are_handed_out, site, stopped

pytestmark = pytest.mark.skipif(not is_installed(), reason="PostgreSQL is not installed here (Debian: postgresql)")


@pytest.fixture
def server() -> Iterator[PrivatePostgres]:
    with PrivatePostgres() as started:
        yield started


@asynccontextmanager
async def place_on(
    server: PrivatePostgres, folder: Path, broker: PrivateBroker, *, accounts: int = 10
) -> AsyncIterator[Site]:
    async with site(folder, broker, accounts=accounts) as place:
        place.environment |= {
            "BRIDGE_STORE_URL": server.url(),
            "BRIDGE_STORE_LEASE_SECONDS": "5",
            "XDG_RUNTIME_DIR": str(server.runtime),
        }
        yield place


async def told(place: Site, *arguments: str, code: int | None = 0) -> str:
    """Return what the command prints on stdout; it has to end with *code*, if one is given."""
    got, command = await asyncio.to_thread(run, *arguments, environment=place.environment)
    assert code in {None, got}, command.printed
    assert PASSWORD not in command.printed
    return "\n".join([*command.out, *(command.err if code else [])])


async def until_all_is_recorded(place: Site) -> None:
    """Wait until the store knows that everything was sent: what it does not know may come once more."""
    while json.loads(await told(place, "status", "--json", code=None))["unsent"]:
        pass


async def test_every_command_works_beside_a_bridge_and_without_one(
    server: PrivatePostgres, tmp_path: Path, broker: PrivateBroker
) -> None:
    async with place_on(server, tmp_path, broker) as place:
        guid = next(iter(place.pbx.truth()))
        assert "no store in postgresql://bridge@127.0.0.1" in await told(place, "accounts", code=1)
        with place.bridge() as bridge:
            await place.witness(until=10)
            assert "hq is paused" in await told(place, "pause", "hq")
            assert "hq is read again" in await told(place, "resume", "hq")
            assert len((await told(place, "accounts")).splitlines()) == 10
            assert guid in await told(place, "trace", guid)
            assert "is open in a running bridge" in await told(place, "check", code=None)
            assert json.loads(await told(place, "status", "--json"))["ready"]
            assert await stopped(bridge) == 0
            assert PASSWORD not in bridge.printed
        assert "can be written; 0 events wait" in await told(place, "check", code=None)
        assert "hq is paused" in await told(place, "pause", "hq")
        assert "hq is read again" in await told(place, "resume", "hq")
        assert len((await told(place, "accounts", "--json")).splitlines()) == 10
        assert json.loads(await told(place, "parked", "--json")) == []
        assert "pg_dump" in await told(place, "backup", str(tmp_path / "copy"), code=1)
        (tmp_path / "copy").touch()
        assert "pg_restore" in await told(place, "restore", "--yes", str(tmp_path / "copy"), code=1)


async def test_a_second_bridge_is_refused_and_one_that_was_killed_is_followed_by_the_next(
    server: PrivatePostgres, tmp_path: Path, broker: PrivateBroker
) -> None:
    async with place_on(server, tmp_path, broker) as place:
        with place.bridge() as bridge:
            await place.witness(until=10)
            assert "another bridge" in await told(place, "rename", "x", "hq", "--yes", code=1)
            await until_all_is_recorded(place)
            bridge.kill()
        place.pbx.change_display_name(next(iter(place.pbx.truth())))
        with place.bridge() as bridge:
            assert len((await place.witness(until=1)).ids) == 1
            assert await stopped(bridge) == 0


@pytest.mark.parametrize("how", ["fast", "immediate"])
async def test_a_restart_of_the_database_is_waited_for_and_nothing_is_lost_or_told_twice(
    server: PrivatePostgres, tmp_path: Path, broker: PrivateBroker, how: Literal["fast", "immediate"]
) -> None:
    async with place_on(server, tmp_path, broker, accounts=50) as place:
        with place.bridge() as bridge:
            await place.witness(until=50)
            await asyncio.to_thread(server.stop, how)
            for guid in list(place.pbx.truth())[:5]:
                place.pbx.change_display_name(guid)
            await asyncio.to_thread(bridge.wait_for_log, "store.unavailable")
            board = json.loads(await told(place, "status", "--json", code=None))
            assert "cannot be used" in " ".join(board["sentences"])
            await asyncio.to_thread(server.start)
            witness = await place.witness(until=5)
            assert len(witness.ids) == 5
            assert await stopped(bridge) == 0


async def test_a_stop_while_the_database_is_away_ends_in_its_time_and_nothing_is_lost(
    server: PrivatePostgres, tmp_path: Path, broker: PrivateBroker
) -> None:
    async with place_on(server, tmp_path, broker) as place:
        with place.bridge() as bridge:
            await place.witness(until=10)
            await until_all_is_recorded(place)
            await asyncio.to_thread(server.stop)
            count = place.rows_handed_out
            for guid in list(place.pbx.truth())[:3]:
                place.pbx.change_display_name(guid)
            await rows_are_handed_out(place, count + 3)  # each is asked for with the one before, so two are at hand
            await asyncio.to_thread(bridge.wait_for_log, "store.unavailable")
            assert await stopped(bridge) != 0
        await asyncio.to_thread(server.start)
        with place.bridge() as bridge:
            assert len((await place.witness(until=3)).ids) == 3
            assert await stopped(bridge) == 0


async def test_a_wrong_password_is_said_and_not_shown(
    server: PrivatePostgres, tmp_path: Path, broker: PrivateBroker
) -> None:
    async with place_on(server, tmp_path, broker) as place:
        place.environment["BRIDGE_STORE_URL"] = server.url(password="wr0ng-s3cret")
        with Command("run", environment=place.environment) as bridge:
            assert await asyncio.to_thread(bridge.wait) != 0
            assert "does not accept" in bridge.printed
            assert "wr0ng-s3cret" not in bridge.printed
