"""How a replica becomes the one that reads, by the words of the stream protocol; a real broker is in integration."""

import asyncio
import struct
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import pytest
from rstream import schema

from bridge.consumer.log import stream as native
from bridge.consumer.log.stream import StreamInflow
from bridge.consumer.subscriber import Start
from bridge.errors import BrokerUnreachable, TopologyMismatch

if TYPE_CHECKING:
    from bridge.broker.stream.connection import StreamConnection

QUESTION = 77
"""The broker's number for its question; what is asked of it has numbers of its own."""


class Broker:
    """What a replica needs of a connection."""

    def __init__(self, version: tuple[int, ...] = (3, 11, 0)) -> None:
        self.version = version
        self.on_frame: Any = None
        self.on_end: Any = None
        self.wishes: list[Mapping[str, str]] = []
        self.written: list[bytes] = []

    async def subscribe(self, _stream: str, _offset: object, _credit: int, properties: Mapping[str, str]) -> None:
        self.wishes.append(properties)

    async def write(self, data: bytes) -> None:
        self.written.append(data)

    def says(self, *, active: bool) -> None:
        self.on_frame(schema.ConsumerUpdateResponse(QUESTION, 0, int(active)))

    def standing_by(self) -> "asyncio.Task[StreamInflow]":
        connection = cast("StreamConnection", self)
        return asyncio.ensure_future(StreamInflow.stand_by(connection, "pbx.accounts.log", "crm"))


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ("first", struct.pack(">H", 1)),
        ("next", struct.pack(">H", 3)),
        (0, struct.pack(">Hq", 4, 0)),
        (1234, struct.pack(">Hq", 4, 1234)),
        (datetime(2026, 11, 23, tzinfo=UTC), struct.pack(">Hq", 5, 1795392000000)),
    ],
)
async def test_a_replica_tells_where_to_begin_once_it_is_asked(start: Start, words: bytes) -> None:
    broker = Broker()
    standing_by = broker.standing_by()
    await asyncio.sleep(0)
    assert broker.wishes == [{"single-active-consumer": "true", "name": "crm"}]
    assert broker.written == []
    broker.says(active=True)
    await (await standing_by).begin_at(start)
    (answer,) = broker.written
    assert answer == struct.pack(">IHHIH", 10 + len(words), 0x801A, 1, QUESTION, 1) + words


async def test_a_replica_that_is_to_read_no_more_ends_its_inflow() -> None:
    broker = Broker()
    standing_by = broker.standing_by()
    await asyncio.sleep(0)
    broker.says(active=True)
    inflow = await standing_by
    broker.says(active=False)
    with pytest.raises(BrokerUnreachable, match="lets another replica read"):
        await inflow.next()


async def test_a_replica_that_stands_by_notices_that_its_connection_broke(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(native, "STAND_BY_SECONDS", 0)
    caplog.set_level("INFO", "bridge.consumer")
    broker = Broker()
    standing_by = broker.standing_by()
    while "reader.stands_by" not in caplog.messages:
        await asyncio.sleep(0)
    broker.on_end(BrokerUnreachable("it fell silent"))
    with pytest.raises(BrokerUnreachable, match="it fell silent"):
        await standing_by


@pytest.mark.parametrize("version", [(3, 10, 8), (3, 9, 29), ()])
async def test_where_all_replicas_would_read_none_of_them_does(version: tuple[int, ...]) -> None:
    broker = Broker(version)
    with pytest.raises(TopologyMismatch, match="no single active consumer"):
        await broker.standing_by()
    assert broker.wishes == []
