"""Observe a PBX, record it, and play it again, as an operator does."""

import asyncio
import base64
import hashlib
import json
import stat
import time
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from jsonschema import Draft202012Validator

from bridge.pbx.recording.frames import read
from bridge.simulator.modes import Modes
from bridge.simulator.pbx import Pbx
from bridge.simulator.server import serve
from tests.support.enemies import served_enemy
from tests.support.enemy import PERSONS, SECRETS, Enemy
from tests.support.process import Command, run
from tests.support.rabbit import PrivateBroker, free_port
from tests.support.site import site, stopped

PASSWORD = "pl4nted-s3cret"
SCHEMA = json.loads((Path(__file__).parents[2] / "schemas/recording.v1.schema.json").read_text("utf-8"))
OBSERVATION = json.loads((Path(__file__).parents[2] / "schemas/observation.v1.schema.json").read_text("utf-8"))
QUICK = ("--quiet-seconds", "0", "--rows-per-second", "200", "--answer-seconds", "5")


def environment(url: str, app: str = "app", password: str = PASSWORD) -> dict[str, str]:
    return {"BRIDGE_PBX_NAME": "hq", "BRIDGE_PBX_URL": url, "BRIDGE_PBX_APP": app, "BRIDGE_PBX_PASSWORD": password}


@asynccontextmanager
async def pretend(*words: str, accounts: int = 12) -> AsyncIterator[tuple[Pbx, dict[str, str]]]:
    pbx = Pbx(accounts=accounts, app="app", password=PASSWORD, modes=Modes.parse(words))
    async with serve(pbx) as served:
        yield pbx, environment(served.url)


async def test_a_pbx_is_observed_recorded_and_played_again(tmp_path: Path) -> None:
    record, page = tmp_path / "hq.jsonl", tmp_path / "hq.html"
    async with pretend("idle-bare", "cursor-number") as (pbx, settings):
        options = ("--record", str(record), "--html", str(page), "--json", *QUICK)
        code, observed = await asyncio.to_thread(run, "observe", "hq", *options, environment=settings)
        people = [text for person in pbx.truth().values() for text in (person.dn, person.cn, person.h323, person.guid)]
    assert code == 0, observed.printed
    told = json.loads("\n".join(observed.out))
    Draft202012Validator(OBSERVATION).validate(told)
    assert {"idle-bare", "cursor-number"} <= set(told["modes"])
    for file in (record, page):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert not [text for text in [*people, PASSWORD, "example.com"] if text in file.read_text("utf-8")]
    lines = record.read_text("utf-8").splitlines(keepends=True)
    for line in lines:
        Draft202012Validator(SCHEMA).validate(json.loads(line))
    assert list(read(lines).header.modes) == told["modes"]
    again = await asyncio.to_thread(played, record)
    assert {"idle-bare", "cursor-number"} <= set(again["modes"])


def played(record: Path) -> dict[str, list[str]]:
    """Return what an observation of the recording says."""
    port = free_port()
    with Command("simulate", "--recording", str(record), "--port", str(port), "--speed", "50") as simulator:
        until = time.monotonic() + 30
        while not any("listens" in line for line in simulator.err):
            assert simulator.is_running, simulator.printed
            assert time.monotonic() < until
            time.sleep(0.05)
        url = f"ws://127.0.0.1:{port}/PBX0/APPS/websocket"
        code, observed = run(
            "observe", "hq", "--json", *QUICK[:4], "--answer-seconds", "1", environment=environment(url, "demo", "demo")
        )
    assert code == 0, observed.printed
    return dict(json.loads("\n".join(observed.out)))


@pytest.mark.parametrize(("observed", "words"), [("cursor-string", "usn as a number"), ("cursor-number", "")])
async def test_check_says_what_no_observation_has_shown(tmp_path: Path, observed: str, words: str) -> None:
    file = tmp_path / "hq.json"
    file.write_text(json.dumps({"version": 1, "modes": [observed]}), "utf-8")
    async with pretend("cursor-number") as (_, settings):
        settings |= {
            "BRIDGE_PBX_OBSERVATION_FILE": str(file),
            "BRIDGE_RABBITMQ_URL": "amqp://127.0.0.1:1/",
            "BRIDGE_STORE_URL": f"sqlite:///{tmp_path / 'bridge.db'}",
        }
        _, checked = await asyncio.to_thread(run, "check", environment=settings)
    assert "logged in as app" in checked.printed
    assert ("account-bridge observe hq --json" in checked.printed) is bool(words)
    assert words in checked.printed


async def test_ctrl_c_keeps_what_was_learnt(tmp_path: Path) -> None:
    record = tmp_path / "hq.jsonl"
    async with pretend("cursor-hex", accounts=300) as (pbx, settings):
        with Command("observe", "hq", "--record", str(record), environment=settings) as observing:
            async with asyncio.timeout(30):
                while pbx.oracle.load.questions < 6:
                    await asyncio.sleep(0.05)
            observing.interrupt()
            assert await asyncio.to_thread(observing.wait) == 0
            assert "stopped; this is what was learnt" in observing.printed
            assert "U1: " in observing.printed
        assert pbx.oracle.load.max_per_second <= 6
    assert len(read(record.read_text("utf-8").splitlines(keepends=True)).frames) > 10


@pytest.mark.parametrize("option", ["--record", "--html"])
async def test_a_file_that_is_there_already_is_refused_before_anything_is_asked(tmp_path: Path, option: str) -> None:
    """Or else minutes of questions would end with nothing to show for them."""
    there = tmp_path / "there"
    there.write_text("something")
    async with pretend() as (pbx, settings):
        code, observed = await asyncio.to_thread(run, "observe", "hq", option, str(there), *QUICK, environment=settings)
    assert (code, pbx.oracle.load.questions) == (1, 0)
    assert "File exists. Name another one" in observed.printed
    assert there.read_text("utf-8") == "something"


async def test_with_me_asks_for_each_act_and_takes_no_answer_for_no() -> None:
    """Where nobody is at the terminal, every act is left out, and the rest is observed."""
    async with pretend() as (_, settings):
        code, observed = await asyncio.to_thread(run, "observe", "hq", "--with-me", *QUICK, environment=settings)
    assert code == 0, observed.printed
    for act in ("rename", "group", "create", "delete", "template", "reboot"):
        assert f"[{act}]" in observed.printed


async def test_a_wrong_password_is_a_sentence_and_no_table(tmp_path: Path) -> None:
    async with pretend() as (_, settings):
        settings["BRIDGE_PBX_PASSWORD"] = "another-s3cret"
        code, observed = await asyncio.to_thread(run, "observe", "hq", environment=settings)
    assert code == 1
    assert "refused the login" in observed.printed
    assert "U1" not in observed.printed
    code, observed = run("observe", "hq", "--record", str(tmp_path), environment=settings)
    assert code == 2
    assert "Traceback" not in observed.printed


@pytest.mark.parametrize(
    ("content", "words"), [(None, "cannot be read"), ("nonsense", "no recording"), ('{"format":"x"}', "no recording")]
)
def test_what_cannot_be_played_is_refused_with_a_sentence(tmp_path: Path, content: str | None, words: str) -> None:
    file = tmp_path / "r.jsonl"
    if content is not None:
        file.write_text(content, "utf-8")
    code, simulator = run("simulate", "--recording", str(file), "--port", "0")
    assert code == 1
    assert words in simulator.printed


def test_a_pbx_that_is_not_configured_cannot_be_observed() -> None:
    code, observed = run("observe", "branch", environment=environment("ws://127.0.0.1:1/"))
    assert code == 2
    assert "there is no [[pbx]] named 'branch' (there is: hq)" in observed.printed


def found_in(text: str) -> list[str]:
    """Return which planted things *text* has, as they are or as somebody who searches would look for them."""
    forms = {form for value in (*PERSONS, *SECRETS) for form in forms_of(value)}
    return [form for form in forms if form in text.lower()]


def forms_of(value: str) -> set[str]:
    data = value.encode()
    digests = {digest(data).hexdigest() for digest in (hashlib.md5, hashlib.sha1, hashlib.sha256)}
    coded = {base64.b64encode(data).decode(), data.hex(), quote(value), value[::-1]}
    escaped = "".join(f"\\u{ord(character):04x}" for character in value)
    return {form.lower() for form in ({value, escaped} | digests | coded)}


async def test_nothing_of_an_observation_has_a_person_in_it_who_stands_everywhere(tmp_path: Path) -> None:
    record, page = tmp_path / "hq.jsonl", tmp_path / "hq.html"
    async with served_enemy(Enemy.habits["PlantsPersons"]()) as url:
        settings = environment(url, Enemy.app, Enemy.password)
        options = ("--record", str(record), "--html", str(page), *QUICK)
        code, observed = await asyncio.to_thread(run, "observe", "hq", *options, environment=settings)
        _, as_json = await asyncio.to_thread(run, "observe", "hq", "--json", *QUICK, environment=settings)
    assert code == 0, observed.printed
    recorded = record.read_text("utf-8")
    texts = [json.loads(line).get("text", "") for line in recorded.splitlines()]
    assert sum("account-guid" in text for text in texts) > 12
    for text in (recorded, "\n".join(texts), page.read_text("utf-8"), observed.printed, as_json.printed):
        assert found_in(text) == []


async def test_a_support_bundle_repeats_nothing_that_a_pbx_said(tmp_path: Path, broker: PrivateBroker) -> None:
    """Errors, names of members and messages are quoted in the log and the status for who reads them at home only."""
    async with served_enemy(Enemy.habits["PlantsPersons"]()) as url, site(tmp_path, broker, accounts=1) as place:
        place.environment |= environment(url, Enemy.app, Enemy.password) | {
            "BRIDGE_PBX_RECORD_FRAMES": "500",
            "BRIDGE_LOG_LEVEL": "debug",
        }
        with place.bridge() as bridge:
            await asyncio.to_thread(bridge.wait_for_log, "source.troubled")
            assert PERSONS[0] in await asyncio.to_thread(said, place.environment)
            bundle = tmp_path / "bundle.zip"
            code, told = await asyncio.to_thread(
                run, "support-bundle", "--output", str(bundle), environment=place.environment
            )
            assert code == 0, told.printed
            assert await stopped(bridge) == 0
    with zipfile.ZipFile(bundle) as parts:
        for name in parts.namelist():
            assert found_in(parts.read(name).decode()) == [], name
        assert len(parts.read("recording-hq.jsonl").splitlines()) > 50
        assert b"source.troubled" in parts.read("log.jsonl")


def said(settings: dict[str, str]) -> str:
    _, status = run("status", environment=settings)
    return status.printed
