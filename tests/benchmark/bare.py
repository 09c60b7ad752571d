"""The other sides of the comparisons: the least that anybody has to do, without the bridge.

Nothing of the bridge is imported but one digest, so that these processes are up quickly.
"""

import asyncio
import sys
import time
from typing import Any
from uuid import uuid4

import aio_pika
import orjson
from websockets.asyncio.client import connect

from bridge.pbx.wire.login import login_digest

APP = "bench"
PASSWORD = "benchmark"
"""Of the pretend PBX."""
EVENT_BYTES = 1024
PER_SECOND = 100
"""What both sides publish, and how often."""
Times = dict[str, float]


def walked(*, url: str, accounts: int) -> dict[str, Any]:
    """Walk the list with a bare ``websockets`` client: the least that any client of this API has to do."""
    return asyncio.run(_walked(url, accounts))


async def _walked(url: str, accounts: int) -> dict[str, Any]:
    async with connect(url, compression=None, ping_interval=None, proxy=None) as socket:

        async def ask(question: dict[str, Any]) -> Any:
            await socket.send(orjson.dumps(question).decode())
            return orjson.loads(await socket.recv(decode=False))

        challenge = (await ask({"mt": "AppChallenge"}))["challenge"]
        digest = login_digest(app=APP, challenge=challenge, password=PASSWORD)
        login = {"mt": "AppLogin", "app": APP, "domain": "", "sip": "", "guid": "", "dn": "", "digest": digest}
        assert (await ask(login))["ok"]
        head = {"api": "PbxAccountApi", "mt": "AccountInfo", "src": "acct-1"}
        guid = (await ask(head))["guid"]
        began, busy = time.perf_counter(), time.process_time()
        question, rows = {**head, "guid": guid}, 0
        while (answer := await ask(question)).get("account-guid"):
            rows += 1
            question = {**head, "guid": guid, "usn": answer["usn"], "ausn": answer["ausn"]}
        took, cpu = time.perf_counter() - began, time.process_time() - busy
    assert rows == accounts, f"{rows} accounts instead of {accounts}"
    return {"seconds": took, "cpu_seconds": cpu}


def taken(*, broker: str, queue: str) -> dict[str, Any]:
    """Consume until stdin is closed; when each message came, by id, on the clock that all processes share."""
    return asyncio.run(_taken(broker, queue))


async def _taken(broker: str, queue: str) -> Times:
    came: Times = {}

    async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        came[str(message.message_id)] = time.monotonic()

    async with await aio_pika.connect(broker) as connection:
        channel = await connection.channel()
        declared = await channel.declare_queue(queue, durable=True, passive=True)
        await declared.consume(take, no_ack=True)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)
    return came


def plain(*, broker: str, exchange: str, count: int) -> dict[str, Any]:
    """Publish with plain aio-pika: persistent, confirmed, one after the other; when each one was handed over, by id."""
    return asyncio.run(_plain(broker, exchange, count))


async def _plain(broker: str, exchange: str, count: int) -> Times:
    handed: Times = {}
    body = b"x" * EVENT_BYTES
    async with await aio_pika.connect(broker) as connection:
        channel = await connection.channel(publisher_confirms=True)
        target = await channel.get_exchange(exchange, ensure=False)

        async def publish() -> None:
            identity = str(uuid4())
            message = aio_pika.Message(body, message_id=identity, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            handed[identity] = time.monotonic()
            await target.publish(message, "p0.account.updated")

        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                await asyncio.sleep(max(0.0, began + number / PER_SECOND - time.monotonic()))
                group.create_task(publish())
    return handed
