"""What a run is judged by: pure counting over what arrived, in the order in which it arrived.

Every delivery to a consumer, and every effect that a consumer with an inbox made durable, is an ``Arrival``. Each
carries the number of the last fault that was injected before it, so that whatever is wrong has a suspect.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

from tests.chaos.faults import TAKES_STORE, Fault, Kind

States = Mapping[str, Hashable]
"""Where each account stands, by guid: anything that can be compared."""


class Arrival(NamedTuple):
    """One delivery, or one effect."""

    event_id: str
    source: str
    sequence: int
    account: str
    revision: int
    fault: int = 0
    """How many faults had been injected before."""
    is_redelivered: bool = False
    """The broker says that it delivered this message before."""
    is_marked: bool = False
    """The bridge says that it may have published this event before."""
    lineage: str = ""


@dataclass(frozen=True)
class History:
    """All that one reader received, or one consumer with an inbox applied."""

    name: str
    arrivals: Sequence[Arrival]
    is_applied: bool = False
    """Arrivals are effects, of which an event may have one, however often it was delivered."""
    may_repeat: bool = True
    """False where even what is published again after a fault must not come twice: a log that knows what it has."""
    differing: Sequence[str] = ()
    """Accounts whose final state is not that of the PBX."""
    is_of_log: bool = False
    """What the bridge sends beside the exchange, at its own pace."""


@dataclass
class Tally:
    """How often the promise was broken, or bent as far as it may be."""

    lost: int = 0
    out_of_order: int = 0
    applied_twice: int = 0
    delivered_twice: int = 0
    delivered_twice_bound: int = 0
    unannounced: int = 0
    """Of the deliveries for a second time: those that neither the broker nor the bridge had marked as such."""

    def counts(self) -> dict[str, int]:
        """Return everything by name."""
        return dict(vars(self))


@dataclass
class Result:
    """What came of a run."""

    changes: int
    """Distinct events. The PBX merges edits of one account between two questions, so this is less than was done."""
    window: int
    faults: Sequence[Fault]
    total: Tally = field(default_factory=Tally)
    """Broken promises of all queues. What was published twice is twice in every queue, so there the worst counts."""
    by_queue: dict[str, Tally] = field(default_factory=dict)
    by_fault: dict[Kind, Tally] = field(default_factory=dict)
    most_after_one_fault: int = 0
    """Of what was delivered twice: the most that a single fault left behind in a queue, without what waited in a copy
    of the store that was put back then."""
    deletions_found_by_walks: int = 0
    """What the PBX did not report while its list was read from the start, and two full walks found."""
    lost_with_store: int = 0
    """Changes that the exchange or the log had, and the other not yet, when the store was lost or set back."""

    def injected(self, kind: Kind) -> int:
        """Return how often that was done."""
        return sum(fault.kind is kind for fault in self.faults)

    def as_json(self) -> dict[str, Any]:
        """Return the counts by name."""
        return {
            "changes": self.changes,
            "bridge_kills": self.injected(Kind.BRIDGE_SIGKILL),
            "broker_kills": self.injected(Kind.BROKER_KILL),
            **self.total.counts(),
            "window": self.window,
            "most_after_one_fault": self.most_after_one_fault,
            "deletions_found_by_walks": self.deletions_found_by_walks,
            "lost_with_store": self.lost_with_store,
            "by_fault": {
                kind: {"injected": self.injected(kind), **tally.counts()} for kind, tally in self.by_fault.items()
            },
            "by_queue": {name: tally.counts() for name, tally in self.by_queue.items()},
        }


def count(histories: Sequence[History], faults: Sequence[Fault], *, window: int) -> Result:
    """Return how the promise fared.

    Up to *window* events are sent and not yet recorded as confirmed at any moment, and those may be published again
    after a fault that ends the publisher's session; so many deliveries for a second time each of these faults may have
    in each queue.

    What is in no store any more cannot be sent: where that is lost or set back, the exchange may have had a change that
    the log had not, or the other way round. As many changes as waited in that store, at the end of that lineage, are no
    loss, since the next one tells every account anew. Within either of them nothing may be missing.
    """
    changes = len({arrival.event_id for history in histories for arrival in history.arrivals})
    result = Result(changes, window, faults, by_fault={kind: Tally() for kind in Kind})
    for fault in faults:
        result.by_fault[fault.kind].delivered_twice_bound += window * fault.may_repeat + fault.unsent
    bound = sum(tally.delivered_twice_bound for tally in result.by_fault.values())
    last = _last_sequences(histories)
    result.lost_with_store, last_by_sink = _without_lost_with_store(histories, faults, last)
    for history in histories:
        found = _found(history, last_by_sink[history.is_of_log], len(faults))
        result.by_queue[history.name] = Tally(
            **{what: len(suspects) for what, suspects in found.items()},
            delivered_twice_bound=bound if history.may_repeat and not history.is_applied else 0,
        )
        for what, suspects in found.items():
            blamed = Counter(suspects)
            for kind, tally in result.by_fault.items():
                here = sum(number for suspect, number in blamed.items() if suspect and faults[suspect - 1].kind is kind)
                _add(tally, what, here)
            if what == "delivered_twice":
                beyond = [number - (faults[suspect - 1].unsent if suspect else 0) for suspect, number in blamed.items()]
                result.most_after_one_fault = max(result.most_after_one_fault, *beyond, 0)
    for tally in result.by_queue.values():
        for what, number in tally.counts().items():
            _add(result.total, what, number)
    return result


def _found(history: History, last: Mapping[tuple[str, str], int], fault: int) -> dict[str, Sequence[int]]:
    """Return the suspects of everything that is wrong with *history*; *fault* is the last of all."""
    is_applied, arrivals = history.is_applied, history.arrivals
    return {
        "lost": [*lost(arrivals, last), *[fault] * len(history.differing)],
        "out_of_order": out_of_order(arrivals),
        "applied_twice": applied_twice(arrivals) if is_applied else (),
        "delivered_twice": () if is_applied else delivered_twice(arrivals),
        "unannounced": () if is_applied else delivered_twice(arrivals, unannounced_only=True),
    }


def _add(tally: Tally, what: str, number: int) -> None:
    """Add what another queue saw; what is published twice is in every queue, so of that the worst counts."""
    before = getattr(tally, what)
    is_in_every_queue = what.startswith("delivered_twice") or what == "unannounced"
    setattr(tally, what, max(before, number) if is_in_every_queue else before + number)


def verdict(result: Result) -> Sequence[str]:
    """Return a sentence for every broken promise; a run in which nothing happened has kept none."""
    total, kills = result.total, result.injected(Kind.BRIDGE_SIGKILL) + result.injected(Kind.BROKER_KILL)
    sentences = [sentence for name, tally in result.by_queue.items() for sentence in _broken_in(name, tally)]
    sentences += [
        f"{kind}: {tally.delivered_twice} changes were published twice, "
        f"{tally.delivered_twice_bound} is what may be after {result.injected(kind)} of them."
        for kind, tally in result.by_fault.items()
        if tally.delivered_twice > tally.delivered_twice_bound
    ]
    others = {
        "No change was made, so nothing was shown.": not result.changes,
        "Nothing was killed, so nothing was shown.": not kills,
        f"After one fault {result.most_after_one_fault} changes came twice, more than a window.": (
            result.most_after_one_fault > result.window
        ),
        f"{total.unannounced} changes came twice without a mark of the bridge or the broker.": total.unannounced > 0,
    }
    return [*sentences, *(sentence for sentence, is_so in others.items() if is_so)]


def _broken_in(queue: str, tally: Tally) -> Sequence[str]:
    broken = {
        f"{queue}: {tally.lost} changes or final states of accounts were lost.": tally.lost,
        f"{queue}: {tally.out_of_order} changes came for the first time behind a later one.": tally.out_of_order,
        f"{queue}: {tally.applied_twice} changes were applied more than once.": tally.applied_twice,
        f"{queue}: {tally.delivered_twice} changes came twice, {tally.delivered_twice_bound} may.": (
            tally.delivered_twice > tally.delivered_twice_bound
        ),
    }
    return [sentence for sentence, is_broken in broken.items() if is_broken]


def lost(arrivals: Iterable[Arrival], last: Mapping[tuple[str, str], int]) -> Sequence[int]:
    """Return a suspect for every number that never came, of each lineage of a source up to its *last*.

    The suspect is the fault before the next number that did come.
    """
    seen: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
    for arrival in arrivals:
        seen[arrival.source, arrival.lineage].setdefault(arrival.sequence, arrival.fault)
    suspects = []
    for lineage, end in last.items():
        suspect = max(seen[lineage].values(), default=0)
        for sequence in range(end, 0, -1):
            if sequence in seen[lineage]:
                suspect = seen[lineage][sequence]
            else:
                suspects.append(suspect)
    return suspects[::-1]


def missing(histories: Sequence[History]) -> Iterable[str]:
    """Yield what never came to whom, lineage by lineage, for who looks for the reason; part of it may be no loss."""
    last = _last_sequences(histories)
    for history in histories:
        for (source, lineage), end in last.items():
            came = {each.sequence for each in history.arrivals if (each.source, each.lineage) == (source, lineage)}
            if gone := sorted(set(range(1, end + 1)) - came):
                yield (
                    f"{history.name}: {len(gone)} of the {end} changes of {source} in {lineage} never came, number "
                    f"{gone[0]} to {gone[-1]}; its last is {max(came, default=0)}"
                )


def out_of_order(arrivals: Iterable[Arrival]) -> Sequence[int]:
    """Return the suspect of every first appearance behind a later one of the same source, by lineage and number."""
    highest: dict[str, tuple[str, int]] = {}
    suspects = []
    for arrival in first_appearances(arrivals):
        place = (arrival.lineage, arrival.sequence)
        if place < highest.get(arrival.source, place):
            suspects.append(arrival.fault)
        else:
            highest[arrival.source] = place
    return suspects


def applied_twice(effects: Iterable[Arrival]) -> Sequence[int]:
    """Return the suspect of every event that has more than one effect: the fault before its second one."""
    counted: Counter[str] = Counter()
    suspects = []
    for effect in effects:
        counted[effect.event_id] += 1
        if counted[effect.event_id] == 2:
            suspects.append(effect.fault)
    return suspects


def delivered_twice(deliveries: Iterable[Arrival], *, unannounced_only: bool = False) -> Sequence[int]:
    """Return the suspect of every delivery for a second time that the broker does not call one: published again."""
    seen: set[str] = set()
    suspects = []
    for delivery in deliveries:
        is_repeated = delivery.event_id in seen and not delivery.is_redelivered
        if is_repeated and not (unannounced_only and delivery.is_marked):
            suspects.append(delivery.fault)
        seen.add(delivery.event_id)
    return suspects


def first_appearances(arrivals: Iterable[Arrival]) -> Iterable[Arrival]:
    """Yield each event where it came first."""
    seen: set[str] = set()
    for arrival in arrivals:
        if arrival.event_id not in seen:
            seen.add(arrival.event_id)
            yield arrival


def differing(final: States, truth: States) -> Sequence[str]:
    """Return the accounts that are not the same in both; one that is missing differs."""
    return sorted(guid for guid in final.keys() | truth.keys() if final.get(guid) != truth.get(guid))


def final_revisions(effects: Iterable[Arrival]) -> dict[str, int]:
    """Return where each account stands after all these effects."""
    revisions: dict[str, int] = {}
    for effect in effects:
        revisions[effect.account] = effect.revision
    return revisions


def _last_sequences(histories: Iterable[History]) -> dict[tuple[str, str], int]:
    last: dict[tuple[str, str], int] = defaultdict(int)
    for history in histories:
        for arrival in history.arrivals:
            lineage = (arrival.source, arrival.lineage)
            last[lineage] = max(last[lineage], arrival.sequence)
    return last


def _without_lost_with_store(
    histories: Sequence[History], faults: Sequence[Fault], last: Mapping[tuple[str, str], int]
) -> tuple[int, Mapping[bool, Mapping[tuple[str, str], int]]]:
    """Return how many changes one sink had and the other not when a store went, and how far each had to come.

    The key is whether that is the log.
    """
    reached = {is_log: _last_sequences(h for h in histories if h.is_of_log is is_log) for is_log in (False, True)}
    gone = 0
    wanted = {is_log: dict(last) for is_log in reached}
    if not all(reached.values()):
        return gone, wanted
    for lineage, waited in _ended_with_store(histories, faults):
        for is_log, its_last in reached.items():
            behind = last[lineage] - its_last.get(lineage, 0)
            if behind <= waited:
                wanted[is_log][lineage] -= behind
                gone += behind
    return gone, wanted


def _ended_with_store(histories: Sequence[History], faults: Sequence[Fault]) -> Sequence[tuple[tuple[str, str], int]]:
    """Return source and lineage of those between whose beginning and the next one's a store was lost or set back.

    With how many events waited in it.
    """
    begun: dict[str, dict[str, int]] = defaultdict(dict)
    for history in histories:
        for arrival in history.arrivals:
            at = begun[arrival.source]
            at[arrival.lineage] = min(at.get(arrival.lineage, arrival.fault), arrival.fault)
    return [
        ((source, lineage), sum(fault.gone for fault in faults[lineages[lineage] : lineages[following]]))
        for source, lineages in begun.items()
        for lineage, following in pairwise(sorted(lineages))
        if any(fault.kind in TAKES_STORE for fault in faults[lineages[lineage] : lineages[following]])
    ]
