"""A pretend innovaphone PBX: its accounts, what happens to them, and what happens to the box itself.

It opens nothing, waits for nothing and reads no clock; chance comes from the seed, time from the caller. What it says
on one connection is ``session.Connection``; ``server`` carries that over a WebSocket.

    pbx = Pbx(accounts=100, seed=1, modes=Modes.parse(["idle-hold"]))
    connection = Connection(pbx)              # of ``session``
    replies = connection.receive('{"mt":"AppChallenge"}', now=0.0)
    pbx.rename(pbx.pick())
    replies = connection.tick(now=1.0)        # the held answer
"""

import random
from dataclasses import dataclass
from typing import Final, Protocol

from bridge.simulator.changelist import ChangeList
from bridge.simulator.directory import Call, Directory
from bridge.simulator.modes import Deletion, Error, Guid, Modes
from bridge.simulator.oracle import Meter, OracleWatchdog
from bridge.simulator.people import make_guid

CUT: Final = 1006
"""The code of a connection that ends without a goodbye."""


@dataclass(frozen=True, slots=True)
class SavedState:
    """A PBX as it was, to go back to."""

    accounts: ChangeList


class Peer(Protocol):
    """The PBX's end of one connection, as the rest of the PBX sees it."""

    number: int
    guid: str
    """Of the session, for those who take the guid for that."""

    @property
    def is_in(self) -> bool:
        """True after a login."""

    def wake(self) -> None:
        """Take note that the PBX changed."""

    def hang_up(self, code: int) -> None:
        """Close the connection soon, with this WebSocket code."""


class Pbx(Directory):
    """One pretend PBX with so many *accounts*, made from *seed*; what happens to accounts stands in ``Directory``.

    *app* and *password* are those of its App object; *name* and *domain* are its PBX Name and System Name. Beyond what
    *watchdog* allows it reboots. *remember* bounds what is kept for looking back (``None``: everything; set it where
    a PBX runs for days).
    """

    def __init__(  # noqa: PLR0913 - what makes a PBX
        self,
        *,
        accounts: int = 100,
        seed: int = 1,
        modes: Modes | None = None,
        app: str = "account-bridge",
        password: str = "secret",  # noqa: S107 - of a pretend PBX
        name: str = "hq",
        domain: str = "example.com",
        with_odd_names: bool = False,
        watchdog: OracleWatchdog | None = None,
        remember: int | None = None,
        slow_seconds: float = 1.0,
        burst_seconds: float = 0.5,
        throttle_per_second: int = 200,
    ) -> None:
        super().__init__(
            accounts=accounts,
            seed=seed,
            modes=modes,
            name=name,
            domain=domain,
            with_odd_names=with_odd_names,
            remember=remember,
        )
        self.app, self.password = app, password
        self.watchdog = watchdog
        self.slow_seconds, self.burst_seconds = slow_seconds, burst_seconds
        self.throttle_per_second = throttle_per_second
        self.connections: dict[int, Peer] = {}
        """Those that are open, by number."""
        self.has_api = True
        """False once ``api_removed``."""
        self.meter = Meter()
        self.on_rows: list[Call] = []
        """Called after accounts were handed out."""
        self._connections_ever = 0
        # Apart from the chance that makes the day, so that this goes the same way however often somebody connects.
        self._wire_chance = random.Random(f"wire {seed}")  # noqa: S311 - reproducible, not secret
        self.app_guid = self.new_guid()
        """Of its App object, as which it logs in where it calls."""
        self._passive: ChangeList | None = None
        self.on_change.append(self._wake_connections)

    # Connections

    def connected(self, connection: Peer) -> int:
        """Take note of a new connection, and return its number."""
        self._connections_ever += 1
        self.connections[self._connections_ever] = connection
        return self._connections_ever

    def disconnected(self, connection: Peer) -> None:
        """Note that a connection is over."""
        self.connections.pop(connection.number, None)
        if not self.connections and self._modes.deletion is Deletion.LOST:
            self.accounts.purge_deleted()

    def drop_connections(self, code: int = CUT) -> None:
        """Close every connection with this WebSocket code; ``CUT`` says no goodbye."""
        for connection in list(self.connections.values()):
            connection.hang_up(code)

    # What happens to the box

    def new_epoch(self) -> None:
        """Make a new guid, of whatever kind, so that everybody reads everything again."""
        super().new_epoch()
        for connection in self.connections.values():
            connection.guid = self.new_guid()

    def reboot(self) -> None:
        """Restart: every connection is cut, accounts and numbers survive."""
        self.boot_guid = self.new_guid()
        self.drop_connections()
        self._note_event("reboot")

    def take_snapshot(self) -> SavedState:
        """Remember everything as it is now."""
        return SavedState(self.accounts.copy())

    def config_restore(self, snapshot: SavedState) -> None:
        """Upload an older configuration: a new guid, numbers start over, connections are cut."""
        self.accounts = snapshot.accounts.copy()
        self._renumber(self.new_guid())
        self.new_epoch()
        self._rebuilt("config restore")

    def vm_rollback(self, snapshot: SavedState) -> None:
        """Go back to a snapshot of the machine: the same guid, but numbers used before are used again."""
        self.accounts = snapshot.accounts.copy()
        self._agree_on_order()
        self._rebuilt("vm rollback")

    @property
    def has_standby(self) -> bool:
        """True once a standby has taken over."""
        return self._passive is not None

    def failover_to_standby(self) -> None:
        """Let the standby take over: the same names and the same epoch, but the numbers of another node."""
        standby = self._passive
        if standby is None:
            standby = ChangeList(self._modes.order, guid=self.new_guid(), first_usn=17, log_limit=self._remember)
        self._take_over(standby)
        self._rebuilt("failover")

    def fail_back(self) -> None:
        """Let the first node take over again, after it has caught up with what changed meanwhile."""
        if self._passive is None:
            raise RuntimeError("nothing to fail back to: failover_to_standby comes first")
        self._take_over(self._passive)
        self._rebuilt("fail back")

    def fail_back_as_it_was(self) -> None:
        """Let the first node take over again as it was: it has heard nothing of what changed meanwhile."""
        if self._passive is None:
            raise RuntimeError("nothing to fail back to: failover_to_standby comes first")
        self._passive, self.accounts = self.accounts, self._passive
        self._rebuilt("fail back of a node that heard nothing")

    def slave_resync(self) -> None:
        """Replicate everything from the master again: every account is rewritten and gets a new usn."""
        for entry in list(self.accounts.live()):
            self.accounts.change(entry.record, is_deleted=entry.is_deleted)
        self._trim_history()
        self._note_event("slave resync")

    def forget_history(self, *, keep_changes: int = 0) -> None:
        """Forget all but the last changes; what an older cursor then gets is up to ``hist-…``."""
        self.accounts.forget_before_last(keep_changes)
        self._note_event("history forgotten")

    def password_change(self, password: str) -> None:
        """Give the App object another password; connections that are in stay in."""
        self.password = password
        self._note_event("password change")

    def api_removed(self) -> None:
        """Take the API away from the app: every question gets an error from now on."""
        self.has_api = False
        self._note_event("api removed")

    def api_restored(self) -> None:
        """Give it back."""
        self.has_api = True
        self._note_event("api restored")

    def _take_over(self, node: ChangeList) -> None:
        """Let *node* replicate what it lacks, and make it the active one."""
        active = self.accounts
        for guid, entry in active.current.items():
            known = node.current.get(guid)
            if known is None:
                if not entry.is_deleted:
                    node.change(entry.record)
            elif known.record != entry.record or known.is_deleted != entry.is_deleted:
                node.change(entry.record, is_deleted=entry.is_deleted)
        self._passive, self.accounts = active, node
        self._agree_on_order()

    def _agree_on_order(self) -> None:
        """Renumber a node that is from a time when numbers were ordered in another way."""
        if self.accounts.order is not self._modes.order:
            self._renumber(self.new_guid())
            self.new_epoch()

    def _rebuilt(self, what: str) -> None:
        self.boot_guid = self.new_guid()
        self.walk_places.clear()
        self._count_users()
        self.drop_connections()
        self._note_event(what)

    def current_guid(self, connection: Peer, modes: Modes) -> str:
        """Return the guid that is valid on a connection."""
        match modes.guid:
            case Guid.DB:
                return self.epoch_guid
            case Guid.NODE:
                return self.accounts.guid
            case Guid.BOOT:
                return self.boot_guid
            case Guid.SESSION | Guid.REQUEST:
                return connection.guid

    def error_form(self, modes: Modes) -> Error:
        """Return what an error looks like where there has to be one."""
        return modes.error if modes.error is not Error.NONE else Error.PROP

    def new_guid(self) -> str:
        """Return a guid nobody has."""
        return make_guid(self._wire_chance)

    def new_challenge(self) -> str:
        """Return 16 digits to prove oneself with; they repeat with the seed, so they protect nothing."""
        return f"{self._wire_chance.getrandbits(64):016x}"

    def _wake_connections(self) -> None:
        for connection in list(self.connections.values()):
            connection.wake()
