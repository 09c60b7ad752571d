"""Both ways into the log write every row; how fast is for the program to say."""

import asyncio
from pathlib import Path

import aio_pika
import pytest

from tests.benchmark import log, outbox, site
from tests.support.rabbit import PrivateBroker

ROWS = 700


async def written(url: str, stream: str) -> int:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=ROWS)
        queue = await channel.get_queue(stream, ensure=False)
        count = 0
        async with queue.iterator(arguments={"x-stream-offset": "first"}, timeout=10) as messages:
            async for message in messages:
                await message.ack()
                count += 1
                if count == ROWS:
                    break
    return count


@pytest.mark.parametrize("way", log.WAYS)
def test_every_row_of_the_outbox_is_in_the_log_before_the_clock_stops(
    way: str, broker: PrivateBroker, tmp_path: Path
) -> None:
    template = tmp_path / "template.db"
    outbox.fill(site.in_file(template), ROWS, partitions=1)
    exchange = site.new_exchange()
    urls = [broker.url, broker.stream_url]
    measured = log.drained(way=way, template=str(template), urls=urls, exchange=exchange, rows=ROWS)
    assert measured["seconds"] > 0
    assert measured["cpu_seconds"] > 0
    assert asyncio.run(written(broker.url, f"{exchange}.log")) == ROWS
