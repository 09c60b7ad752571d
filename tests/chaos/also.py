"""A consumer for ``--also`` in its simplest form: what it applied and what it remembers are the same file.

The file is named by ``CHAOS_EFFECTS``; a line for each effect: event id, sequence, account, revision, with tabs between.
A delivery that comes again after a kill finds its id there. Ends when the broker does; the run starts it again.
"""

import asyncio
import json
import os
from pathlib import Path

import aio_pika


async def main() -> None:
    path = Path(os.environ["CHAOS_EFFECTS"])
    path.touch()
    applied = {line.split("\t")[0] for line in path.read_text("utf-8").splitlines()}
    connection = await aio_pika.connect(os.environ["CHAOS_AMQP_URL"], timeout=10)
    ended = asyncio.Event()
    connection.close_callbacks.add(lambda *_: ended.set())
    with path.open("ab", buffering=0) as effects:

        async def apply(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            event = json.loads(message.body)
            if event["type"] == "pbx.account.changed" and event["id"] not in applied:
                applied.add(event["id"])
                columns = (event["id"], event["sequence"], event["subject"], event["data"]["revision"])
                effects.write("\t".join(map(str, columns)).encode() + b"\n")
            await message.ack()

        channel = await connection.channel()
        await channel.set_qos(prefetch_count=100)
        queue = await channel.get_queue(os.environ["CHAOS_QUEUE"])
        await queue.consume(apply)
        await ended.wait()


if __name__ == "__main__":
    asyncio.run(main())
