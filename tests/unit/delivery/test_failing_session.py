"""The relay and a session that fails at each of its calls in turn: it says so, and everything is sent in the end."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bridge.broker.session import ConfirmSession
from bridge.delivery.ingest import ingest
from bridge.delivery.relay import OutboxRelay
from bridge.errors import BridgeError, BrokerUnreachable
from bridge.events.normalize import Rules
from bridge.model import OutboxRow, SourceName
from bridge.runtime.retry import Backoff, keep_trying
from bridge.store.sqlite.store import SqliteStore
from tests.support.boards import NOW
from tests.support.rows import batch, row
from tests.support.world import at_once

EVENTS = 12


class Failing(ConfirmSession):
    """Confirms at once what it gets, and fails at one of the calls that it counts over all sessions."""

    def __init__(self, broker: "Broker") -> None:
        super().__init__(lambda _state: None)
        self._broker = broker

    def explain_refusal(self, _row: OutboxRow) -> BridgeError | None:
        return None

    async def _write(self, rows: Sequence[OutboxRow]) -> None:
        self._broker.call("before anything is written")
        self._goes_out(rows)
        await asyncio.sleep(0)
        self._broker.call("in the middle of writing")
        self._broker.got += [row.sequence for row in rows]
        for tag in range(self._ledger.sent_count - len(rows) + 1, self._ledger.sent_count + 1):
            asyncio.get_running_loop().call_soon(self._confirm, tag)

    def _confirm(self, tag: int) -> None:
        try:
            self._broker.call("instead of a confirm")
        except BridgeError as problem:
            self.end(problem)
        self._tell(lambda: self._ledger.ack(tag, multiple=False))


class Broker:
    """Makes sessions, of which the call number *fails_at* fails."""

    def __init__(self, fails_at: int) -> None:
        self.got: list[int] = []
        self.failed = ""
        self._calls_left = fails_at

    def call(self, where: str) -> None:
        self._calls_left -= 1
        if self._calls_left == 0:
            self.failed = where
            raise BrokerUnreachable(where)

    def reconsider(self) -> None:
        """Take the news that what was refused may be taken now."""

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Failing]:
        self.call("on opening")
        session = Failing(self)
        async with session.watched(5):
            yield session
        self.call("on closing")


class Nobody:
    """Hears what becomes of rows, and says nothing."""

    def published(self, _rows: Sequence[OutboxRow]) -> None: ...

    def alive(self) -> None: ...

    def parked(self, row: OutboxRow, reason: str) -> None:
        raise AssertionError(f"{row.event_id} was refused: {reason}")

    def stopped(self, row: OutboxRow, problem: BridgeError, _pause_seconds: float) -> None:
        raise AssertionError(f"{row.event_id} was not taken: {problem}")

    def fenced(self, source: SourceName, problem: BridgeError, _pause_seconds: float) -> None:
        raise AssertionError(f"{source} waits: {problem}")

    def unfenced(self, _source: SourceName) -> None: ...


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(tmp_path / "bridge.db") as opened:
        ingest(
            opened,
            batch(*[row(str(n), n) for n in range(1, EVENTS + 1)]),
            rules=Rules(key=b"k" * 32),
            now=NOW,
        )
        yield opened


@pytest.mark.parametrize("fails_at", range(1, 20))
async def test_a_failure_anywhere_hangs_nothing_and_loses_nothing(store: SqliteStore, fails_at: int) -> None:
    broker, told = Broker(fails_at), list[str]()
    relay = OutboxRelay(store.exchange, broker, Nobody(), offload=at_once, clock=lambda: NOW, window=4)
    patience = Backoff(transient_max_seconds=0.001)
    async with asyncio.timeout(10):
        running = asyncio.create_task(
            keep_trying(relay.run, patience, lambda problem, _pause: told.append(str(problem)))
        )
        while store.backlog.rows:
            await asyncio.sleep(0.001)
        relay.stop()
        await running
    assert told == [broker.failed] * bool(broker.failed)
    assert list(dict.fromkeys(broker.got)) == list(range(1, EVENTS + 1)), "first appearances are in order"
