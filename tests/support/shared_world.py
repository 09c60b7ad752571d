"""A pretend database, broker and PBX, and bridges that share sources by the real decisions; time is a number.

What a statement of the store does stands here in a few lines: what it compares can be left out, to see that it matters.
"""

from collections import deque
from dataclasses import dataclass, field

from bridge.model import SourceName
from bridge.store.sharing import Free, Peer, Tenure, choose_claims, choose_gifts

LEASE = 15.0
WINDOW = 4
FENCE_SECONDS = 20.0
SOURCES = (SourceName("hq"), SourceName("branch"))


@dataclass(frozen=True)
class Rules:
    """What the database compares; each of them may be left out."""

    compares_holder: bool = True
    """Whether a statement about a source looks who holds it, and under which epoch."""
    compares_cursor: bool = True
    """Whether the cursor moves only from where it was left."""
    marks_blindly: bool = False
    """Whether what is sent counts as confirmed."""
    waits_for_fence: bool = True
    """Whether who takes over waits for the connection of the one before."""
    doubts_former: bool = True
    """Whether who takes over takes to be in doubt what the one before may have sent."""
    is_over_for_good: bool = True
    """Whether who was taken to be dead renews nothing any more."""
    gives_back_own: bool = True
    """Whether only who holds a source can let go of it."""
    counts_from_answer: bool = False
    """Whether a lease is counted from when the answer came, not from when the renewal was sent."""


@dataclass
class Life:
    """One life of a bridge, as the database has it."""

    until: float
    began_at: float
    session: "Session | None" = None
    """The last one that it noted in its row."""
    over_at: float | None = None


@dataclass
class Source:
    """A source, and what became of its changes."""

    holder: int | None = None
    epoch: int = 0
    former: int | None = None
    freed_at: float = 0.0
    kept_for: int | None = None
    kept_until: float = 0.0
    changes: int = 0
    """Made at the PBX so far."""
    cursor: int = 0
    outbox: list[int] = field(default_factory=list)
    """Changes in the order of their positions, which count from 1."""
    confirmed: int = 0
    doubt: int = 0
    """Up to this position rows may have been sent without a confirm: they are told to be repetitions."""
    newest: "Session | None" = None
    """The youngest connection that brought something of it."""
    repeats: int = 0
    seen: int = 0


class Session:
    """A connection to the broker: what was written to it and not read by the broker yet, and what that confirmed."""

    def __init__(self, number: int, life: int) -> None:
        self.number = number
        self.life = life
        self.wire: deque[tuple[SourceName, int, int, bool]] = deque()
        """Source, position, change, and whether it is told to be a repetition."""
        self.confirms: list[tuple[SourceName, int]] = []
        self.is_open = True
        """Until the broker took note of its end: so long its fence is there."""


@dataclass
class Lane:
    """What a bridge knows of a source that it holds."""

    epoch: int
    cursor: int
    sent: int
    """Position behind which it reads on."""
    confirmed: int
    has_former: bool
    read: tuple[int, int] | None = None
    """Changes that the PBX told, not yet committed: from where, and how far."""
    page: list[tuple[int, int, bool]] = field(default_factory=list)
    """Rows read from the outbox and not yet sent: position, change, and whether it is in doubt."""

    @property
    def is_quiet(self) -> bool:
        return not self.page and self.read is None and self.sent == self.confirmed


class World:
    """The database and the broker."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.now = 1000.0
        self.lives: dict[int, Life] = {}
        self.sources = {name: Source() for name in SOURCES}
        self.sessions = 0
        self.ends = 0
        """Sessions that ended, and takings-over: after each of them a window may be repeated."""

    def begin_life(self) -> int:
        number = len(self.lives) + 1
        self.lives[number] = Life(self.now + LEASE, self.now)
        return number

    def is_alive(self, life: int) -> bool:
        return self.lives[life].over_at is None

    def renew(self, life: int) -> bool:
        if self.rules.is_over_for_good and not self.is_alive(life):
            return False
        self.lives[life].until = self.now + LEASE
        return True

    def bury(self, me: int) -> None:
        for number, life in self.lives.items():
            if life.over_at is None and life.until < self.now and number != me:
                life.over_at = self.now

    def free_buried(self) -> None:
        for source in self.sources.values():
            if source.holder is not None and not self.is_alive(source.holder):
                source.former = source.holder if source.former is None else source.former
                source.holder, source.freed_at = None, self.now

    def peers(self) -> list[Peer]:
        return [
            Peer(str(number), self.now - life.began_at, sum(one.holder == number for one in self.sources.values()))
            for number, life in self.lives.items()
            if life.over_at is None
        ]

    def free(self) -> list[Free]:
        return [
            Free(
                name,
                self.now - source.freed_at,
                str(source.kept_for) if source.kept_for is not None and source.kept_until > self.now else None,
            )
            for name, source in self.sources.items()
            if source.holder is None
        ]

    def may(self, life: int, name: SourceName, epoch: int) -> bool:
        """Compare as every statement about a source does."""
        source = self.sources[name]
        return not self.rules.compares_holder or (
            self.is_alive(life) and (source.holder, source.epoch) == (life, epoch)
        )

    def claim(self, life: int, name: SourceName) -> bool:
        source = self.sources[name]
        is_kept = source.kept_for not in {None, life} and source.kept_until > self.now
        if not self.is_alive(life) or source.holder is not None or is_kept:
            return False
        source.holder, source.epoch, source.kept_for = life, source.epoch + 1, None
        if source.former is not None:
            self.ends += 1
            if self.rules.doubts_former:
                self.take_to_be_in_doubt(source)
        return True

    def take_to_be_in_doubt(self, source: Source) -> None:
        source.doubt = max(source.doubt, source.confirmed + WINDOW)

    def deliver(self, session: Session) -> None:
        """Have the broker take the next message of a connection, and confirm it."""
        if session.wire:
            name, position, change, is_flagged = session.wire.popleft()
            source = self.sources[name]
            source.repeats += change <= source.seen
            assert change <= source.seen + 1, f"{name}: {change} came before {source.seen + 1}"
            if change <= source.seen and source.newest is not None and source.newest is not session:
                self.repeated(name, source.newest, session, is_flagged=is_flagged)
            source.seen = max(source.seen, change)
            if source.newest is None or source.newest.number < session.number:
                source.newest = session
            session.confirms.append((name, position))

    def repeated(self, name: SourceName, newest: Session, session: Session, *, is_flagged: bool) -> None:
        """See that a repetition of another connection is told to be one, or else comes before what is newer."""
        life = self.lives[session.life]
        if newest.number < session.number:
            assert is_flagged, (
                f"{name}: session {session.number} repeats what {newest.number} brought, and says nothing"
            )
        elif newest.life != session.life and session is life.session and life.over_at is not None:
            assert self.now - life.over_at >= FENCE_SECONDS, f"{name}: late, behind what the next holder sent"


class ModelBridge:
    """A bridge: its memory, and one small step at a time. What is frozen is asked for none."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.begin()

    def begin(self) -> None:
        """Begin a life, with a connection of its own."""
        self.life = self.world.begin_life()
        self.tenure = Tenure(LEASE, self.world.now)
        self.lanes: dict[SourceName, Lane] = {}
        self.renewal: float | None = None
        """When the renewal was sent whose answer is not here yet."""
        self.is_answered: bool | None = None
        self.is_frozen = False
        self.connect()

    def connect(self) -> None:
        self.world.sessions += 1
        self.session = Session(self.world.sessions, self.life)
        self.world.lives[self.life].session = self.session

    def end_session(self) -> None:
        """Have the connection break: what is on the wire may still come, until the broker notices."""
        self.world.ends += 1
        for name, lane in self.lanes.items():
            if self.world.may(self.life, name, lane.epoch):
                self.world.sources[name].doubt = max(self.world.sources[name].doubt, lane.sent)
            lane.sent, lane.page = lane.confirmed, []
        self.connect()

    def lose(self) -> None:
        """Take all to be lost, as after the own deadline, and begin another life where that one is over."""
        self.end_session()
        self.lanes.clear()
        if not self.world.is_alive(self.life):
            self.begin()

    def lose_one(self, name: SourceName) -> None:
        """Take the word of the database that a source is not ours."""
        if not self.world.is_alive(self.life):
            self.lose()
        else:
            self.lanes.pop(name, None)

    # ------------------------------------------------------------------ steps

    def send_renewal(self) -> None:
        if self.renewal is None:
            self.renewal = self.world.now

    def have_it_renewed(self) -> None:
        """Have the renewal reach the database."""
        if self.renewal is not None and self.is_answered is None:
            self.is_answered = self.world.renew(self.life)

    def hear_of_renewal(self) -> None:
        if self.renewal is None or self.is_answered is None:
            return
        sent_at, is_renewed, self.renewal, self.is_answered = self.renewal, self.is_answered, None, None
        if not is_renewed:
            self.lose()
            return
        self.tenure.renewed(self.world.now if self.world.rules.counts_from_answer else sent_at)

    def miss_renewal(self) -> None:
        """Have the connection break in the midst of it."""
        if self.renewal is not None:
            self.renewal = self.is_answered = None
            self.tenure.failed(self.world.now)

    def watch_deadline(self) -> None:
        if not self.tenure.is_good(self.world.now):
            self.lose()

    def poll(self) -> None:
        """See to the dead, and take what is free."""
        world = self.world
        if not world.is_alive(self.life):
            self.lose()
            return
        if not self.tenure.is_good(world.now):
            return
        if self.tenure.may_bury(world.now):
            world.bury(self.life)
        world.free_buried()
        names = choose_claims(str(self.life), world.free(), world.peers(), frozenset(SOURCES), len(self.lanes), 60.0)
        for name in names:
            if world.claim(self.life, name):
                self.take_up(name)
        for name, source in world.sources.items():  # after a deadline that passed: what is still ours
            if source.holder == self.life and name not in self.lanes:
                source.epoch += 1
                world.take_to_be_in_doubt(source)
                self.take_up(name)

    def take_up(self, name: SourceName) -> None:
        source = self.world.sources[name]
        self.lanes[name] = Lane(
            source.epoch, source.cursor, source.confirmed, source.confirmed, source.former is not None
        )

    def give(self) -> None:
        """Give away what is too much."""
        quiet = [name for name, lane in self.lanes.items() if lane.is_quiet]
        to, names = choose_gifts(str(self.life), self.world.peers(), quiet, len(SOURCES))
        for name in names:
            self.give_back(name, int(to))

    def give_back(self, name: SourceName, to: int | None = None) -> None:
        source, lane = self.world.sources[name], self.lanes.pop(name)
        if self.world.may(self.life, name, lane.epoch) or not self.world.rules.gives_back_own:
            source.holder, source.former, source.freed_at = None, None, self.world.now
            source.kept_for, source.kept_until = to, self.world.now + 5

    def ask(self, name: SourceName) -> None:
        """Have the PBX tell what is new."""
        lane, source = self.lanes.get(name), self.world.sources[name]
        if lane is not None and lane.read is None and lane.cursor < source.changes:
            lane.read = (lane.cursor, min(source.changes, lane.cursor + 2))

    def commit(self, name: SourceName) -> None:
        lane, source, rules = self.lanes.get(name), self.world.sources[name], self.world.rules
        if lane is None or lane.read is None:
            return
        (since, through), lane.read = lane.read, None
        is_ours = self.world.may(self.life, name, lane.epoch)
        if not is_ours or (rules.compares_cursor and source.cursor != since):
            self.lose_one(name)
            return
        source.outbox += range(since + 1, through + 1)
        source.cursor = lane.cursor = through

    def read(self, name: SourceName) -> None:
        lane, source = self.lanes.get(name), self.world.sources[name]
        if lane is None or lane.page or self.is_waiting_for_fence(name, lane):
            return
        room = WINDOW - (lane.sent - lane.confirmed)
        if not self.world.may(self.life, name, lane.epoch):
            self.lose_one(name)
            return
        rows = source.outbox[lane.sent : lane.sent + max(0, room)]
        lane.page = [
            (position, change, position <= source.doubt) for position, change in enumerate(rows, lane.sent + 1)
        ]

    def is_waiting_for_fence(self, name: SourceName, lane: Lane) -> bool:
        source, world = self.world.sources[name], self.world
        if not lane.has_former:
            return False
        former = world.lives[source.former] if source.former is not None else None
        if world.rules.waits_for_fence and former is not None and former.session is not None:
            is_over_for = world.now - (former.over_at if former.over_at is not None else world.now)
            if former.session.is_open and is_over_for < FENCE_SECONDS:
                return True
        if world.may(self.life, name, lane.epoch):
            source.former, lane.has_former = None, False
            return False
        return True

    def send(self, name: SourceName) -> None:
        lane = self.lanes.get(name)
        if lane is None or not lane.page:
            return
        for position, change, is_in_doubt in lane.page:
            self.session.wire.append((name, position, change, is_in_doubt))
            lane.sent = position
        lane.page = []
        if self.world.rules.marks_blindly:
            self.mark(name, lane, lane.sent)

    def take_confirms(self) -> None:
        confirms, self.session.confirms = self.session.confirms, []
        for name, position in confirms:
            lane = self.lanes.get(name)
            if lane is not None:
                self.mark(name, lane, position)

    def mark(self, name: SourceName, lane: Lane, position: int) -> None:
        if not self.world.may(self.life, name, lane.epoch):
            self.lose_one(name)
            return
        source = self.world.sources[name]
        source.confirmed = max(source.confirmed, position)
        lane.confirmed = max(lane.confirmed, position)
