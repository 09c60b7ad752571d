"""Observe a PBX that dials the bridge, and keep what it says, as an operator does."""

import asyncio
import json
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from websockets.exceptions import InvalidStatus

from bridge.pbx.inbound.identity import Identity
from bridge.pbx.recording.frames import read
from bridge.simulator.modes import Modes
from bridge.simulator.pbx import Pbx
from bridge.simulator.server import call, keep_calling
from tests.support.dialled_site import PASSWORD, DialledSite, dialled_site, pbx_called
from tests.support.process import Command, run
from tests.support.rabbit import PrivateBroker, free_port

MAIN, BRANCH = (Identity("example.com", name).source for name in ("main", "branch"))
QUICK = ("--quiet-seconds", "0", "--rows-per-second", "200", "--answer-seconds", "5")


def listening_on(port: int) -> dict[str, str]:
    return {
        "BRIDGE_LISTEN_HOST": "127.0.0.1",
        "BRIDGE_LISTEN_PORT": str(port),
        "BRIDGE_LISTEN_APP_NAME": "app",
        "BRIDGE_LISTEN_APP_PASSWORD": PASSWORD,
    }


@asynccontextmanager
async def dialling(pbx: Pbx, url: str) -> AsyncIterator[None]:
    """Let *pbx* dial *url* again and again."""
    calling = asyncio.create_task(keep_calling(pbx, url, pause_seconds=0.1))
    try:
        yield
    finally:
        calling.cancel()
        with suppress(asyncio.CancelledError):
            await calling


async def test_a_pbx_that_dials_is_observed_and_recorded_and_another_is_sent_away(tmp_path: Path) -> None:
    port, record = free_port(), tmp_path / "main.jsonl"
    main = pbx_called("main", 12, modes=Modes.parse(["cursor-number", "idle-bare"]))
    branch = pbx_called("branch", 3, seed=2)
    url = f"ws://127.0.0.1:{port}/pbx/app"
    with Command(
        "observe", MAIN, "--json", "--record", str(record), *QUICK, environment=listening_on(port)
    ) as observing:
        async with dialling(branch, url):
            while not any("sent away" in line for line in observing.err):
                assert observing.is_running, observing.printed
                await asyncio.sleep(0.05)
            async with dialling(main, url):
                assert await asyncio.to_thread(observing.wait) == 0, observing.printed
    assert f"PBX “branch” of “example.com” has dialled; it is {BRANCH}, and sent away" in observing.printed
    told = json.loads("\n".join(observing.out))
    assert {"cursor-number", "idle-bare"} <= set(told["modes"])
    assert told["source"] == MAIN
    recording = read(record.read_text("utf-8").splitlines(keepends=True))
    opened = {frame.connection for frame in recording.frames if frame.what == "opened"}
    assert len(opened) > 1, "it was asked on another connection, too"
    first = [frame for frame in recording.frames if frame.connection == 1][1]
    assert (first.by, json.loads(first.text)["mt"]) == ("bridge", "AppLoginResult")
    people = [text for person in main.truth().values() for text in (person.dn, person.cn, person.h323, person.guid)]
    assert not [text for text in [*people, PASSWORD, "example.com"] if text in record.read_text("utf-8")]
    assert not branch.oracle.deliveries
    assert not main.oracle.mistakes


async def test_where_a_pbx_cannot_come_in_it_is_told_what_is_wrong_with_its_coming(tmp_path: Path) -> None:
    """Its App object may have another password than we, or another path: that it has not dialled would be no help."""
    port, record = free_port(), tmp_path / "main.jsonl"
    with Command("observe", MAIN, "--record", str(record), *QUICK, environment=listening_on(port)) as observing:
        while not any(line.startswith("waiting") for line in observing.err):
            assert observing.is_running, observing.printed
            await asyncio.sleep(0.05)
        with suppress(InvalidStatus):
            async with call(pbx_called("main", 1), f"ws://127.0.0.1:{port}/elsewhere"):
                pass
        assert await asyncio.to_thread(observing.terminate) == 1
    assert observing.err[0].startswith(f"no [[pbx]] is named {MAIN}: listening on ws://127.0.0.1:{port}/")
    assert "refused at the door: another path (1)" in observing.err
    assert observing.err[-1].endswith("it was stopped before the PBX was asked anything, so nothing was learnt")
    assert not observing.out, "no table"
    assert not record.exists(), "and the next try may have that name"


async def bundle_of(place: DialledSite, folder: Path) -> dict[str, Any]:
    file = folder / "bundle.zip"
    code, command = await asyncio.to_thread(run, "support-bundle", "--output", str(file), environment=place.environment)
    assert code == 0, command.printed
    with zipfile.ZipFile(file) as bundle:
        return {name: bundle.read(name).decode() for name in bundle.namelist()}


async def test_a_bridge_keeps_what_a_pbx_that_dials_said_last_and_tells_what_no_observation_has_shown(
    tmp_path: Path, broker: PrivateBroker
) -> None:
    observed = tmp_path / "observed"
    observed.mkdir()
    (observed / f"{MAIN}.json").write_text(json.dumps({"version": 1, "modes": ["cursor-string"]}), "utf-8")
    pbx = pbx_called("main", 5, modes=Modes.parse(["cursor-number"]))
    async with dialled_site(tmp_path, broker) as place:
        place.environment |= {
            "BRIDGE_LISTEN_RECORD_FRAMES": "200",
            "BRIDGE_LISTEN_OBSERVATION_DIR": str(observed),
        }
        async with place.bridge() as bridge, call(pbx, place.url, ssl_context=place.context):
            await place.witness(until=5)
            told = await asyncio.to_thread(bridge.wait_for_log, "source.unobserved")
            bundle = await bundle_of(place, tmp_path)
            assert await asyncio.to_thread(bridge.terminate) == 0
    assert (told["source"], "it sends usn as a number" in told["problem"]) == (MAIN, True)
    recording = read(bundle[f"recording-{MAIN}.jsonl"].splitlines(keepends=True))
    said = [json.loads(frame.text)["mt"] for frame in recording.frames if frame.what == "message"]
    assert min(frame.at for frame in recording.frames) == 0.0
    assert said[0] == "AppLoginResult"
    assert {"PbxInfo", "AccountInfo", "AccountInfoResult"} <= set(said)
    people = [text for person in pbx.truth().values() for text in (person.dn, person.cn, person.guid)]
    assert not [text for text in [*people, PASSWORD] if text in bundle[f"recording-{MAIN}.jsonl"]]
