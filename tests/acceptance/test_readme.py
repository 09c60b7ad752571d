"""The code and the settings on the pages, run as they are printed; ``contract/test_pages.py`` looks at their words."""

import asyncio
import re
import sqlite3
import sys
import tomllib
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import aio_pika
import pytest
import trustme

from bridge.broker.connection import connect
from bridge.broker.declare import declare
from bridge.broker.topology import Subscription, Topology
from bridge.cli.main import commands
from bridge.config.loading import load_settings
from bridge.config.settings import Settings
from bridge.model import ChangeKind
from bridge.store.lineage import new_lineage
from tests.benchmark.node import CACHE, NodeMissingError, prepare
from tests.support.certificates import written
from tests.support.commands import commands_in
from tests.support.events import body, certificate_body, change
from tests.support.followers import POSTGRES, postgres_crm
from tests.support.pages import CONFIG, CONSUMER, PBX, README, blocks, title
from tests.support.process import Command, run
from tests.support.rabbit import PrivateBroker
from tests.support.site import site
from tests.support.witness import bind


async def test_the_ten_lines_of_the_first_page_apply_every_change(tmp_path: Path, broker: PrivateBroker) -> None:
    script = tmp_path / "subscriber.py"
    script.write_text(blocks(README, "python")[0].replace("amqp://guest:guest@localhost/", broker.url))
    await an_empty_queue(broker, "pbx.accounts.crm")
    with Command(cwd=tmp_path, program=(sys.executable, str(script))) as subscriber:

        async def has(guid: str) -> None:
            async with asyncio.timeout(60):
                while guid not in people(tmp_path / "crm.db"):
                    assert subscriber.is_running, subscriber.printed
                    await asyncio.sleep(0.05)

        await all_people(tmp_path, broker, lambda: people(tmp_path / "crm.db"))
        await tell(broker, [("hq.account.created", body(change("anna")))])
        await has("anna")
        gone = ("hq.account.deleted", body(change("anna", 2, kind=ChangeKind.DELETED)))
        await tell(broker, [gone, ("hq.account.created", body(change("anna")))])
        await tell(broker, [("hq.account.created", body(change("bert")))])
        await has("bert")
        assert "anna" not in people(tmp_path / "crm.db")


async def test_the_python_subscriber_applies_every_change_and_a_certificate_removes_who_is_gone(
    tmp_path: Path, broker: PrivateBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "readme"}
    exec(compile(blocks(CONSUMER, "python")[0], title(CONSUMER), "exec"), namespace)  # noqa: S102 - that is the point
    await an_empty_queue(broker, "pbx.accounts.crm")
    subscribing = asyncio.create_task(namespace["main"](broker.url))
    try:
        await all_people(tmp_path, broker, lambda: people(tmp_path / "crm.db"))
        await a_new_lineage(broker)
        async with asyncio.timeout(60):
            while people(tmp_path / "crm.db") != {"anna"}:
                assert not subscribing.done(), subscribing.result()
                await asyncio.sleep(0.05)
    finally:
        subscribing.cancel()
        await asyncio.wait([subscribing])


async def test_the_javascript_subscriber_does_the_same(tmp_path: Path, broker: PrivateBroker) -> None:
    try:
        prepare(("amqplib@2.3.1", "pg@8.23.1"))
    except NodeMissingError as problem:
        # It runs where Node does; without it nobody uses it.
        pytest.skip(f"the JavaScript example needs node and npm: {problem}")
    with postgres_crm() as crm:
        (tmp_path / "node_modules").symlink_to(CACHE / "node_modules")
        script = tmp_path / "subscriber.mjs"
        script.write_text(blocks(CONSUMER, "js")[0])
        await an_empty_queue(broker, "pbx.accounts.others")
        url = f"{POSTGRES}{'&' if '?' in POSTGRES else '?'}options=-c%20search_path%3D{crm.schema}"
        environment = {"DATABASE_URL": url, "AMQP_URL": broker.url}

        def found() -> set[str]:
            with closing(crm.connect()) as connection:
                if connection.execute("SELECT to_regclass('person')").fetchone() == (None,):
                    return set()
                return {guid for (guid,) in connection.execute("SELECT guid FROM person")}

        with Command(environment=environment, program=("node", str(script))) as subscriber:
            async with asyncio.timeout(60):
                while not await is_read(broker, "pbx.accounts.billing"):
                    assert subscriber.is_running, subscriber.printed
                    await asyncio.sleep(0.05)
            await all_people(tmp_path, broker, found)
            await a_new_lineage(broker)
            async with asyncio.timeout(60):
                while found() != {"anna"}:
                    assert subscriber.is_running, subscriber.printed
                    await asyncio.sleep(0.05)
            await a_broken_one_is_put_aside(broker, "pbx.accounts.billing")
            assert subscriber.is_running, subscriber.printed
            assert "unhandled" not in subscriber.printed.lower()


async def a_broken_one_is_put_aside(broker: PrivateBroker, queue: str) -> None:
    """Publish what no handler can read: it has to be in the dead letters, and nobody has to have lost it.

    The queue is what the bridge makes of ``[[subscriber]]``, so either of the two may come first.
    """
    async with await aio_pika.connect(broker.url) as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange("pbx.accounts")
        await exchange.publish(aio_pika.Message(b"{}}"), "hq.account.updated")
        dead = await channel.get_queue(f"{queue}.dead")
        async with asyncio.timeout(30):
            while (letter := await dead.get(no_ack=True, fail=False)) is None:
                await asyncio.sleep(0.05)
        assert letter.body == b"{}}"
    async with connect([broker.url], client_name="test") as connection:
        assert await declare(connection, Topology(subscriptions=[Subscription(queue)])) == []


async def test_the_reader_of_the_log_has_everything_once(
    tmp_path: Path, broker: PrivateBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "readme"}
    exec(compile(blocks(CONSUMER, "python")[2], "README.md", "exec"), namespace)  # noqa: S102 - that is the point
    guids = [uuid4().hex for _ in range(10)]
    async with connect([broker.url], client_name="test") as connection:
        await declare(connection, Topology())
        exchange = await (await connection.channel()).get_exchange("pbx.accounts")
        for guid in guids:
            message = aio_pika.Message(body(change(guid)), type="pbx.account.changed")
            await exchange.publish(message, "hq.account.created", mandatory=False)
    for _ in range(2):  # killed, and started again
        reading = asyncio.create_task(namespace["main"](broker.url))
        async with asyncio.timeout(60):
            while set(guids) - set(seen(tmp_path / "audit.db")):
                assert not reading.done(), reading.result()
                await asyncio.sleep(0.05)
        reading.cancel()
        await asyncio.wait([reading])
    assert sorted(guid for guid in seen(tmp_path / "audit.db") if guid in guids) == sorted(guids)


def seen(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as audit:
        try:
            return [guid for (guid,) in audit.execute("SELECT guid FROM seen")]
        except sqlite3.OperationalError:
            return []


async def an_empty_queue(broker: PrivateBroker, queue: str) -> None:
    """Make the queue of a page, with nothing in it of a test before, which called it the same."""
    async with await aio_pika.connect(broker.url) as connection:
        await (await connection.channel()).queue_delete(queue)
    await bind(broker, "pbx.accounts", queue)


async def all_people(folder: Path, broker: PrivateBroker, found: Callable[[], set[str]]) -> None:
    """Have a bridge publish 30 accounts, and wait until the subscriber has them."""
    async with site(folder, broker, accounts=30) as place:
        place.environment |= {"BRIDGE_RABBITMQ_EXCHANGE": "pbx.accounts"}
        with place.bridge() as bridge:
            async with asyncio.timeout(60):
                while len(found()) < 30:
                    await asyncio.sleep(0.05)
            assert await asyncio.to_thread(bridge.terminate) == 0


async def a_new_lineage(broker: PrivateBroker) -> None:
    """Tell as a bridge would that lost its store, and finds one account that is left."""
    lineage = new_lineage(datetime.now(UTC), ())
    told = change("anna", kind=ChangeKind.INITIAL)
    messages = [
        ("hq.account.initial", body(told, lineage=lineage)),
        ("hq.source.verified", certificate_body(lineage=lineage)),
        ("hq.source.verified", certificate_body(lineage=lineage)),
        ("hq.account.updated", body(change("bert", 9))),
    ]
    await tell(broker, messages)


async def tell(broker: PrivateBroker, messages: Sequence[tuple[str, bytes]]) -> None:
    async with await aio_pika.connect(broker.url) as connection:
        exchange = await (await connection.channel()).get_exchange("pbx.accounts")
        for key, whole in messages:
            kind = "pbx.source.verified" if key.endswith("verified") else "pbx.account.changed"
            await exchange.publish(aio_pika.Message(whole, type=kind), key)


async def is_read(broker: PrivateBroker, queue: str) -> bool:
    async with await aio_pika.connect(broker.url) as connection:
        try:
            found = await (await connection.channel()).declare_queue(queue, passive=True)
        except aio_pika.exceptions.ChannelNotFoundEntity:
            return False
        return bool(found.declaration_result.consumer_count)


def people(database: Path) -> set[str]:
    connection = sqlite3.connect(database)
    try:
        return {guid for (guid,) in connection.execute("SELECT guid FROM person")}
    except sqlite3.OperationalError:
        return set()
    finally:
        connection.close()


def test_the_settings_it_shows_are_settings(tmp_path: Path) -> None:
    text = blocks(CONFIG, "toml")[0]
    for secret in re.findall(r'"(/run/secrets/\w+)"', text):
        file = tmp_path / Path(secret).name
        file.write_text("amqp://bridge:pw@localhost/" if file.name == "broker" else "pw")
        text = text.replace(secret, str(file))
    path = tmp_path / "bridge.toml"
    path.write_text(text)
    settings = load_settings(path, {})
    assert [pbx.name for pbx in settings.pbx] == ["hq", "branch"]
    for table, content in tomllib.loads(text).items():
        assert table in Settings.model_fields, content


def test_what_it_shows_for_pbxs_that_dial_is_settings(tmp_path: Path) -> None:
    certificate, key = written(trustme.CA(), tmp_path, "bridge.example.com")
    (tmp_path / "app").write_text("pw")
    text = (
        blocks(PBX, "toml")[0].replace("/etc/ssl/bridge.pem", str(certificate)).replace("/etc/ssl/bridge.key", str(key))
    )
    path = tmp_path / "bridge.toml"
    path.write_text(text.replace("/run/secrets/app", str(tmp_path / "app")))
    settings = load_settings(path, {}, require_rabbitmq=False)
    assert settings.listen is not None
    assert [app.name for app in settings.listen.app] == ["acct-bridge"]


def test_the_variables_of_the_first_page_are_settings(tmp_path: Path) -> None:
    shell = next(block for block in blocks(README, "sh") if "BRIDGE_PBX_URL" in block)
    environment = dict(re.findall(r"^export (\w+)=(\S+)", shell, re.MULTILINE))
    for name, content in (("PBX_PASSWORD", "pw"), ("RABBITMQ_URL", "amqp://bridge:pw@localhost/")):
        (tmp_path / name).write_text(content)
        environment[f"BRIDGE_{name}_FILE"] = str(tmp_path / name)
    settings = load_settings(None, environment)
    assert [pbx.full_url for pbx in settings.pbx] == ["wss://pbx.example.com/PBX0/APPS/websocket"]


@pytest.mark.parametrize("command", sorted(commands_in(commands)))
def test_every_command_explains_itself(command: str) -> None:
    code, printed = run(command, "--help")
    assert code == 0
    assert "Usage:" in printed.printed
