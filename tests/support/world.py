"""A PBX, a bridge and time, all in one hand: no sockets, no sleeping, every case the same for the same seed.

The bridge is the real one (conversation, walker, committer, schedule, delivery, SQLite), the PBX is the pretend one,
and what lies between them is a list of messages with their times. Only the shell that moves text over a socket is
missing.
"""

import heapq
import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import orjson

from bridge.delivery.reconcile import DeletionLimit
from bridge.errors import BridgeError, StoreOutdated, Transient
from bridge.events import cloudevents
from bridge.events.cloudevents import AccountChanged
from bridge.events.normalize import Rules, account_key, read_account
from bridge.model import AccountGuid, Certificate, Cursor, Mirrored, OutboxRow, Row, SourceName
from bridge.observability.source_status import SourceStatus
from bridge.pbx.inbound.authentication import App, Authenticator, Verdict
from bridge.pbx.reader import WalkEvent
from bridge.pbx.walk.actions import Ask, Pace, Reached, Say
from bridge.pbx.walk.schedule import Habits, WalkSchedule
from bridge.pbx.walk.walker import Walker
from bridge.pbx.wire import messages as m
from bridge.pbx.wire.login import login_digest
from bridge.pbx.wire.protocol import Conversation, Event, Party
from bridge.runtime.committer import Committed, Committer
from bridge.simulator.pbx import Pbx
from bridge.simulator.people import Record, build_info
from bridge.simulator.playing import connect
from bridge.simulator.session import Close, Connection, Reply
from bridge.store.records import LogContents
from bridge.store.sqlite.store import SqliteStore
from bridge.store.tables.store import TableStore
from tests.support.subscribers import IdTable, Inbox

EPOCH = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
RECONNECT_SECONDS = 3.0
CHALLENGE = "0123456789abcdef"
RULES = Rules(key=b"w" * 32)
PACE = Pace(poll_interval=60, answer_timeout=20, keepalive=40)

Result = TypeVar("Result")


def now_of(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine that never really waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    raise AssertionError("it waits for something")


async def at_once(call: Callable[..., Result], /, *args: Any) -> Result:
    return call(*args)


def hurried(store: TableStore) -> None:
    """Have *store* not wait for its disk: nobody pulls this plug."""
    if isinstance(store, SqliteStore):
        store._db.execute("PRAGMA synchronous=OFF")  # noqa: SLF001 - no setting, since nobody should


class World:
    """One PBX and one bridge; *chance* decides about all that is left to chance."""

    def __init__(
        self, store: TableStore, name: str, pbx: Pbx, chance: random.Random, *, pbx_dials: bool = False
    ) -> None:
        self.pbx_dials = pbx_dials
        self.store = store
        self.name = SourceName(name)
        self.pbx = pbx
        self.chance = chance
        self.now = 1000.0
        self.told: list[Committed] = []
        self.certificates: list[Certificate] = []
        self.versions: dict[str, list[Record]] = defaultdict(list)
        """Every state an account ever had, by key."""
        self.ever_absent: set[str] = set()
        self.failures: list[BridgeError] = []
        self.is_calm = True
        """False once something happened that may keep the bridge from seeing a row it was handed."""
        self.published: list[OutboxRow] = []
        """Everything that reached the broker, in order, as often as it did: what the log keeps, whatever becomes of the
        store."""
        self.subscribers: tuple[IdTable, Inbox] = (IdTable(), Inbox())
        self.lineage = ""
        self.renewals = -1
        """How often a new lineage began."""
        self.clock_error = timedelta()
        """How far the bridge's clock is off."""
        self._part = SourceStatus(since=EPOCH)
        self._connection: Connection | None = None
        self._walker: Walker | None = None
        self._conversation = Conversation(Party.BRIDGE, caller=Party.BRIDGE)
        self._early: list[Event] = []
        self._mail: list[tuple[float, int, Connection, Reply | Close]] = []
        self._numbers = itertools.count()
        self._uncommitted: list[WalkEvent] = []
        self._reconnect_at = self.now
        self._lost_at: float | None = None
        self._reached: Reached | None = None
        self._start_bridge()
        self.note_truth()

    @property
    def clock(self) -> datetime:
        return EPOCH + timedelta(seconds=self.now) + self.clock_error

    # ------------------------------------------------------------------ what a test does

    def do(self, what: Callable[[], object]) -> None:
        """Let something happen to the PBX."""
        # What a full walk saw and the live cursor tells anew a moment later is told once, in its later state.
        self.is_calm &= self._walker is None or not self._walker.is_beside_live
        what()
        self.note_truth()
        self._hear_out()

    def note_truth(self) -> None:
        """Remember what every account looks like now."""
        truth = {account_key(AccountGuid(guid)): record for guid, record in self.pbx.truth().items()}
        for key, record in truth.items():
            if not self.versions[key] or self.versions[key][-1] != record:
                self.versions[key].append(record)
        self.ever_absent |= self.versions.keys() - truth.keys()

    def crash(self) -> None:
        """Kill the bridge: what is not committed is gone, and so is everything in memory."""
        self.is_calm = False
        self._uncommitted.clear()
        self._disconnect()
        self._reached = None
        self._start_bridge()

    def publish(self, *, is_marked: bool = True) -> None:
        """Let the broker have what waits; unless *is_marked*, no confirm comes back, and it gets all once more."""
        while rows := self.store.exchange.unpublished({self.name: 0}, 1000, 1000):
            for row in rows:
                self.published.append(row)
                for subscriber in self.subscribers:
                    subscriber.receive(row)
            if not is_marked:
                self.store.exchange.mark_in_doubt(rows)
                return
            self.store.exchange.mark_published(rows, self.clock)

    def prune(self) -> None:
        """Forget everything that was published."""
        self.store.prune(self.clock + timedelta(days=400), 10_000)

    def replace_store(self, replace: Callable[[], object], *, is_log_read: bool = True) -> None:
        """Stop the bridge, let something happen to the files of its store, and start it again."""
        self.is_calm = False
        self._uncommitted.clear()
        self._disconnect()
        self.store.close()
        replace()
        self.store.open()
        hurried(self.store)
        try:
            self.store.compare(*((LogContents(self._newest_in_log()),) if is_log_read else (None, "it cannot be read")))
        except StoreOutdated:  # which ends the process; something starts it again
            self.replace_store(lambda: None, is_log_read=is_log_read)
            return
        self._start_bridge()

    def _newest_in_log(self) -> dict[SourceName, tuple[str, int, int]]:
        events = [orjson.loads(row.body) for row in self.published]
        numbers = [(event["lineage"], int(event["sequence"]), event["data"].get("walk", 0)) for event in events]
        return {self.name: max(numbers)} if numbers else {}

    def cut(self) -> None:
        """Cut the connection; messages on their way are lost."""
        self.is_calm = False
        self._disconnect()

    def run(self, seconds: float) -> None:
        """Let time pass."""
        until = self.now + seconds
        while True:
            moment = min(self._next_moment(), until)
            self.now = max(self.now, moment)
            self._step()
            if self.now >= until:
                break
        self._commit()

    def settle(self, *, walks: int = 3) -> None:
        """Let the dust settle: some hours, in which an operator asks for full walks and accepts what they find."""
        for _ in range(walks):
            self.committer.accepts_deletions = True
            self.schedule.ask()
            self.run(1200)

    # ------------------------------------------------------------------ what came of it

    def mirror(self) -> dict[str, Mirrored]:
        with self.store.transaction() as transaction:
            transaction.place(self.name)
            return dict(transaction.mirrored(self.name, self._keys()))

    def events(self) -> list[AccountChanged]:
        """Return all account changes in the order in which they were published first."""
        self.publish()
        rows = {row.event_id: row for row in self.published if row.event_type == cloudevents.ACCOUNT_CHANGED}
        return [cloudevents.decode(row.body) for row in rows.values()]

    def published_of(self, record: Record) -> Any:
        """Return what should be published of *record*."""
        info = build_info(record, self.pbx.modes.shape, domain=self.pbx.domain, pbx=self.pbx.name)
        row = Row(Cursor(), AccountGuid(record.guid), record.h323, orjson.loads(orjson.dumps(info)))
        return read_account(row, None, RULES)

    # ------------------------------------------------------------------ how it works

    def _keys(self) -> Sequence[str]:
        number = self.store.source_id(self.name)
        if isinstance(self.store, SqliteStore):
            every = "SELECT source_id, key FROM account WHERE source_id = ?"
            rows: Sequence[Any] = self.store._db.execute(every, (number,)).fetchall()  # noqa: SLF001 - a test looks inside
        else:
            rows = self.store.query("known_accounts", after_source=number, after_key="", limit=1000)
        return [row["key"] for row in rows if row["source_id"] == number]

    def _start_bridge(self) -> None:
        self.schedule = WalkSchedule(self.name, Habits(nightly_at=None), self.store.verified_at(self.name))
        self.committer = Committer(
            self.name,
            self.store,
            rules=RULES,
            run=at_once,
            clock=lambda: self.clock,
            part=self._part,
            deletion_limit=DeletionLimit(),
            on_committed=self._tell,
            schedule=self.schedule,
        )
        place = self.store.place(self.name)
        self.renewals += place.lineage != self.lineage
        self.lineage = place.lineage
        self.committer.stand_at(place)

    def _tell(self, told: Committed) -> None:
        self.told.append(told)
        if told.certificate is not None:
            self.certificates.append(told.certificate)

    def _next_moment(self) -> float:
        moments = [self.now + 30]
        if self._mail:
            moments.append(self._mail[0][0])
        if self._connection is None:
            moments.append(self._reconnect_at)
        elif self._connection.wake_at is not None:
            moments.append(self._connection.wake_at)
        if self._walker is not None:
            moments.append(self._walker.wake_at)
        return min(moments)

    def _step(self) -> None:
        if self._connection is None and self.now >= self._reconnect_at:
            self._connect()
        while self._mail and self._mail[0][0] <= self.now:
            _, _, connection, reply = heapq.heappop(self._mail)
            if connection is self._connection:
                self._arrive(reply)
        self._hear_out()
        if self._walker is not None:
            self._guarded(lambda walker: walker.pass_time(self.now))
        if self._walker is not None and self.schedule.due(self.clock):
            self._guarded(lambda walker: walker.want_walk(self.now))
        if self.chance.random() < 0.3:
            self._commit()

    def _connect(self) -> None:
        self._commit()
        self.committer.abandon_walk()
        if self._lost_at is not None:
            self.schedule.came_back(timedelta(seconds=self.now - self._lost_at))
            self._lost_at = None
        self._connection = connect(self.pbx, calls=self.pbx_dials, round_trip_seconds=0.01)
        self._conversation = Conversation(Party.BRIDGE, caller=Party.PBX if self.pbx_dials else Party.BRIDGE)
        self._early = []
        self._post(self._connection, self._connection.begin(self.now))
        if not self.pbx_dials:
            self._send(self._conversation.say(m.AppChallenge()))

    def _disconnect(self) -> None:
        if self._walker is not None:
            self._reached = self._walker.reached
        connection, self._connection, self._walker = self._connection, None, None
        if connection is not None:
            connection.closed(self.now)
            self._lost_at = self.now
        self._reconnect_at = self.now + RECONNECT_SECONDS

    def _post(self, connection: Connection, replies: Sequence[Reply | Close]) -> None:
        for reply in replies:
            due = self.now + reply.delay_seconds + 0.01
            heapq.heappush(self._mail, (due, next(self._numbers), connection, reply))

    def _hear_out(self) -> None:
        if self._connection is not None:
            self._post(self._connection, self._connection.tick(self.now))

    def _send(self, text: str) -> None:
        if self._connection is not None:
            self._post(self._connection, self._connection.receive(text, self.now))

    def _arrive(self, reply: Reply | Close) -> None:
        if isinstance(reply, Close):
            self._disconnect()
            return
        if self._walker is not None:
            self._guarded(lambda walker: walker.heard(self._conversation.receive(reply.text), self.now))
            return
        try:
            event = self._conversation.receive(reply.text)
        except Transient as failure:
            self._fail(failure)
            return
        match event:
            case m.AppChallengeResult(challenge=challenge):
                digest = login_digest(app=self.pbx.app, challenge=challenge, password=self.pbx.password)
                self._send(self._conversation.say(m.AppLogin(self.pbx.app, digest)))
            case m.AppChallenge():
                self._send(self._conversation.say(m.AppChallengeResult(CHALLENGE)))
            case m.AppLogin() as login:
                judge = Authenticator([App(self.pbx.app, None, lambda: self.pbx.password)])
                assert judge.judge(login, CHALLENGE).verdict is Verdict.GOOD
                self._send(self._conversation.say(m.LoginAccepted()))
                self._begin()
            case m.LoginAccepted():
                self._begin()
            case _:
                self._early.append(event)

    def _begin(self) -> None:
        self._walker = Walker(self.committer.cursor, PACE, chance=self.chance.random, reached=self._reached)
        self._guarded(lambda walker: walker.begin(self.now))
        for early in self._early:
            self._guarded(lambda walker, early=early: walker.heard(early, self.now))

    def _guarded(self, decide: Callable[..., Sequence[Any]]) -> None:
        if self._walker is None:
            return
        try:
            actions = decide(self._walker)
        except Transient as failure:
            self._fail(failure)
            return
        for action in actions:
            if isinstance(action, Ask):
                self._send(self._conversation.ask(action.cursor))
            elif isinstance(action, Say):
                self._send(self._conversation.say(action.message))
        self._uncommitted += [action for action in actions if isinstance(action, WalkEvent)]

    def _fail(self, failure: BridgeError) -> None:
        self.failures.append(failure)
        self._disconnect()

    def _commit(self) -> None:
        heard, self._uncommitted = self._uncommitted, []
        if heard:
            now_of(self.committer.commit(heard))
        if self.chance.random() < 0.5:
            self.publish(is_marked=self.chance.random() < 0.9)
