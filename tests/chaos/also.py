"""A consumer for ``--also`` in its simplest form: what it applied and what it remembers are the same file.

The file is named by ``CHAOS_EFFECTS`` and has a line for each effect: event id, source, lineage, sequence,
account and revision, with tabs between them. A delivery that comes again after a kill finds its id there. Ends when
the broker does; the run starts it again.
"""

import asyncio
import json
import os
from pathlib import Path
from typing import BinaryIO

import aio_pika


async def apply_all(effects: BinaryIO) -> None:
    applied = {line.split(b"\t")[0].decode() for line in effects}
    connection = await aio_pika.connect(os.environ["CHAOS_AMQP_URL"], timeout=10)
    ended = asyncio.Event()
    connection.close_callbacks.add(lambda *_: ended.set())

    async def apply(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        event = json.loads(message.body)
        if event["type"] == "pbx.account.changed" and event["id"] not in applied:
            applied.add(event["id"])
            columns = (
                event["id"],
                event["source"],
                event["lineage"],
                event["sequence"],
                event["subject"],
                event["data"]["revision"],
            )
            effects.write("\t".join(map(str, columns)).encode() + b"\n")
            effects.flush()
        await message.ack()

    channel = await connection.channel()
    await channel.set_qos(prefetch_count=100)
    queue = await channel.get_queue(os.environ["CHAOS_QUEUE"])
    await queue.consume(apply)
    await ended.wait()


def main() -> None:
    with Path(os.environ["CHAOS_EFFECTS"]).open("a+b") as effects:
        effects.seek(0)
        asyncio.run(apply_all(effects))


if __name__ == "__main__":
    main()
