"""The PBXs that dial, as sources of the bridge: those it knows from before, and new ones as they log in."""

from collections.abc import Callable, Collection, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from bridge.clock import utc_now
from bridge.errors import PbxBrokeProtocol
from bridge.logs import get_logger
from bridge.model import WINDOW_ROWS, SourceName
from bridge.observability.source_status import SourceStatus
from bridge.pbx.inbound.connection import MakeTap
from bridge.pbx.inbound.identity import Identity, Visit
from bridge.pbx.inbound.source import InboundSource
from bridge.pbx.walk.actions import Pace
from bridge.pbx.wire.messages import API, PbxInfo
from bridge.pbx.wire.protocol import Event
from bridge.runtime.bridge import Bridge
from bridge.runtime.source_worker import SourceSpec, show_connection
from bridge.store.records import Admission, InboundPbx, Newcomers

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Hearing:
    """Who hears what one PBX says."""

    on_noise: Callable[[str], None] = lambda _reason: None
    """Is told of each message that cannot be read."""
    on_event: Callable[[Event], None] = lambda _event: None
    tap: MakeTap | None = None


class BuildHearing(Protocol):
    """Makes what hears the messages of a source."""

    def __call__(self, name: SourceName, part: SourceStatus) -> Hearing:
        """Return it for one source, which shows on *part*."""


class Sharing(Protocol):
    """What has the PBXs that are ours, where several bridges share them."""

    async def want(self, name: SourceName) -> None:
        """Have a PBX that has just dialled this bridge; raises ``PbxUnreachable`` where that cannot be."""


class InboundSources:
    """Finds the source of a PBX that has logged in, and makes it where it is new. *taken* are names of others."""

    def __init__(  # noqa: PLR0913 - its parts
        self,
        bridge: Bridge,
        pace: Pace,
        *,
        taken: Collection[str],
        build_hearing: BuildHearing,
        newcomers: Newcomers = Newcomers(),  # noqa: B008 - frozen, so sharing it is safe
        ask_ahead: int = WINDOW_ROWS,
        max_silence: timedelta = timedelta(minutes=15),
        sharing: Sharing | None = None,
    ) -> None:
        self._sharing = sharing
        self._known: dict[SourceName, InboundPbx] = {}
        """Those that have dialled, where other bridges may have them."""
        self._bridge = bridge
        self._pace = pace
        self._taken = taken
        self._hearing_of = build_hearing
        self._newcomers = newcomers
        self._ask_ahead = ask_ahead
        self._max_silence = max_silence
        self._sources: dict[Identity, InboundSource] = {}

    def __repr__(self) -> str:
        return f"<InboundSources {len(self._sources)}>"

    @property
    def connected(self) -> int:
        """How many of them are connected."""
        return sum(source.is_connected for source in self._sources.values())

    def expect(self, known: Sequence[InboundPbx]) -> None:
        """Follow PBXs that dialled before, so that everybody sees them before they do it again.

        Where several bridges share them, those that are ours.
        """
        self._known = {caller.source: caller for caller in known if caller.source not in self._taken}
        if self._sharing is not None:
            return
        for caller in known:
            identity = Identity(caller.domain, caller.pbx)
            if identity.source not in self._taken:
                self._follow(identity)
                self._bridge.board.sources[identity.source].oddity = caller.oddity

    async def source_for(self, visit: Visit) -> InboundSource:
        """Return the source of the PBX that has just logged in.

        Raises:
            PbxBrokeProtocol: its name is that of another source, or it is a new one and not let in.
            PbxUnreachable: the bridge is stopping.
            Fatal: the store cannot be written.

        """
        identity = visit.identity
        self._refuse_taken(identity.source)
        caller = InboundPbx(identity.source, identity.domain, identity.pbx, visit.address, visit.guid)
        meeting = await self._bridge.register_inbound(caller, self._newcomers)
        if meeting not in {Admission.KNOWN, Admission.NEW}:
            log.warning("listen.not_admitted", source=identity.source, reason=str(meeting), address=visit.address)
            raise PbxBrokeProtocol(meeting)
        self._refuse_taken(identity.source)  # perhaps by a PBX that was added meanwhile
        if self._sharing is not None:
            self._known[identity.source] = caller
            await self._sharing.want(identity.source)
        source = self._sources.get(identity) or self._follow(identity)
        await self._look_at(identity.source)
        log.info(
            "listen.logged_in",
            source=identity.source,
            domain=identity.domain,
            pbx=identity.pbx,
            address=visit.address,
            is_new=meeting is Admission.NEW,
        )
        return source

    @property
    def names(self) -> AbstractSet[SourceName]:
        """Those that have dialled, whichever bridge."""
        return self._known.keys()

    async def refresh(self) -> None:
        """Ask anew which those are: they may have dialled other bridges."""
        known = await self._bridge.callers(utc_now() - self._newcomers.remembered)
        self._known = {**self._known, **{one.source: one for one in known if one.source not in self._taken}}

    def follow(self, name: SourceName) -> None:
        """Follow one that is ours from now on, whether it has dialled this bridge or not."""
        caller = self._known[name]
        self._follow(Identity(caller.domain, caller.pbx))
        self._bridge.board.sources[name].oddity = caller.oddity

    def let_go(self, name: SourceName) -> None:
        """Give up its connection, if it has one: it dials the bridge that has it now, or any."""
        caller = self._known.get(name)
        source = None if caller is None else self._sources.pop(Identity(caller.domain, caller.pbx), None)
        if source is not None:
            source.hang_up()

    def connected_seconds(self, name: SourceName) -> float | None:
        """Return for how long it has been connected here; ``None`` where it is not."""
        caller = self._known.get(name)
        source = None if caller is None else self._sources.get(Identity(caller.domain, caller.pbx))
        return None if source is None else source.connected_seconds

    def _refuse_taken(self, name: SourceName) -> None:
        if name in self._taken:
            raise PbxBrokeProtocol(f"a PBX that we dial is called {name}, too; give that one another name")

    async def _look_at(self, name: SourceName) -> None:
        part, before = self._bridge.board.sources[name], self._bridge.board.sources[name].oddity
        part.oddity = await self._bridge.oddity(name)
        if part.oddity and part.oddity != before:
            log.warning("listen.unlike_before", source=name, problem=part.oddity)

    def _follow(self, identity: Identity) -> InboundSource:
        name = identity.source
        part = SourceStatus(since=utc_now())

        def does(doing: str) -> None:
            show_connection(part, doing)
            self._bridge.beat(name)  # also once a minute while the PBX is away

        hearing = self._hearing_of(name, part)
        source = InboundSource(
            identity,
            self._pace,
            on_state=does,
            on_noise=hearing.on_noise,
            on_event=hearing.on_event,
            tap=hearing.tap,
            on_info=lambda info: _note_apis(info, name, part),
            turnstile=self._bridge.turnstile,
        )
        self._sources[identity] = source
        self._bridge.follow(SourceSpec(name, source, self._ask_ahead, max_silence=self._max_silence), part)
        return source


def _note_apis(info: PbxInfo, name: SourceName, part: SourceStatus) -> None:
    """Say so where the PBX does not list what we ask for; it is asked nevertheless, for the list may be incomplete."""
    if info.apis and API not in info.apis:
        part.note = (
            f"The PBX does not list the {API} among what the App object may use. It is asked all the same; if no "
            "account comes, its firmware may be older than 16r1"
        )
        log.warning("listen.api_not_listed", source=name, api=API, firmware=info.version)
