"""The PBXs that dial us: which of them are known, and what is unlike before.

A name is given to the first who dials with it. Who comes later under the same name has proven the same password, and
that is all that a login proves; so another address, or another App object (guid), is told until somebody says yes.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

import orjson

from bridge.model import SourceName
from bridge.store.records import Admission, InboundPbx, Newcomers
from bridge.store.tables.moments import as_text

MAX_ADDRESSES: Final = 8
"""Of one PBX that are known; of more the oldest is forgotten."""

HOUR: Final = timedelta(hours=1)


class Database(Protocol):
    """What the book needs of the store it is part of."""

    def query(self, name: str, /, **parameters: Any) -> Sequence[Any]:
        """Return the rows of a statement."""

    def change(self, name: str, /, **parameters: Any) -> int:
        """Run a statement, and return how many rows it changed."""

    def transaction(self) -> AbstractContextManager["Placing"]:
        """Return a transaction."""


class Placing(Protocol):
    """A transaction of it."""

    def meet(self, source: SourceName) -> object:
        """Have a source there; one never seen before is made."""


class InboundRegister:
    """What the store knows of them. Everything here raises ``StoreUnusable`` where that cannot be read or written."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __repr__(self) -> str:
        return "<CallerBook>"

    def register_inbound(self, caller: InboundPbx, at: datetime, newcomers: Newcomers) -> Admission:
        """Take note that *caller* has logged in, and return whether it may be let in."""
        with self._database.transaction() as transaction:
            found = self._database.query("caller", name=caller.source)
            if found:
                return self._meet_again(found[0], caller, at)
            if newcomers.is_asking:
                return Admission.WAITS
            if self._count("count_callers", at - newcomers.remembered, at) >= newcomers.total:
                return Admission.TOO_MANY
            if self._count("count_new_callers", at - HOUR, at) >= newcomers.per_hour:
                return Admission.TOO_MANY_NEW
            return self._add(transaction, caller, at)

    def admit(self, caller: InboundPbx, at: datetime) -> bool:
        """Let *caller* in from now on; False where its name is another's."""
        with self._database.transaction() as transaction:
            is_known = bool(self._database.query("caller", name=caller.source))
            return is_known or self._add(transaction, caller, at) is Admission.NEW

    def acknowledge(self, source: SourceName) -> bool:
        """Take what was odd about a PBX for right from now on; False where no PBX of that name has dialled."""
        with self._database.transaction():
            found = self._database.query("caller", name=source)
            if not found:
                return False
            known, odd = _known(found[0]), _odd(found[0])
            known += [address for address in _odd_addresses(odd) if address not in known]
            self._keep(source, found[0]["seen_at"], odd.get("guid", found[0]["guid"]), known, {})
            return True

    def known(self, since: datetime) -> Sequence[InboundPbx]:
        """Return the PBXs that have dialled *since* then, from where, and what is odd about them."""
        return [
            InboundPbx(
                SourceName(row["name"]), row["domain"], row["pbx"], address, row["guid"], _sentence(row["name"], odd)
            )
            for row in self._database.query("callers", since=as_text(since))
            for odd in (_odd(row),)
            for address in (_known(row) or [""])[-1:]
        ]

    def oddity(self, source: SourceName) -> str:
        """Return what is odd about a PBX, as a sentence; empty where nothing is."""
        found = self._database.query("caller", name=source)
        return _sentence(source, _odd(found[0])) if found else ""

    def _meet_again(self, row: Any, caller: InboundPbx, at: datetime) -> Admission:
        if (row["domain"], row["pbx"]) != (caller.domain, caller.pbx):
            return Admission.NAME_TAKEN
        known, odd = _known(row), _odd(row)
        if caller.address and caller.address not in known:
            if known:
                others = [address for address in _odd_addresses(odd) if address != caller.address]
                told = [*others, caller.address][-MAX_ADDRESSES:]  # each of them, or the last would hide the others
                odd = {"at": as_text(at), **odd, "address": ", ".join(told)}
            else:
                known = [caller.address]
        # One without a guid is unlike one that had it: whoever does not know it leaves it out.
        if row["guid"] and caller.guid.lower() != row["guid"].lower():
            odd = {"at": as_text(at), **odd, "guid": caller.guid}
        self._keep(caller.source, as_text(at), row["guid"] or caller.guid, known, odd)
        return Admission.KNOWN

    def _add(self, transaction: Placing, caller: InboundPbx, at: datetime) -> Admission:
        transaction.meet(caller.source)  # a source never seen before is made
        is_its_own = self._database.change(
            "add_caller",
            name=caller.source,
            domain=caller.domain,
            pbx=caller.pbx,
            at=as_text(at),
            guid=caller.guid,
            addresses=_json([caller.address] if caller.address else []),
        )
        return Admission.NEW if is_its_own else Admission.NAME_TAKEN

    def _keep(self, source: str, seen_at: str, guid: str, known: list[str], odd: dict[str, str]) -> None:
        self._database.change(
            "keep_caller",
            name=source,
            seen_at=seen_at,
            guid=guid,
            addresses=_json(known[-MAX_ADDRESSES:]),
            odd=_json(odd) if odd else None,
        )

    def _count(self, statement: str, since: datetime, now: datetime) -> int:
        return int(self._database.query(statement, since=as_text(since), now=as_text(now))[0]["callers"])


def _known(row: Any) -> list[str]:
    return list(orjson.loads(row["addresses"]))


def _odd(row: Any) -> dict[str, str]:
    return dict(orjson.loads(row["odd"])) if row["odd"] else {}


def _odd_addresses(odd: dict[str, str]) -> list[str]:
    return odd["address"].split(", ") if odd.get("address") else []


def _sentence(name: str, odd: dict[str, str]) -> str:
    if not odd:
        return ""
    what = [f"from another address than before ({odd['address']})"] if "address" in odd else []
    what += ["with another App object than before (its guid)"] if "guid" in odd else []
    return (
        f"{name} dialled {' and '.join(what)}, first at {odd['at']}. If that is right: account-bridge admit {name}. "
        "If it is not, somebody else knows the password of the App object"
    )


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
