"""Operators' commands beside a running bridge."""

import asyncio
from pathlib import Path

import orjson

from tests.support.process import run
from tests.support.rabbit import PrivateBroker
from tests.support.site import Site, site, stopped


async def told(place: Site, *arguments: str, code: int = 0) -> str:
    got, command = await asyncio.to_thread(run, *arguments, environment=place.environment)
    assert got == code, command.printed
    return "\n".join(command.out)


async def test_a_paused_pbx_is_not_asked_until_it_is_resumed_also_after_a_restart(
    tmp_path: Path, broker: PrivateBroker
) -> None:
    async with site(tmp_path, broker, accounts=10) as place:
        with place.bridge() as bridge:
            await place.witness(until=10)
            assert "hq is paused" in await told(place, "pause", "hq", "--reason", "firmware update")
            status = orjson.loads(await told(place, "status", "--json"))
            assert status["sources"]["hq"]["is_paused"]
            assert status["ready"], "what an operator wants is no fault"
            assert "paused by an operator (firmware update)" in status["sources"]["hq"]["doing"]
            assert await stopped(bridge) == 0
        place.pbx.change_display_name(next(iter(place.pbx.truth())))
        asked = len(place.pbx.oracle.deliveries)
        with place.bridge() as bridge:
            await asyncio.to_thread(bridge.wait_for_log, "broker.state", 2)
            assert "hq is PAUSED since" in await told(place, "trace", next(iter(place.pbx.truth())))
            assert len(place.pbx.oracle.deliveries) == asked
            assert "hq is read again" in await told(place, "resume", "hq")
            await place.witness(until=1)
            assert await stopped(bridge) == 0
        assert "hq was not paused" in await told(place, "resume", "hq")
        assert "hq is paused" in await told(place, "pause", "hq")
        assert await told(place, "pause", "nowhere", code=1) == ""


async def test_why_a_change_was_not_seen_downstream_is_told_within_seconds(
    tmp_path: Path, broker: PrivateBroker
) -> None:
    async with site(tmp_path, broker, accounts=10) as place:
        guid = next(iter(place.pbx.truth()))
        with place.bridge() as bridge:
            await place.witness(until=10)
            async with asyncio.timeout(30):
                while "the broker confirmed it" not in (words := await told(place, "trace", guid)):
                    await asyncio.sleep(0.1)
            assert "hq is being read" in words
            assert await stopped(bridge) == 0
