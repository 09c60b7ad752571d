"""What every session promises, whatever broker is behind it: ``bridge.delivery.sink.Session``."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from bridge.broker.confirms import ConfirmLedger
from bridge.broker.session import CLAIMED_AT_ONCE, ConfirmSession
from bridge.errors import BridgeError, BrokerDidNotConfirm, BrokerUnreachable, FenceHeld
from bridge.model import OutboxRow, SourceName
from tests.support.rows import HQ

CUT = BrokerUnreachable("the cable was cut")
FULL = BrokerDidNotConfirm("a queue is full")
DEADLINE_SECONDS = 0.1


def rows(count: int) -> list[OutboxRow]:
    now = datetime(2026, 11, 23, tzinfo=UTC)
    return [OutboxRow(n, HQ, n, f"id-{n}", "type", "key", b"{}", now) for n in range(1, count + 1)]


class Plain(ConfirmSession):
    """A session with nothing behind it: *trouble* is raised when something is written, or nothing ever gets written."""

    def __init__(self, trouble: BaseException | None = None, *, is_stuck: bool = False) -> None:
        self.progress = 0
        super().__init__(lambda _state: None, self._count)
        self._trouble = trouble
        self._is_stuck = is_stuck

    def explain_refusal(self, _row: OutboxRow) -> BridgeError | None:
        return None

    async def _write(self, rows: Sequence[OutboxRow]) -> None:
        self._goes_out(rows)
        if self._trouble is not None:
            raise self._trouble
        if self._is_stuck:
            await self._unless_ended(asyncio.Event().wait())

    def says(self, tell: Callable[[ConfirmLedger], None]) -> None:
        """Have the broker say something."""
        self._tell(lambda: tell(self._ledger))

    def _count(self) -> None:
        self.progress += 1


async def failure_of(work: "asyncio.Task[object]") -> BaseException:
    async with asyncio.timeout(5):
        await asyncio.wait([work])
    failure = work.exception()
    assert failure is not None
    return failure


@asynccontextmanager
async def waiting(session: Plain) -> AsyncIterator["asyncio.Task[object]"]:
    task: asyncio.Task[object] = asyncio.create_task(session.outcomes())
    await asyncio.sleep(0)
    yield task
    assert task.done()


async def test_outcomes_are_told_once_and_before_the_end() -> None:
    session = Plain()
    await session.send(rows(3))
    session.says(lambda ledger: ledger.ack(2, multiple=False))
    session.says(lambda ledger: ledger.nack(1, FULL, multiple=False))
    session.end(CUT)
    session.says(lambda ledger: ledger.ack(3, multiple=False))
    confirmed, refused = await session.outcomes()
    assert (list(confirmed), list(refused)) == ([2], [(1, FULL)])
    for _ in range(2):
        with pytest.raises(BrokerUnreachable, match="cut"):
            await session.outcomes()


async def test_a_refused_row_ends_nothing() -> None:
    session = Plain()
    await session.send(rows(1))
    session.says(lambda ledger: ledger.nack(1, FULL, multiple=False))
    await session.send(rows(1))
    session.says(lambda ledger: ledger.ack(2, multiple=False))
    assert await session.outcomes() == ([2], [(1, FULL)])


@pytest.mark.parametrize("trouble", [CUT, FULL, ValueError("a mistake"), asyncio.CancelledError()])
async def test_whatever_is_raised_while_sending_ends_the_session_and_wakes_who_waits(trouble: BaseException) -> None:
    session = Plain(trouble)
    async with waiting(session) as outcomes:
        with pytest.raises(type(trouble)):
            await session.send(rows(1))
        reason = await failure_of(outcomes)
    assert isinstance(reason, BridgeError)
    assert reason is trouble or "interrupted" in str(reason)
    with pytest.raises(type(reason)):
        await session.send(rows(1))


async def test_the_end_of_a_session_wakes_who_sends() -> None:
    session = Plain(is_stuck=True)
    sending: asyncio.Task[object] = asyncio.create_task(session.send(rows(1)))
    await asyncio.sleep(0)
    session.end(CUT)
    assert await failure_of(sending) is CUT


async def test_a_send_that_is_cancelled_ends_the_session() -> None:
    session = Plain(is_stuck=True)
    sending = asyncio.create_task(session.send(rows(1)))
    async with waiting(session) as outcomes:
        sending.cancel()
        assert isinstance(await failure_of(outcomes), BrokerUnreachable)
    assert sending.cancelled()


async def test_a_confirm_for_what_was_never_sent_ends_the_session() -> None:
    session = Plain()
    await session.send(rows(1))
    async with waiting(session) as outcomes:
        session.says(lambda ledger: ledger.ack(2, multiple=False))
        assert isinstance(await failure_of(outcomes), BrokerDidNotConfirm)


async def test_a_row_that_stays_out_ends_the_session_although_others_are_confirmed() -> None:
    session = Plain()
    async with session.watched(DEADLINE_SECONDS), asyncio.timeout(5):
        await session.send(rows(1))
        with pytest.raises(BrokerDidNotConfirm, match=r"confirmed nothing for 0\.1 s"):
            for tag in range(2, 1000):
                await session.send(rows(1))
                session.says(lambda ledger, tag=tag: ledger.ack(tag, multiple=False))  # type: ignore[misc]
                await session.outcomes()
                await asyncio.sleep(0.01)
    assert session.progress, "to wait for the broker is no hanging"


async def test_nothing_is_overdue_where_nothing_is_out() -> None:
    session = Plain()
    async with session.watched(DEADLINE_SECONDS):
        await session.send(rows(1))
        session.says(lambda ledger: ledger.ack(1, multiple=False))
        progress = session.progress
        await asyncio.sleep(3 * DEADLINE_SECONDS)
        await session.send(rows(1))
    assert session.progress == progress


async def test_leaving_ends_it_for_who_still_waits() -> None:
    session = Plain()
    async with waiting(session) as outcomes:
        async with session.watched(DEADLINE_SECONDS):
            pass
        assert "over" in str(await failure_of(outcomes))


class Taken:
    """Fences that are taken as the test lets them."""

    def __init__(self) -> None:
        self.taken: list[SourceName] = []
        self.goes = 0
        self.may_go = asyncio.Event()
        self.may_go.set()
        self.trouble: BridgeError | None = None
        self.fenced: dict[SourceName, FenceHeld] = {}

    def missing(self, sources: Iterable[SourceName]) -> Sequence[SourceName]:
        return [source for source in sources if source not in self.taken]

    async def take(self, sources: Sequence[SourceName]) -> None:
        await self.may_go.wait()
        if self.trouble is not None:
            raise self.trouble
        self.goes += 1
        self.taken += sources

    async def release(self, sources: Sequence[SourceName]) -> None:
        self.taken = [source for source in self.taken if source not in sources]


MANY = [SourceName(f"p{number}") for number in range(3 * CLAIMED_AT_ONCE)]


async def test_many_fences_are_taken_one_portion_after_the_other_beside_whatever_is_sent() -> None:
    session, fences = Plain(), Taken()
    session.fences = fences
    async with asyncio.timeout(5), session.claiming(MANY):
        await session.claim([HQ])
        while len(fences.taken) <= len(MANY):
            await asyncio.sleep(0)
        assert (set(fences.taken), fences.goes) == ({HQ, *MANY}, 4)
        await session.release([HQ])
        assert HQ not in fences.taken


async def test_a_fence_that_cannot_be_asked_for_ends_the_session() -> None:
    session, fences = Plain(), Taken()
    session.fences, fences.trouble = fences, CUT
    async with session.claiming(MANY), waiting(session) as outcomes:
        assert await failure_of(outcomes) is CUT


async def test_nobody_waits_for_fences_once_the_session_is_over() -> None:
    session, fences = Plain(), Taken()
    session.fences = fences
    fences.may_go.clear()
    async with asyncio.timeout(5):
        async with session.claiming(MANY):
            await asyncio.sleep(0)
    assert fences.taken == []
