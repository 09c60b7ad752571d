"""The accounts of a pretend PBX and what happens to them. No input, no output, no clock; chance comes from the seed."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from bridge.simulator.changelist import ChangeList, Entry, TableWalk
from bridge.simulator.modes import Deletion, Dup, HistoryMode, Modes, Scope
from bridge.simulator.oracle import Mutation, Oracle
from bridge.simulator.people import Record, make_guid, people, planted

HISTORY_CHANGES: Final = 200
"""How long the history is where a mode says that it ends."""

Call = Callable[[], None]
"""Something to be called."""

_OTHER_OBJECTS: Final = ("app", "trunk", "queue", "gw")

_A_DAY: Final = (
    ("toggle_group", "change_display_name", "change_extension", "rename", "touch", "create", "delete", "recreate"),
    (40, 15, 10, 5, 15, 8, 6, 1),
)
"""What happens to accounts, and how often."""


class NoSuchAccount(KeyError):  # noqa: N818 - reads as what it says
    """There is no account of that guid, or it was deleted."""


class Directory:
    """So many *accounts*, made from *seed*, of a PBX of that *name* in that *domain*.

    *remember* bounds what is kept for looking back (``None``: everything; set it where a PBX runs for days).
    """

    def __init__(  # noqa: PLR0913 - what makes a directory
        self,
        *,
        accounts: int,
        seed: int,
        modes: Modes | None,
        name: str,
        domain: str,
        with_odd_names: bool,
        remember: int | None,
    ) -> None:
        self.name, self.domain = name, domain
        self.oracle = Oracle(remember)
        self.on_change: list[Call] = []
        """Called after anything changed; connections have more to say then."""
        self._chance = random.Random(f"accounts {seed}")  # noqa: S311 - reproducible, not secret
        self._modes = modes or Modes()
        self._remember = remember
        self._people = people(seed, loc=name, domain=domain, with_odd_names=with_odd_names)
        self.epoch_guid = self._new_guid()
        self.boot_guid = self._new_guid()
        self.accounts = ChangeList(self._modes.order, guid=self._new_guid(), log_limit=remember)
        """Of the node that is active."""
        self.walk_places: dict[int, tuple[TableWalk, int]] = {}
        """Where in a walk that does not follow usn a row stood, by its position; kept by those who read."""
        self._alive: list[str] = []
        self._alive_index: dict[str, int] = {}
        for kind in _OTHER_OBJECTS:
            record = self._next_person()
            self._add(replace(record, kind=kind, h323=f"{kind}-1", cn=f"{kind} 1", dn=kind, emails=(), groups=()))
        for _ in range(accounts):
            self._add(self._next_person())

    def __repr__(self) -> str:
        return (
            f"<Directory {self.name}: {len(self._alive)} accounts, {' '.join(self._modes.words()) or 'default modes'}>"
        )

    @property
    def modes(self) -> Modes:
        """How it behaves, unless a connection has modes of its own.

        Another order renumbers all accounts, and like another type of numbers it makes a new epoch.
        """
        return self._modes

    @modes.setter
    def modes(self, modes: Modes) -> None:
        before, self._modes = self._modes, modes
        if modes.order is not before.order:
            self._renumber(self._new_guid())
        if (modes.order, modes.cursor) != (before.order, before.cursor):
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
            case Scope.RIGHTS:
                return record.kind == "user" and any(is_active for _, is_active in record.groups)
            case Scope.LOC:
                return record.kind == "user" and record.loc == self.name

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

    def new_epoch(self) -> None:
        """Make a new guid, of whatever kind, so that everybody reads everything again."""
        self.epoch_guid, self.boot_guid, self.accounts.guid = self._new_guid(), self._new_guid(), self._new_guid()

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
        e164 = e164 or str(self._chance.randrange(2000, 99999))
        return self._save("extension", replace(self.record(guid), e164=e164))

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
        return self._save("secret", replace(record, secret=planted(self._chance)))

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

    def move(self, guid: str, to: "Directory | str") -> str:
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
        deed = self._chance.choices(*_A_DAY)[0] if self._alive else "create"
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
        self.accounts.change(record)
        if self._modes.dup is Dup.NOOP:
            self.accounts.change(record)

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

    def _renumber(self, guid: str) -> None:
        anew = ChangeList(self._modes.order, guid=guid, log_limit=self._remember)
        for entry in list(self.accounts.live()):
            if not entry.is_deleted:
                anew.change(entry.record)
        self.accounts = anew
        self.walk_places.clear()

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
        if self._modes.history is not HistoryMode.KEEP:
            self.accounts.forget_before_last(len(self.accounts.current) + HISTORY_CHANGES)

    def _changed(self) -> None:
        for call in self.on_change:
            call()

    def _count_users(self) -> None:
        self._alive = [guid for guid in self._every() if self.accounts.current[guid].record.kind == "user"]
        self._alive_index = {guid: index for index, guid in enumerate(self._alive)}
