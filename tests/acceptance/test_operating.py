"""Operators' commands beside a running bridge."""

import asyncio
import json
import re
import shutil
import stat
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import aio_pika
import orjson
import pytest
from aiormq.exceptions import ChannelAccessRefused
from jsonschema import Draft202012Validator

from bridge.pbx.recording.frames import read
from tests.support.compose import Made
from tests.support.pages import rights
from tests.support.process import Command, run
from tests.support.rabbit import PrivateBroker
from tests.support.site import Site, site, stopped
from tests.support.witness import Witness, bind

SCHEMA = Draft202012Validator(
    json.loads((Path(__file__).parents[2] / "schemas" / "account-changed.v1.schema.json").read_text("utf-8"))
)


async def told(place: Site, *arguments: str, code: int | None = 0) -> str:
    """Return what the command prints on stdout; it has to end with *code*, if one is given."""
    got, command = await asyncio.to_thread(run, *arguments, environment=place.environment)
    assert code in {None, got}, command.printed
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
            assert "NOT READ: hq is paused since" in await told(place, "trace", next(iter(place.pbx.truth())))
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
            assert "hq is being read (last answer " in words
            assert await stopped(bridge) == 0


async def test_a_backup_put_back_uses_no_number_twice_and_ends_with_the_truth(
    tmp_path: Path, broker: PrivateBroker
) -> None:
    async with site(tmp_path, broker, accounts=10) as place:
        first, second, third = sorted(place.pbx.truth())[:3]
        with place.bridge() as bridge:
            early = await place.witness(until=10)
            assert "is copied to" in await told(place, "backup", str(tmp_path / "copy.db"))
            place.pbx.change_display_name(first, "after the copy")
            place.pbx.change_display_name(second, "after the copy")
            early.deliveries += (await place.witness(until=2)).deliveries
            assert await stopped(bridge) == 0
        assert "a new lineage begins" in await told(place, "restore", "--yes", str(tmp_path / "copy.db"))
        place.pbx.change_display_name(third, "while nobody looked")
        with place.bridge() as bridge:
            late = await place.witness(until=10)
            await asyncio.to_thread(bridge.wait_for_log, "source.verified")
            assert bridge.logs("store.renewed")
            assert await stopped(bridge) == 0
    once_only(early, late)
    assert told_anew(late) == {guid: record.dn for guid, record in place.pbx.truth().items()}
    assert told_anew(late)[third] == "while nobody looked"


@pytest.mark.parametrize("is_broker_away", [False, True])
async def test_a_machine_set_back_uses_no_number_twice_and_ends_with_the_truth(
    tmp_path: Path, broken: PrivateBroker, *, is_broker_away: bool
) -> None:
    """Nothing beside the store can tell, since it was set back as well: the log at the broker does."""
    store, snapshot = tmp_path / "store", tmp_path / "snapshot"
    store.mkdir()
    async with site(store, broken, accounts=10) as place:
        first, second, third = sorted(place.pbx.truth())[:3]
        with place.bridge() as bridge:
            early = await place.witness(until=10)
            assert await stopped(bridge) == 0
        shutil.copytree(store, snapshot)
        with place.bridge() as bridge:
            place.pbx.change_display_name(first, "after the snapshot")
            place.pbx.change_display_name(second, "after the snapshot")
            early.deliveries += (await place.witness(until=2)).deliveries
            assert await stopped(bridge) == 0
        shutil.rmtree(store)
        shutil.copytree(snapshot, store)
        place.pbx.change_display_name(third, "while nobody looked")
        if is_broker_away:
            await asyncio.to_thread(broken.stop)
        with place.bridge() as bridge:
            if is_broker_away:  # then nobody can tell which numbers were given, so none are
                await asyncio.to_thread(bridge.wait_for_log, "broker.failed")
                assert not bridge.logs("source.starting")
                assert "its log has to be compared with the store" in await told(place, "status", code=1)
                await asyncio.to_thread(broken.start)
            renewed = await asyncio.to_thread(bridge.wait_for_log, "store.renewed")
            assert "the log at the broker has later numbers: hq 12 of" in renewed["problem"]
            late = await place.witness(until=10)
            assert await stopped(bridge) == 0
    once_only(early, late)
    assert told_anew(late) == {guid: record.dn for guid, record in place.pbx.truth().items()}


def told_anew(late: Witness) -> dict[str, str]:
    """Return what each account is called, as all of them were told once more."""
    assert {event["data"]["change"] for event in late.deliveries} == {"initial"}
    return {event["subject"]: event["data"]["account"]["display_name"] for event in late.deliveries}


def once_only(early: Witness, late: Witness) -> None:
    """Hold that each number of a lineage belongs to one event, and that the new lineage counts from 1."""
    owners: dict[tuple[str, str], str] = {}
    for event in [*early.deliveries, *late.deliveries]:
        assert owners.setdefault((event["lineage"], event["sequence"]), event["id"]) == event["id"]
    assert {event["lineage"] for event in early.deliveries}.isdisjoint(event["lineage"] for event in late.deliveries)
    assert late.sequences == list(range(1, len(late.sequences) + 1))


async def test_a_replay_reaches_one_queue_with_the_same_bytes_and_a_label(
    tmp_path: Path, broker: PrivateBroker
) -> None:
    """With no more permissions than the page about the broker gives the bridge."""
    broker.ctl("add_user", "narrow", "narrow")
    broker.ctl("set_permissions", "narrow", *rights())
    async with site(tmp_path, broker, accounts=600) as place:
        place.environment["BRIDGE_RABBITMQ_URL"] = broker.url_of("narrow", "narrow")
        with place.bridge() as bridge:
            live = await place.witness(until=600)
            guid = live.deliveries[0]["subject"]
            place.pbx.change_display_name(guid, "Erika")
            live.deliveries += (await place.witness(until=1)).deliveries
            other = f"{place.exchange}.other"
            await durable_queue(broker, other)
            words = await told(place, "replay", "--queue", other, "--since", "2020-01-01")
            assert words.startswith(f"601 events were sent to {other} again")
            replayed = await messages(broker, other)
            assert [json.loads(message.body) for message in replayed] == live.deliveries
            assert {message.headers["x-label"] for message in replayed} == {"replay"}
            assert {message.routing_key for message in replayed} == {"hq.account.initial", "hq.account.updated"}
            assert await place.witness(until=0) == Witness(), "nobody else gets anything"
            words = await told(place, "replay", "--queue", other, "--since", "2020-01-01", "--account", guid, "--json")
            assert json.loads(words) == {"queue": other, "sent": 2, "forgotten": 0}
            assert "no event that was sent since" in await told(
                place, "replay", "--queue", other, "--since", "2999-01-01"
            )
            assert await told(place, "replay", "--queue", "nowhere", "--since", "2020-01-01", code=1) == ""
            assert await stopped(bridge) == 0
    assert f"{place.exchange}.detour" not in broker.ctl("list_exchanges", "name")


async def test_a_broker_installed_anew_goes_on_with_the_same_numbers_and_a_replay_brings_what_its_queues_lost(
    tmp_path: Path, broker: PrivateBroker, broken: PrivateBroker
) -> None:
    async with site(tmp_path, broken, accounts=10) as place:
        gone, changed = sorted(place.pbx.truth())[:2]
        with place.bridge() as bridge:
            live = await place.witness(until=9)
            place.pbx.delete(gone)
            await asyncio.to_thread(bridge.wait_for_log, "broker.state", 1)
            async with asyncio.timeout(30):
                while "deleted" not in await told(place, "trace", gone):
                    await asyncio.sleep(0.1)
            assert await stopped(bridge) == 0
        place.environment["BRIDGE_RABBITMQ_URL"] = broker.url  # another one, and empty
        with place.bridge() as bridge:
            await asyncio.to_thread(bridge.wait_for_log, "broker.state", 2)
            await bind(broker, place.exchange, place.queue)
            place.pbx.change_display_name(changed)
            (again,) = await messages_until(broker, place.queue, 1)
            assert not bridge.logs("store.renewed")
            assert json.loads(again.body)["sequence"] == "00000000000000000012"
            await told(place, "replay", "--queue", place.queue, "--since", "2020-01-01")
            replayed = [json.loads(message.body) for message in await messages_until(broker, place.queue, 12)]
            assert await stopped(bridge) == 0
    assert replayed[:9] == live.deliveries[:9]
    assert [event["subject"] for event in replayed if event["data"]["change"] == "deleted"] == [gone]


async def messages_until(broker: PrivateBroker, queue: str, count: int) -> list[aio_pika.abc.AbstractIncomingMessage]:
    found: list[aio_pika.abc.AbstractIncomingMessage] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            found += await messages(broker, queue)
            await asyncio.sleep(0.05)
    return found


async def test_a_snapshot_brings_one_queue_to_the_present_state_while_changes_go_on(
    tmp_path: Path, broker: PrivateBroker
) -> None:
    async with site(tmp_path, broker, accounts=2000) as place:
        with place.bridge() as bridge:
            await place.witness(until=2000)
            late = f"{place.exchange}.late"
            await bind(broker, place.exchange, late)  # its subscriber begins with live events, and then a snapshot
            changing = asyncio.create_task(change_now_and_then(place))
            words = json.loads(await told(place, "snapshot", "--queue", late, "--json"))
            changing.cancel()
            assert words["sent"] >= 2000 - 10
            place.pbx.change_display_name(place.pbx.pick(), "the last word")
            async with asyncio.timeout(30):
                while "the broker confirmed it" not in await told(place, "trace", "the last word", code=None):
                    await asyncio.sleep(0.1)
            assert await stopped(bridge) == 0
            events = [(json.loads(message.body), message) for message in await messages(broker, late)]
        for event, _ in events[:: len(events) // 50]:
            SCHEMA.validate(event)
        seen: set[str] = set()
        state: dict[str, Any] = {}
        for event, _ in events:  # as a subscriber that remembers ids and nothing else
            if event["id"] not in seen:
                seen.add(event["id"])
                state[event["subject"]] = event["data"]["account"]
                if event["data"]["change"] == "deleted":
                    del state[event["subject"]]
        assert {guid: account["display_name"] for guid, account in state.items()} == {
            guid: record.dn for guid, record in place.pbx.truth().items()
        }
        snapshots = [message for _, message in events if message.headers.get("x-label") == "snapshot"]
        assert len(snapshots) == words["sent"] + words["again"]


async def change_now_and_then(place: Site) -> None:
    while True:
        place.pbx.change_display_name(place.pbx.pick())
        await asyncio.sleep(0.01)


async def durable_queue(broker: PrivateBroker, name: str) -> None:
    async with await aio_pika.connect(broker.url) as connection:
        await (await connection.channel()).declare_queue(name, durable=True)


async def messages(broker: PrivateBroker, queue: str) -> list[aio_pika.abc.AbstractIncomingMessage]:
    """Take everything that is in the queue."""
    found = []
    async with await aio_pika.connect(broker.url) as connection:
        declared = await (await connection.channel()).declare_queue(queue, passive=True)
        while (message := await declared.get(no_ack=True, fail=False)) is not None:
            found.append(message)
    return found


async def test_a_support_bundle_has_no_secret_and_no_person_in_it(tmp_path: Path, broken: PrivateBroker) -> None:
    secrets = ["pl4nted-s3cret", 'br0ker "s3cret" \u00e9/@', "t0ken-s3cret-of-the-page"]
    broken.ctl("add_user", "spy", secrets[1])
    broken.ctl("set_permissions", "spy", ".*", ".*", ".*")
    async with site(tmp_path, broken, accounts=10) as place:
        guid = place.pbx.pick()
        place.pbx.change_display_name(guid, "Planted Person")
        place.environment |= {
            "BRIDGE_RABBITMQ_URL": broken.url_of("spy", quote(secrets[1], safe="")),
            "BRIDGE_STATUS_TOKEN": secrets[2],
            "BRIDGE_LOG_LEVEL": "debug",
            "BRIDGE_PBX_RECORD_FRAMES": "9",
        }
        with place.bridge() as bridge:
            await place.witness(until=10)
            await asyncio.to_thread(broken.stop)
            place.pbx.change_extension(guid, "4711-0815")
            await asyncio.to_thread(bridge.wait_for_log, "broker.failed")
            async with asyncio.timeout(30):
                while "NOT SENT yet" not in await told(place, "trace", guid):
                    await asyncio.sleep(0.1)
            running, stopped_one = tmp_path / "running.zip", tmp_path / "stopped.zip"
            await told(place, "support-bundle", "--output", str(running))
            assert await told(place, "support-bundle", "--output", str(running), code=1) == ""
            assert await stopped(bridge) == 0
        await told(place, "support-bundle", "--output", str(stopped_one))
        people = [text for record in place.pbx.truth().values() for text in (record.dn, record.cn, record.h323)]
        forms = [form for secret in secrets for form in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1])]
        for file in (running, stopped_one):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            content = unpacked(file)
            text = b"\n".join([file.read_bytes(), *content.values(), *map(str.encode, content)]).decode("latin-1")
            words = [*forms, *people, "Planted Person", "4711-0815", guid]
            assert not [word for word in words if word.encode().decode("latin-1") in text]
            assert json.loads(content["about.json"])["account-bridge"]
            assert json.loads(content["settings.json"])["pbx"][0]["name"] == "hq"
            assert json.loads(content["store.json"])["waiting_or_held"][0]["routing_key"] == "hq.account.updated"
        assert b"broker.failed" in unpacked(running)["log.jsonl"]
        recording = read(unpacked(running)["recording-hq.jsonl"].decode().splitlines(keepends=True))
        assert len(recording.frames) == 9
        assert recording.header.made_by == "run"
        assert b"no bridge answers" in unpacked(stopped_one)["recordings.json"]
        assert b"no bridge answers" in unpacked(stopped_one)["log.jsonl"]


def unpacked(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as bundle:
        return {name: bundle.read(name) for name in bundle.namelist()}


async def test_a_shadow_shows_what_would_be_sent_and_nobody_notices(tmp_path: Path, broker: PrivateBroker) -> None:
    async with site(tmp_path, broker, accounts=30) as place:
        place.environment |= {"BRIDGE_RABBITMQ_URL": "amqp://nobody.invalid/", "BRIDGE_PUBLISH_EXCLUDE": "emails"}
        printed = await told(place, "run", "--shadow", "--once")
        assert "Nothing was published. 30 events would have been" in printed
        assert "30  hq.account.initial" in printed
        assert "hq: kept back by configuration: emails" in printed
        place.pbx.change_display_name(place.pbx.pick(), "\x1b[31mlater")
        *events, summary = map(json.loads, (await told(place, "run", "--shadow", "--once", "--json")).splitlines())
        assert [event["data"]["account"]["display_name"] for event in events] == ["[31mlater"], "its own cursor"
        assert summary["events"] == {"hq.account.updated": 1}
        assert not (tmp_path / "bridge.db").exists()
        place.environment["BRIDGE_PBX_URL"] = "ws://127.0.0.1:1"
        assert "hq: NOT READ: no connection" in await told(place, "run", "--shadow", "--once", code=1)
        assert await told(place, "run", "--once", code=2) == ""
    assert await place.witness(until=0) == Witness()


async def test_tail_shows_only_what_is_asked_for(tmp_path: Path, broker: PrivateBroker) -> None:
    async with site(tmp_path, broker, accounts=10) as place:
        first, second = sorted(place.pbx.truth())[:2]
        with place.bridge() as bridge:
            await place.witness(until=10)
            place.pbx.change_extension(first, "4031")
            place.pbx.change_display_name(second, "Erika")
            await place.witness(until=2)
            tail = ("tail", "--from", "first", "--json")
            for options, expected in (
                (("--field", "numbers"), [first]),
                (("--account", "Erika"), [second]),
                (("--account", "4031"), [first]),
                (("--change", "updated", "--source", "hq"), [first, second]),
            ):
                with Command(*tail, *options, environment=place.environment) as tailing:
                    async with asyncio.timeout(30):
                        while len(tailing.out) < len(expected):
                            await asyncio.sleep(0.05)
                    assert [json.loads(line)["subject"] for line in tailing.out] == expected
            assert await stopped(bridge) == 0


async def test_a_watched_status_is_shown_anew_until_stopped(tmp_path: Path, broker: PrivateBroker) -> None:
    async with site(tmp_path, broker, accounts=3) as place:
        with place.bridge() as bridge, Command("status", "--watch", environment=place.environment) as watching:
            async with asyncio.timeout(30):
                while "verified" not in watching.printed:
                    await asyncio.sleep(0.05)
                assert await stopped(bridge) == 0
                while "no bridge answers" not in watching.printed:
                    await asyncio.sleep(0.05)
            assert watching.terminate() != 0
    assert "Traceback" not in watching.printed


async def test_the_user_of_the_demos_subscriber_may_read_the_log_and_nothing_else(
    tmp_path: Path, broker: PrivateBroker
) -> None:
    made = Made(tmp_path)
    made.run()
    name = f"reader{uuid4().hex[:6]}"
    async with site(tmp_path, broker, accounts=5) as place:
        rights = [right.replace(r"pbx\.accounts", re.escape(place.exchange)) for right in made.rights("subscriber")]
        await asyncio.to_thread(broker.ctl, "add_user", name, "pw")
        await asyncio.to_thread(broker.ctl, "set_permissions", "-p", "/", name, *rights)
        environment = {**place.environment, "BRIDGE_RABBITMQ_URL": broker.url_of(name, "pw")}
        with place.bridge() as bridge, Command("tail", "--from", "first", "--json", environment=environment) as tail:
            async with asyncio.timeout(60):
                while len(tail.out) < 5:
                    assert tail.is_running, tail.printed
                    await asyncio.sleep(0.1)
            assert await asyncio.to_thread(bridge.terminate) == 0
        async with await aio_pika.connect(broker.url_of(name, "pw")) as connection:
            for attempt in (
                lambda channel: channel.declare_queue("pbx.accounts.mine", exclusive=True),
                lambda channel: channel.declare_exchange("pbx.accounts.mine", durable=True),
                lambda channel: channel.queue_delete(f"{place.exchange}.log"),
                lambda channel: channel.default_exchange.publish(aio_pika.Message(b"x"), f"{place.exchange}.log"),
                lambda channel: consumed(channel, place.queue),
            ):
                with pytest.raises(ChannelAccessRefused):
                    await attempt(await connection.channel())


async def consumed(channel: aio_pika.abc.AbstractChannel, queue: str) -> None:
    async def take(_message: aio_pika.abc.AbstractIncomingMessage) -> None:
        raise AssertionError("a message of somebody else")

    await (await channel.get_queue(queue, ensure=False)).consume(take)
