"""The PBXs that dial, as sources of the bridge: those it knows from before, and new ones as they log in."""

from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from typing import Protocol

from bridge.clock import utc_now
from bridge.errors import PbxBrokeProtocol
from bridge.logs import get_logger
from bridge.model import WINDOW_ROWS, SourceName
from bridge.observability.source_status import SourceStatus
from bridge.pbx.inbound.identity import Identity, Visit
from bridge.pbx.inbound.source import InboundSource
from bridge.pbx.walk.actions import Pace
from bridge.pbx.wire.messages import API, PbxInfo
from bridge.runtime.bridge import Bridge
from bridge.runtime.source_worker import SourceSpec, show_connection
from bridge.store.records import Admission, InboundPbx, Newcomers

log = get_logger(__name__)


class BuildUnreadableCounter(Protocol):
    """Makes what counts the messages of a source that cannot be read."""

    def __call__(self, name: SourceName, part: SourceStatus) -> Callable[[str], None]:
        """Return it for one source."""


class InboundSources:
    """Finds the source of a PBX that has logged in, and makes it where it is new. *taken* are names of others."""

    def __init__(  # noqa: PLR0913 - its parts
        self,
        bridge: Bridge,
        pace: Pace,
        *,
        taken: Collection[str],
        build_unreadable_counter: BuildUnreadableCounter,
        newcomers: Newcomers = Newcomers(),  # noqa: B008 - frozen, so sharing it is safe
        ask_ahead: int = WINDOW_ROWS,
        max_silence: timedelta = timedelta(minutes=15),
    ) -> None:
        self._bridge = bridge
        self._pace = pace
        self._taken = taken
        self._noise_of = build_unreadable_counter
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
        """Follow PBXs that dialled before, so that everybody sees them before they do it again."""
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

        source = InboundSource(
            identity,
            self._pace,
            on_state=does,
            on_noise=self._noise_of(name, part),
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
