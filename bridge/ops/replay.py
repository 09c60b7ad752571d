"""Events to one queue only, beside the live ones and without disturbing them: a replay of what was sent, or a snapshot.

Both read the store as any operator's command does and publish on a connection of their own, through an exchange that
leads to that one queue. Live events go on to arrive there meanwhile, in any order with these.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from bridge.broker.publisher import ExchangePublisher, ExchangeSession
from bridge.events import cloudevents
from bridge.model import AccountChange, ChangeKind, OutboxRow, SourceName
from bridge.store.contract import StoreReader
from bridge.store.records import KnownAccount, RecordedEvent

PAGE_ACCOUNTS = 256


class Sender:
    """Sends rows and waits for their confirms, page by page."""

    def __init__(self, session: ExchangeSession) -> None:
        self._session = session
        self._sent = 0
        self.confirmed = 0

    def __repr__(self) -> str:
        return f"<Sender {self.confirmed} confirmed>"

    async def send(self, rows: Iterable[OutboxRow]) -> None:
        """Return once the broker confirmed all of *rows*.

        Raises:
            BridgeError: what ended the session, or why the broker did not take one of them; ``confirmed`` tells how
                far it came.

        """
        page = list(rows)
        if not page:
            return
        for refusal in filter(None, map(self._session.explain_refusal, page)):
            raise refusal
        await self._session.send(page)
        self._sent += len(page)
        while self.confirmed < self._sent:
            outcomes = await self._session.outcomes()
            self.confirmed += len(outcomes.confirmed)
            for _, refusal in outcomes.refused:
                raise refusal


@asynccontextmanager
async def sending(publisher: ExchangePublisher) -> AsyncIterator[Sender]:
    """Send while inside."""
    async with publisher.session() as session:
        yield Sender(session)


def is_replayable(event: RecordedEvent) -> bool:
    """Tell whether *event* was sent and can be sent again just as it was."""
    return (
        event.event_type == cloudevents.ACCOUNT_CHANGED
        and event.published_at is not None
        and event.discarded_reason is None
        and event.forgotten_at is None
    )


def as_row(event: RecordedEvent) -> OutboxRow:
    """Return *event* as it was sent."""
    return OutboxRow(
        position=event.position,
        source=event.source,
        sequence=event.sequence,
        event_id=event.event_id,
        event_type=event.event_type,
        routing_key=event.routing_key,
        body=event.body,
        created_at=event.created_at,
    )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One snapshot: the present state of all accounts, and of those that change while it is sent."""

    store: StoreReader
    run: str
    """Makes its events' ids its own."""
    clock: Callable[[], datetime]
    sources: AbstractSet[SourceName] | None = None
    """Only these; ``None``: all that the store has."""

    async def send(self, sender: Sender) -> tuple[int, int]:
        """Return how many accounts were sent, and how many of them once more because they changed meanwhile.

        A state is read, then sent; a change in between may overtake it on the live way. So what changed since the
        beginning is sent once more, until nothing did.

        Raises:
            BridgeError: what ended the sending.

        """
        mark = self.store.last_position()
        count = again = 0
        page: list[KnownAccount] = []
        for known in self.store.accounts():
            if not known.is_deleted and self._is_wanted(known.source):
                page.append(known)
            if len(page) == PAGE_ACCOUNTS:
                await sender.send(self._told(page))
                count, page = count + len(page), []
        await sender.send(self._told(page))
        count += len(page)
        for events in self.store.events(after=mark):  # until no more come
            changed = {(event.source, event.account_key) for event in events if event.account_key is not None}
            told = [self.store.account(*each) for each in sorted(changed) if self._is_wanted(each[0])]
            for start in range(0, len(told), PAGE_ACCOUNTS):
                await sender.send(self._told(filter(None, told[start : start + PAGE_ACCOUNTS])))
            again += len(told)
        return count, again

    def _is_wanted(self, source: SourceName) -> bool:
        return self.sources is None or source in self.sources

    def _told(self, page: Iterable[KnownAccount]) -> Iterator[OutboxRow]:
        for known in page:
            change = AccountChange(
                source=known.source,
                kind=ChangeKind.DELETED if known.is_deleted else ChangeKind.INITIAL,
                account=known.account,
                changed=(),
                previous={},
                revision=known.revision,
                cursor=known.cursor,
            )
            sequence, lineage, now = known.sequence, known.lineage, self.clock()
            identity = cloudevents.snapshot_id(change, lineage, self.run)
            body = cloudevents.encode(change, identity=identity, sequence=sequence, lineage=lineage, time=now)
            key = cloudevents.routing_key(change)
            yield OutboxRow(0, known.source, sequence, identity, cloudevents.ACCOUNT_CHANGED, key, body, now)
