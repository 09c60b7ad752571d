"""A PBX that gets another name here, or is followed no more: what subscribers are told, and what the store keeps.

Both are bound by the same promise as everything else: no id, sequence or revision is ever given to two things, and what
a subscriber made of the events is what the PBX has.

**Renamed.** The name is part of whatever is published: an event's id is made of (lineage, source, sequence), an inbox
has a row for each (source, guid), routing keys begin with it, and a certificate vouches for the accounts of one source.
So numbers cannot simply go on under another name: a subscriber would have all accounts under the former name and none
under the new one, until each of them happens to change; the first thing it heard of one might be revision 8, or a
deletion; and should the new name ever have been in use in this lineage, one id would be given to two events. What is
kept is what belongs to the PBX: cursor and mirror, so nothing is read again and nothing is missed, not even a deletion.
What belongs to the name begins anew, by the rule for every new generation (see ``store.lineage``): a lineage above all
that were given, sequence and revisions from one, each present account once as ``initial``, made of the mirror, and the
first proven walk completes the lineage.

Before that, unless it is not wanted, the former name is brought to its end: each account is deleted, and a certificate
of no accounts follows. That is a lineage of its own as well: whether this store is the newest state of itself is known
once the bridge has compared it with the log, and a command that runs before gives no number that was given in another
state, and its certificate also ends accounts that this state does not know. Both stand in the lane of the source, which
stays the same one, so a subscriber who looks at the guid alone hears first of the end and then of the beginning. All of
it is one transaction. Nothing may wait to be sent: a row that was in flight when the bridge was killed is sent again
behind the fence of the former name, before that is given up.

**Retired.** Whether subscribers are told that the accounts are gone is for a person to say: of a PBX that was switched
off they are, of one that another bridge follows from now on they are not. It is the same end, kept until every sink
has it; then all rows of the source go, and what they knew of its lineage stays with the store, so that a PBX
that gets the name one day begins behind it.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from bridge.delivery.ingest import Posting
from bridge.delivery.reconcile import certificate_event
from bridge.errors import BridgeError
from bridge.events.normalize import Rules
from bridge.model import Certificate, Mirrored, SourceName
from bridge.store.contract import OperatorStore, Transaction
from bridge.store.records import Left

_ALL: Final = -1
"""No limit, as SQL says it."""


@dataclass(frozen=True, slots=True)
class Retired:
    """What became of a source that was retired."""

    told: int
    """Accounts of which it was told that they are gone."""
    is_gone: bool
    """False while something of it is to be sent yet; its rows go then."""


def rename(store: OperatorStore, source: SourceName, name: SourceName, *, now: datetime, tells_deletions: bool) -> int:
    """Have *source* go on as *name*, and return how many accounts are told anew.

    Raises:
        BridgeError: there is no such source, something of it waits, or the name is another's.
        StoreUnusable: from the store; nothing happened then.

    """
    known = store.leavers.left(frozenset())
    left = _known(source, known)
    if name in known:
        raise BridgeError(
            f"{name} is in the store already. If that is what is left of another PBX, account-bridge retire {name} "
            "lets it go"
        )
    if left.is_retired:
        raise BridgeError(f"{source} was retired, and goes as soon as everything of it is sent: {name} begins anew")
    if left.is_waiting:
        raise BridgeError(
            f"events of {source} still wait to be sent, or are parked. Run the bridge with the former name until "
            "account-bridge status says that everything is sent, then rename it"
        )
    rules = Rules(key=store.key)
    with store.transaction() as transaction:
        present: Mapping[str, Mirrored] = transaction.missing(source, 0, _ALL)
        if tells_deletions:
            _end(transaction, source, present, rules, now)
        transaction.rename(source, name)
        transaction.begin_lineage(name)
        beginning = Posting(transaction, name, rules)
        beginning.tell_anew(present)
        beginning.finish(now)
    return len(present)


def retire(  # noqa: PLR0913 - what a person may want of it
    store: OperatorStore,
    source: SourceName,
    followed: Iterable[str],
    *,
    now: datetime,
    tells_deletions: bool,
    discards_unsent: bool = False,
) -> Retired:
    """Let *source* go, which must not be *followed*; with *tells_deletions* its accounts are told to be gone first.

    With *discards_unsent* nothing that waits of it is sent any more; nobody may be sending.

    Raises:
        BridgeError: there is no such source, or it is followed.
        StoreUnusable: from the store; nothing happened then.

    """
    if source in followed:
        raise BridgeError(f"{source} is followed. Take it out of the configuration first: account-bridge reload")
    _known(source, store.leavers.left(frozenset()))
    told = 0
    with store.transaction() as transaction:
        if tells_deletions:
            present = transaction.missing(source, 0, _ALL)
            _end(transaction, source, present, Rules(key=store.key), now)
            told = len(present)
        store.leavers.retire(source, now, is_ended=tells_deletions)
    gone = store.leavers.remove_retired(at_once=source if discards_unsent else None)
    return Retired(told, is_gone=source in gone)


def _known(source: SourceName, known: Mapping[SourceName, Left]) -> Left:
    if source in known:
        return known[source]
    close = difflib.get_close_matches(source, known, n=1)
    hint = f". Did you mean {close[0]!r}?" if close else ""
    raise BridgeError(f"no PBX in this store is called {source!r}; there is {', '.join(known) or 'none'}{hint}")


def _end(
    transaction: Transaction, source: SourceName, present: Mapping[str, Mirrored], rules: Rules, now: datetime
) -> None:
    """Tell of each account that it is gone, and that there is none."""
    transaction.begin_lineage(source)
    transaction.begin_walk(source, transaction.place(source).walk + 1, is_new_epoch=False)
    ending = Posting(transaction, source, rules)
    ending.retire(present)
    place = ending.finish(now).place
    nobody = Certificate(
        source=source,
        walk=place.walk,
        started_at=now,
        verified_at=now,
        accounts=0,
        repaired=0,
        deleted=len(present),
        held=0,
        absent=0,
        sequence=place.sequence,
        completes_lineage=True,
    )
    transaction.certify(nobody)
    transaction.add_events(source, [certificate_event(nobody, place.lineage)])
