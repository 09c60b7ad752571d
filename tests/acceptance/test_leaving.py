"""A PBX gets another name, or is followed no more, beside a real broker and a running bridge."""

import asyncio
from pathlib import Path

import orjson

from tests.support.rabbit import PrivateBroker
from tests.support.site import Site, asked, site, stopped
from tests.support.witness import bind, read

ACCOUNTS = 12


async def status(place: Site) -> str:
    return (await asked(place, "status"))[1]


async def is_said(place: Site, words: str) -> str:
    async with asyncio.timeout(60):
        while words not in (told := await status(place)):
            await asyncio.sleep(0.2)
    return told


async def test_a_pbx_is_renamed_and_everybody_is_there_once(broker: PrivateBroker, tmp_path: Path) -> None:
    async with site(tmp_path, broker, accounts=ACCOUNTS) as place:
        with place.bridge() as bridge:
            await place.witness(until=ACCOUNTS)
            await is_said(place, "all match")
            assert await stopped(bridge) == 0
        refused = await asked(place, "rename", "hq", "berlin", "--yes")
        assert refused[0] == 1
        assert "hq is still configured" in refused[1]
        place.environment["BRIDGE_PBX_NAME"] = "berlin"
        code, told = await asked(place, "rename", "hq", "berlin", "--yes")
        assert (code, f"{ACCOUNTS} accounts will be told" in told) == (0, True)
        rows = place.rows_handed_out
        with place.bridge() as bridge:
            witness = await place.witness(until=2 * ACCOUNTS)
            said = await is_said(place, "up to date")
            assert "hq:" not in said
            assert await stopped(bridge) == 0
        seen = [(event["source"], event["data"]["change"]) for event in witness.deliveries]
        assert seen == [("/pbx/hq", "deleted")] * ACCOUNTS + [("/pbx/berlin", "initial")] * ACCOUNTS
        assert place.rows_handed_out <= rows + 2 * ACCOUNTS, "nothing but a walk is read again"


async def test_what_is_not_configured_any_more_is_told_counts_nowhere_and_can_go(
    broker: PrivateBroker, tmp_path: Path
) -> None:
    async with site(tmp_path, broker, accounts=ACCOUNTS) as place:
        with place.bridge() as bridge:
            await place.witness(until=ACCOUNTS)
            assert await stopped(bridge) == 0
        place.environment["BRIDGE_PBX_NAME"] = "berlin"
        await bind(broker, place.exchange, f"{place.queue}.snapshot", key="nothing")
        with place.bridge() as bridge:
            told = await is_said(place, f"hq: not followed any more. The store still has {ACCOUNTS} accounts of it")
            await is_said(place, "all match")
            await place.witness(until=ACCOUNTS)
            code, told = await asked(place, "snapshot", "--queue", f"{place.queue}.snapshot")
            assert (code, f"{ACCOUNTS} accounts were sent" in told) == (0, True)
            snapshot = await read(broker, f"{place.queue}.snapshot", until=ACCOUNTS)
            assert {event["source"] for event in snapshot.deliveries} == {"/pbx/berlin"}
            code, told = await asked(place, "snapshot", "--queue", f"{place.queue}.snapshot", "--source", "hq")
            assert (code, "hq is not configured any more" in told) == (1, True)
            code, told = await asked(place, "accounts")
            assert (told.count("berlin"), f"Its {ACCOUNTS} accounts are not listed" in told) == (ACCOUNTS, True)
            code, told = await asked(place, "retire", "berlin", "--yes")
            assert (code, "berlin is followed" in told) == (1, True)
            code, told = await asked(place, "retire", "hq", "--tell-deletions", "--yes")
            assert (code, f"{ACCOUNTS} accounts are told to be gone" in told) == (0, True)
            gone = await place.witness(until=ACCOUNTS)
            deleted = {(event["source"], event["data"]["change"]) for event in gone.deliveries}
            assert deleted == {("/pbx/hq", "deleted")}
            assert await stopped(bridge) == 0
        code, told = await asked(place, "retire", "hq", "--yes", "--json")
        assert (code, "no PBX in this store is called 'hq'" in told) == (1, True)
        code, told = await asked(place, "accounts", "--json")
        assert {orjson.loads(line)["source"] for line in told.splitlines()} == {"berlin"}
