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
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from bridge.simulator.changelist import ChangeList, Entry, TableWalk
from bridge.simulator.modes import Deletion, Dup, Error, Guid, History, Modes, Order, Scope
from bridge.simulator.oracle import Meter, Mutation, Oracle, Watchdog
from bridge.simulator.people import Record, make_guid, people

CUT: Final = 1006
"""The code of a connection that ends without a goodbye."""

HISTORY_CHANGES: Final = 200
"""How long the history is where a mode says that it ends."""

_OTHER_OBJECTS: Final = ("app", "trunk", "queue", "gw")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A PBX as it was, to go back to."""

    accounts: ChangeList


Call = Callable[[], None]
"""Something to be called."""


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


class NoSuchAccount(KeyError):  # noqa: N818 - reads as what it says
    """There is no account of that guid, or it was deleted."""


class Pbx:
    """One pretend PBX with so many *accounts*, made from *seed*.

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
        watchdog: Watchdog | None = None,
        remember: int | None = None,
        slow_seconds: float = 1.0,
        burst_seconds: float = 0.5,
        throttle_per_second: int = 200,
    ) -> None:
        self.app, self.password, self.name, self.domain = app, password, name, domain
        self.watchdog = watchdog
        self.slow_seconds, self.burst_seconds = slow_seconds, burst_seconds
        self.throttle_per_second = throttle_per_second
        self.oracle = Oracle(remember)
        self.connections: dict[int, Peer] = {}
        """Those that are open, by number."""
        self.has_api = True
        """False once ``api_removed``."""
        self.on_rows: list[Call] = []
        """Called after accounts were handed out."""
        self.on_change: list[Call] = []
        """Called after anything changed; connections have more to say then."""
        self._chance = random.Random(f"pbx {seed}")  # noqa: S311 - reproducible, not secret
        self._modes = modes or Modes()
        self._connections_ever = 0
        self._remember = remember
        self._people = people(seed, loc=name, domain=domain, with_odd_names=with_odd_names)
        self.app_guid = self._new_guid()
        """Of its App object, as which it logs in where it calls."""
        self.meter = Meter()
        self.epoch_guid = self._new_guid()
        self.boot_guid = self._new_guid()
        self.accounts = ChangeList(self._modes.order, guid=self._new_guid(), log_limit=remember)
        """Of the node that is active."""
        self._passive: ChangeList | None = None
        self.walk_places: dict[int, tuple[TableWalk, int]] = {}
        """Where in a walk that does not follow usn a row stood, by its position; kept by the connections."""
        self._alive: list[str] = []
        self._alive_index: dict[str, int] = {}
        for kind in _OTHER_OBJECTS:
            record = self._next_person()
            self._add(replace(record, kind=kind, h323=f"{kind}-1", cn=f"{kind} 1", dn=kind, emails=(), groups=()))
        for _ in range(accounts):
            self._add(self._next_person())

    def __repr__(self) -> str:
        return f"<Pbx {self.name}: {len(self._alive)} accounts, {' '.join(self._modes.words()) or 'default modes'}>"

    # What it is like

    @property
    def modes(self) -> Modes:
        """How it behaves, unless a connection has modes of its own. A new order renumbers all accounts at once."""
        return self._modes

    @modes.setter
    def modes(self, modes: Modes) -> None:
        order_before, self._modes = self._modes.order, modes
        if (modes.order is Order.WALK) != (order_before is Order.WALK):
            self.walk_places.clear()
        if modes.order is not order_before:
            self._renumber(self._new_guid())
            self.new_epoch()
        self._changed()

    def truth(self) -> dict[str, Record]:
        """Return what a perfect mirror would hold: every visible account, by account guid."""
        entries = self.accounts.current
        return {guid: entries[guid].record for guid in self._every() if self.is_listed(entries[guid], self._modes)}

    def is_listed(self, entry: Entry, modes: Modes) -> bool:
        """Tell whether an entry is of an account that exists and is on the list that apps see."""
        if entry.is_deleted:
            return False
        record = entry.record
        match modes.scope:
            case Scope.USERS:
                return record.kind == "user"
            case Scope.ALL:
                return True
            case Scope.OWN:
                return record.kind == "app"
            case Scope.LOC:
                return record.kind == "user" and record.loc == self.name

    def is_user(self, guid: str) -> bool:
        """Tell whether there is such an account, and not deleted."""
        return guid in self._alive_index

    def pick(self) -> str:
        """Return the guid of some account; the next call returns another."""
        if not self._alive:
            raise NoSuchAccount("the PBX has no accounts")
        return self._chance.choice(self._alive)

    def record(self, guid: str) -> Record:
        """Return what an account is now.

        Raises:
            NoSuchAccount: there is none.

        """
        entry = self.accounts.current.get(guid)
        if entry is None or entry.is_deleted:
            raise NoSuchAccount(guid)
        return entry.record

    def _every(self) -> list[str]:
        return [guid for guid, entry in self.accounts.current.items() if not entry.is_deleted]

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

    # What happens to accounts

    def create(self, record: Record | None = None) -> str:
        """Add *record*, or somebody new, and return the guid."""
        record = record or self._next_person()
        self._add(record)
        return self._note("create", record)

    def rename(self, guid: str, h323: str | None = None) -> str:
        """Change the user name, which moves the extension's registrations, but nothing else."""
        record = self.record(guid)
        return self._save("rename", replace(record, h323=h323 or f"{record.h323}.{self._chance.randrange(1000)}"))

    def change_display_name(self, guid: str, dn: str | None = None) -> str:
        """Change the display name."""
        record = self.record(guid)
        return self._save("display name", replace(record, dn=dn or f"{record.dn.split(' (')[0]} ({self._word()})"))

    def change_extension(self, guid: str, e164: str | None = None) -> str:
        """Change the extension."""
        return self._save(
            "extension", replace(self.record(guid), e164=e164 or str(self._chance.randrange(2000, 99999)))
        )

    def toggle_group(self, guid: str) -> str:
        """Join or leave a group, as agents of a call centre do all day."""
        record = self.record(guid)
        groups = record.groups or (("Support", False),)
        (name, is_active), *others = groups
        return self._save("group", replace(record, groups=((name, not is_active), *others)))

    def touch(self, guid: str) -> str:
        """Save an account without changing anything."""
        record = self.record(guid)
        return self._save("touch", replace(record, touched=record.touched + 1))

    def change_secret(self, guid: str) -> str:
        """Change the password of an account: a new row, of which nothing may be published."""
        record = self.record(guid)
        return self._save("secret", replace(record, secret=record.secret[:6] + f"{self._chance.getrandbits(168):042x}"))

    def delete(self, guid: str) -> str:
        """Delete an account."""
        record = self.record(guid)
        self._remove(record)
        return self._note("delete", record)

    def recreate(self, guid: str) -> str:
        """Delete an account and make another of the same name; return the new guid."""
        old = self.record(guid)
        new = replace(old, guid=self._new_guid())
        if self._modes.deletion is Deletion.THEN_RECREATE:  # the new one is told before the end of the old
            self._add(new)
            self._remove(old)
        else:
            self._remove(old)
            self._add(new)
        self._note("delete", old)
        return self._note("create", new)

    def move(self, guid: str, to: "Pbx | str") -> str:
        """Make another PBX the account's home: a pretend one, which takes it over, or just a name."""
        record = self.record(guid)
        if isinstance(to, str):
            return self._save("move", replace(record, loc=to))
        to.create(replace(record, loc=to.name))
        return self.delete(guid)

    def template_edit(self, config: str = "Config User") -> int:
        """Edit a template: all accounts that use it are issued again. Return how many that are."""
        touched = [guid for guid in self._alive if self.accounts.current[guid].record.config == config]
        entries = self.accounts.reissue(touched)
        self._trim_history()
        self._note_event("template edit")
        return len(entries)

    def random_mutation(self) -> str:
        """Do something to somebody, as a day in an office would; return what."""
        deeds: list[tuple[str, int]] = [
            ("toggle_group", 40),
            ("change_display_name", 15),
            ("change_extension", 10),
            ("rename", 5),
            ("touch", 15),
            ("create", 8),
            ("delete", 6),
            ("recreate", 1),
        ]
        names, weights = zip(*deeds, strict=True)
        deed = self._chance.choices(names, weights)[0] if self._alive else "create"
        guid = self.create() if deed == "create" else getattr(self, deed)(self.pick())
        return f"{deed} {guid}"

    def _add(self, record: Record) -> None:
        self._put(record)
        if record.kind == "user":
            self._alive_index[record.guid] = len(self._alive)
            self._alive.append(record.guid)

    def _save(self, what: str, record: Record) -> str:
        self._put(record)
        return self._note(what, record)

    def _put(self, record: Record) -> None:
        self.accounts.change(record, gap=1)
        if self._modes.dup is Dup.NOOP:
            self.accounts.change(record, gap=1)

    def _remove(self, record: Record) -> None:
        self.accounts.change(record, is_deleted=True)
        self._forget_alive(record.guid)
        if self._modes.deletion is Deletion.NEWGUID:
            self.new_epoch()

    def _forget_alive(self, guid: str) -> None:
        index = self._alive_index.pop(guid, None)
        if index is None:
            return
        last = self._alive.pop()
        if last != guid:
            self._alive[index] = last
            self._alive_index[last] = index

    # What happens to the box

    def new_epoch(self) -> None:
        """Make a new guid, of whatever kind, so that everybody reads everything again."""
        self.epoch_guid, self.boot_guid, self.accounts.guid = self._new_guid(), self._new_guid(), self._new_guid()
        for connection in self.connections.values():
            connection.guid = self._new_guid()

    def reboot(self) -> None:
        """Restart: every connection is cut, accounts and numbers survive."""
        self.boot_guid = self._new_guid()
        self.drop_connections()
        self._note_event("reboot")

    def take_snapshot(self) -> Snapshot:
        """Remember everything as it is now."""
        return Snapshot(self.accounts.copy())

    def config_restore(self, snapshot: Snapshot) -> None:
        """Upload an older configuration: a new guid, numbers start over, connections are cut."""
        self.accounts = snapshot.accounts.copy()
        self._renumber(self._new_guid())
        self.new_epoch()
        self._rebuilt("config restore")

    def vm_rollback(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot of the machine: the same guid, but numbers used before are used again."""
        self.accounts = snapshot.accounts.copy()
        self._rebuilt("vm rollback")

    def failover_to_standby(self) -> None:
        """Let the standby take over: the same names and the same epoch, but the numbers of another node."""
        standby = self._passive
        if standby is None:
            standby = ChangeList(self._modes.order, guid=self._new_guid(), first_usn=17, log_limit=self._remember)
        self._take_over(standby)
        self._rebuilt("failover")

    def fail_back(self) -> None:
        """Let the first node take over again, after it has caught up with what changed meanwhile."""
        if self._passive is None:
            raise RuntimeError("nothing to fail back to: failover_to_standby comes first")
        self._take_over(self._passive)
        self._rebuilt("fail back")

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

    def _renumber(self, guid: str) -> None:
        anew = ChangeList(self._modes.order, guid=guid, log_limit=self._remember)
        for entry in list(self.accounts.live()):
            if not entry.is_deleted:
                anew.change(entry.record)
        self.accounts = anew
        self.walk_places.clear()

    def _rebuilt(self, what: str) -> None:
        self.boot_guid = self._new_guid()
        self.walk_places.clear()
        self._alive = [guid for guid in self._every() if self.accounts.current[guid].record.kind == "user"]
        self._alive_index = {guid: index for index, guid in enumerate(self._alive)}
        self.drop_connections()
        self._note_event(what)

    # Small things

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
        return self._new_guid()

    def new_challenge(self) -> str:
        """Return 16 digits to prove oneself with; they repeat with the seed, so they protect nothing."""
        return f"{self._chance.getrandbits(64):016x}"

    def _new_guid(self) -> str:
        return make_guid(self._chance)

    def _next_person(self) -> Record:
        return next(self._people)

    def _word(self) -> str:
        return self._chance.choice(("Vertretung", "mobil", "Home-Office", "Büro 2", "abwesend", "EMEA"))

    def _note(self, what: str, record: Record) -> str:
        self.oracle.mutations.append(Mutation(what, record.guid, record))
        self._trim_history()
        self._changed()
        return record.guid

    def _note_event(self, what: str) -> None:
        self.oracle.mutations.append(Mutation(what, "", None))
        self._changed()

    def _trim_history(self) -> None:
        if self._modes.history is not History.KEEP:
            self.accounts.forget_before_last(len(self.accounts.current) + HISTORY_CHANGES)

    def _changed(self) -> None:
        for connection in list(self.connections.values()):
            connection.wake()
        for call in self.on_change:
            call()
