"""The board in words, for people, and in JSON, for machines."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any, Final

import orjson

from bridge.events.wording import clean, shown
from bridge.observability.boxes import NAMED, Box, Problem, boxes, listed, told_one_by_one
from bridge.observability.component_status import LEVELS, ComponentStatus, Level, StreamStatus
from bridge.observability.source_status import SourceStatus
from bridge.observability.status import BridgeStatus, ListenerStatus, age_words
from bridge.store.records import Left

Sentence = tuple[str | datetime, ...]
"""Words and moments; whoever shows it knows the reader's clock and puts the moments into words."""

IN_FUTURE: Final = "in the future: the clock was wrong when it was written"
"""Said of a moment that was recorded and has not come yet."""

FILE_UNUSABLE: Final = "file_unusable"
CONFIG_UNUSABLE: Final = "config_unusable"
STORE_LOCKED: Final = "store_locked"
FENCE_HELD: Final = "fence_held"
INFO_UNREAD: Final = "info_unread"
UNLIKE_OBSERVED: Final = "pbx_unlike_observed"
QUEUE_WAS_DELETED: Final = "queue_was_deleted"
TOPOLOGY_DIFFERS: Final = "topology_differs"
NOT_SHARED_OUT: Final = "not_shared_out"

_LEVEL_WORDS: Final = {
    Level.OK: "well",
    Level.WARN: "with a warning",
    Level.PAUSED: "paused",
    Level.ERROR: "in need of attention",
}

_NOT_TOLD: Final = {"steady", "pace", "expected", "scrub", "locked", "recording"}
"""Members of the board and of its parts that are no news to anybody."""

_NOT_OF_A_PART: Final = {
    "task_stuck",
    "outbox_full",
    "events_late",
    "events_parked",
    "walk_stalled",
    "insecure",
    FILE_UNUSABLE,
    CONFIG_UNUSABLE,
    STORE_LOCKED,
    INFO_UNREAD,
    UNLIKE_OBSERVED,
    QUEUE_WAS_DELETED,
    TOPOLOGY_DIFFERS,
    NOT_SHARED_OUT,
    "log_unreadable",
    "pbx_waits",
    "pbx_unlike_before",
}
"""Causes of which the sentence about an end of the bridge does not tell."""


def problems(board: BridgeStatus, now: datetime) -> list[Problem]:
    """Return what is wrong, the worst first."""
    found = list(_problems(board, now))
    return sorted(found, key=lambda problem: -LEVELS.index(problem.level))


def _problems(board: BridgeStatus, now: datetime) -> Iterator[Problem]:
    for words in board.stuck():
        yield Problem(
            "bridge", "task_stuck", Level.ERROR, None, f"{words}. Restart the bridge; nothing is lost".capitalize()
        )
    if board.cluster is not None:
        for words in board.cluster.troubles():
            yield Problem("bridge", NOT_SHARED_OUT, Level.ERROR, None, ended(words))
    if board.broker.level is not Level.OK:
        yield _failing("broker", board.broker)
    if board.log is not None:
        yield from _problems_of_log(board.log)
    yield from _problems_of_outbox(board, now)
    for told in board.missed.values():
        yield Problem("broker", QUEUE_WAS_DELETED, Level.WARN, None, told)
    for told in dict.fromkeys(told for found in board.differences.values() for told in found):
        yield Problem("broker", TOPOLOGY_DIFFERS, Level.WARN, None, told)
    yield from _problems_of_configuration(board)
    yield from _problems_of_files(board)
    if board.listener is not None:
        yield from _problems_of_door(board.listener)
    for name, part in board.sources.items():
        yield from _list_problems(name, part, board, now)


def _problems_of_configuration(board: BridgeStatus) -> Iterator[Problem]:
    for sentence in board.insecurities:
        yield Problem("bridge", "insecure", Level.WARN, None, sentence)
    if board.config_trouble:
        words = f"The configuration was read again and not taken over: {board.config_trouble}"
        yield Problem("bridge", CONFIG_UNUSABLE, Level.WARN, None, ended(words))
    for told in board.unusable_files.values():
        yield Problem("bridge", CONFIG_UNUSABLE, Level.WARN, None, ended(f"A PBX is not as its file says. {told}"))


def _problems_of_outbox(board: BridgeStatus, now: datetime) -> Iterator[Problem]:
    if words := board.locked():
        yield Problem("outbox", STORE_LOCKED, Level.WARN, None, ended(f"{words[:1].upper()}{words[1:]}"))
    if board.uncompared:
        words = f"Each start tells everything anew, under a new lineage: {board.uncompared}"
        yield Problem("log", "log_unreadable", Level.WARN, None, ended(words))
    if board.full:
        yield Problem("outbox", "outbox_full", Level.PAUSED, None, board.full)
    if board.is_late(now) and board.oldest is not None:
        waited = age_words(now - board.oldest)
        yield Problem(
            "outbox",
            "events_late",
            Level.ERROR,
            board.oldest,
            f"The oldest event has waited for {waited}; more than {age_words(board.max_unsent_age)} is too long",
        )
    if board.parked:
        yield Problem("outbox", "events_parked", Level.WARN, None, _parked_words(board))


def _problems_of_door(door: ListenerStatus) -> Iterator[Problem]:
    if door.certificate_trouble:
        yield Problem("door", FILE_UNUSABLE, Level.WARN, None, ended(door.certificate_trouble))
    for caller in door.waiting.values():
        words = (
            f"A new PBX, {clean(caller.pbx)} of {clean(caller.domain)}, dials from {clean(caller.address)} and waits "
            f"for your yes: account-bridge admit {caller.source}"
        )
        yield Problem("door", "pbx_waits", Level.WARN, None, words)


def _problems_of_files(board: BridgeStatus) -> Iterator[Problem]:
    ways = zip(("broker", "log"), board.ways, strict=False)  # there may be no log of our own
    for where, part in (*ways, *board.sources.items()):
        if part.file_trouble:
            yield Problem(where, FILE_UNUSABLE, Level.WARN, None, part.file_trouble)


def _problems_of_log(part: StreamStatus) -> Iterator[Problem]:
    if part.level is not Level.OK:
        yield _failing("log", part)
    if part.parked:
        words = (
            f"The log refused {plural(part.parked, 'event')} for good{_behind(part.held - part.parked)}. "
            "Why, and what to do: account-bridge parked"
        )
        yield Problem("log", "events_parked", Level.WARN, None, words)
    if part.warning:
        yield Problem("log", "log_lost_events", Level.WARN, None, part.warning)


def _list_problems(name: str, part: SourceStatus, board: BridgeStatus, now: datetime) -> Iterator[Problem]:
    if part.is_paused:
        words = f"{part.doing[:1].upper()}{part.doing[1:]}. To read it again: account-bridge resume {name}"
        yield Problem(name, "pbx_paused", Level.PAUSED, part.since, words)
    elif part.level is not Level.OK and part.level is not Level.PAUSED:
        yield _failing(name, part)
    if part.held_back:
        yield Problem(name, part.held_cause, Level.WARN, part.held_since, ended(part.held_back))
    if part.fenced:
        for words in dict.fromkeys(part.fenced.values()):
            yield Problem(name, FENCE_HELD, part.fence_level(now), part.fenced_since, ended(words))
    if part.walk is not None and board.is_stalled(part, now):
        yield Problem(
            name,
            "walk_stalled",
            Level.WARN,
            part.walk.progress_at,
            f"The full walk is stuck: {part.walk.accounts} accounts were read, and none for "
            f"{age_words(now - part.walk.progress_at)}. Is the PBX overloaded? Changes that are heard "
            "still flow",
        )
    warnings = {
        "deletions_held": part.warning,
        "pbx_unlike_before": part.oddity,
        "api_not_listed": part.doubt,
        INFO_UNREAD: part.unread and f"{name}: {part.unread}",
        UNLIKE_OBSERVED: part.unobserved,
    }
    for cause, words in warnings.items():
        if words:
            yield Problem(name, cause, Level.WARN, None, words)


def _parked_words(board: BridgeStatus) -> str:
    return (
        f"The broker refused {plural(board.parked, 'event')} for good{_behind(board.held - board.parked)}. "
        "Why, and what to do: account-bridge parked"
    )


def headline(board: BridgeStatus, now: datetime) -> list[Sentence]:
    """Return the few sentences that somebody in a hurry wants: is everything sent, and is it alive?"""
    told: list[Sentence] = [(_in_short(board, now),)]
    changes = [part.last_change for part in board.sources.values() if part.last_change is not None]
    if changes:
        last = max(changes, key=lambda change: change.at)
        told.append(("Last change ", last.at, ", ", shown(last.account), f", {last.what}."))
    heard = [(part.last_progress_at, name) for name, part in board.sources.items() if part.last_progress_at]
    if heard:
        at, name = min(heard)  # of several PBXs the one that was silent for longest
        told.append((f"Last answer from {name} {age_words(now - at)} ago.",))
    return told


def _in_short(board: BridgeStatus, now: datetime) -> str:
    """Return what matters first: what keeps changes from flowing, and then what is sent."""
    hindrances = list(_hindrances(board, now))
    return "; ".join([*hindrances, _sent(board, is_all=not hindrances)]) + "."


def _hindrances(board: BridgeStatus, now: datetime) -> Iterator[str]:
    """Yield what keeps changes from flowing: first what concerns all of them."""
    if board.stuck():
        yield "A part of the bridge is stuck"
    if not board.broker.is_usable and board.broker.level is not Level.OK:
        yield "The broker takes nothing at the moment"
    if board.full:
        yield "No PBX is read until there is room"
    unread = [name for name, part in board.sources.items() if not part.is_usable and not part.is_paused]
    if unread and not board.full and board.level(now) is not Level.OK:
        yield f"{_so_many(unread, board)} {'is' if len(unread) == 1 else 'are'} not read"
    if paused := [name for name, part in board.sources.items() if part.is_paused]:
        yield f"{_so_many(paused, board)} {'is' if len(paused) == 1 else 'are'} paused"


def _so_many(names: list[str], board: BridgeStatus) -> str:
    return listed(names) if len(names) <= NAMED else f"{len(names)} of {len(board.sources)} PBXs"


def _sent(board: BridgeStatus, *, is_all: bool) -> str:
    waiting = board.unsent + board.held
    unwritten = 0 if board.log is None else board.log.unsent + board.log.held
    everything = "Everything" if is_all else "everything heard is"
    if board.held and not board.unsent:
        return (
            f"{'All' if is_all else 'all'} but {plural(board.held, 'event')} sent, "
            f"which {'is' if board.held == 1 else 'are'} held back"
        )
    if waiting:
        return f"{_waiting(waiting)} to be sent"
    if unwritten:
        return f"{everything} sent, but {_waiting(unwritten)} to be written to the log"
    return f"{everything} sent"


def sentences(board: BridgeStatus, now: datetime) -> list[str]:
    """Return what a person wants to know first."""
    found = problems(board, now)
    return _sentences(board, now, found, boxes(found, board.sources))


def _sentences(board: BridgeStatus, now: datetime, found: Sequence[Problem], grouped: Sequence[Box]) -> list[str]:
    told = [in_local_words(sentence) for sentence in headline(board, now)]
    told += [ended(problem.words) for problem in found if problem.cause in _NOT_OF_A_PART]
    told += [ended(box.words) for box in grouped if len(box.names) > 1]
    if board.cluster is not None:
        told.append(board.cluster.sentence())
    told.append(f"Broker: {_sentence(board.broker, now)}")
    if board.log is not None:
        told.append(f"Log: {_sentence(board.log, now)}")
    told += _sources_in_words(board, now)
    told += [left_words(name, left) for name, left in board.left.items() if name not in board.sources]
    if board.listener is not None:
        told.append(board.listener.sentence())
    return told


def _sources_in_words(board: BridgeStatus, now: datetime) -> Iterator[str]:
    """Yield a sentence for each PBX, the worst first; of many PBXs those that are well are only counted."""
    shown, counted = told_one_by_one({name: board.assess(part, now) for name, part in board.sources.items()})
    for name in shown:
        part = board.sources[name]
        if part.held_back:
            yield f"{name}: {_held_back(part, now)}"
        for why in dict.fromkeys(part.fenced.values()):
            yield f"{name}: {ended(why)}"
        yield source_in_words(name, part, now)
    if counted:
        told = ", ".join(f"{count} {_LEVEL_WORDS[level]}" for level, count in counted.items())
        yield f"{'Also' if shown else 'PBXs'}: {told}. account-bridge status --all lists them."


def source_in_words(name: str, part: SourceStatus, now: datetime) -> str:
    """Return what a person wants to know of a PBX."""
    return f"{name}: {_sentence(part, now)} {completeness(part, now)}"


def left_words(name: str, left: Left) -> str:
    """Return what is to be said of a PBX that is in the store and not followed."""
    if left.is_retired:
        return f"{name}: retired, and gone as soon as everything of it is sent."
    waiting = ", and events of it are still to be sent" if left.is_waiting else ""
    return (
        f"{name}: not followed any more. The store still has {plural(left.accounts, 'account')} of it{waiting}; they "
        f"count nowhere. If it is gone for good: account-bridge retire {name}; if it has another name now: "
        f"account-bridge rename {name} NAME."
    )


def liveness(board: BridgeStatus) -> tuple[bool, str]:
    """Return whether the process is alive, not whether changes flow, and why."""
    stuck = board.stuck()
    return not stuck, "\n".join(stuck) or "the event loop turns, and every task makes progress"


def as_json(board: BridgeStatus, now: datetime) -> Mapping[str, Any]:
    """Return the whole board for machines; ages are in seconds."""
    found = problems(board, now)
    grouped = boxes(found, board.sources)
    return {
        "level": board.level(now),
        "ready": board.is_ready(now),
        "alive": not board.stuck(),
        "now": now,
        "headline": [[_as_member(part) for part in sentence] for sentence in headline(board, now)],
        "problems": found,
        "boxes": grouped,
        "sentences": _sentences(board, now, found, grouped),
        **_members(board),
        "left": {
            name: {**_members(left), "sentence": left_words(name, left)}
            for name, left in board.left.items()
            if name not in board.sources
        },
        "ended": board.ended(),
        "oldest_unsent_seconds": _seconds(board.oldest_unsent_at, now),
        "broker": {**_members(board.broker), "ages": {"confirm": _seconds(board.broker.last_progress_at, now)}},
        "door": None if board.listener is None else _members(board.listener),
        "log": None if board.log is None else _members(board.log),
        "sources": {name: _source(board, name, part, now) for name, part in board.sources.items()},
        "tasks": {
            name: {
                "progress_age_seconds": round(task.age(board.steady()).total_seconds(), 3),
                "limit_seconds": task.limit.total_seconds(),
                "is_stuck": task.is_stuck(board.steady()),
            }
            for name, task in board.tasks.items()
        },
        "max_unsent_age": board.max_unsent_age.total_seconds(),
        "max_walk_stall": board.max_walk_stall.total_seconds(),
    }


def without_people(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``as_json`` told without the names of accounts, to be sent to somebody who helps."""
    kept = {name: value for name, value in told.items() if name not in {"headline", "sentences"}}
    sources = told.get("sources", {})
    kept["sources"] = {name: {**part, "last_change": None} for name, part in sources.items()}
    return kept


def _source(board: BridgeStatus, name: str, part: SourceStatus, now: datetime) -> dict[str, Any]:
    return {
        **_members(part),
        "cursor": {name: orjson.Fragment(token) for name, token in _members(part.cursor).items() if token is not None},
        "level": board.assess(part, now),
        "is_walk_stalled": board.is_stalled(part, now),
        "completeness": completeness(part, now),
        "sentence": source_in_words(name, part, now),
        "ages": {
            "answer": _seconds(part.last_progress_at, now),
            "change": _seconds(part.last_change_at, now),
            "confirm": _seconds(part.last_confirm_at, now),
            "caught_up": _seconds(part.caught_up_at, now),
            "verified": _seconds(part.verified_at, now),
        },
    }


def in_local_words(sentence: Sentence) -> str:
    """Return *sentence* with its moments in the time of this machine."""
    return "".join(f"{part.astimezone():%H:%M}" if isinstance(part, datetime) else clean(part) for part in sentence)


def plural(count: int, noun: str) -> str:
    """Return *count* and *noun*, which takes an s."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def ended(sentence: str) -> str:
    """Return *sentence* with its full stop."""
    return sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."


def _behind(count: int) -> str:
    return f", and {count} {'waits' if count == 1 else 'wait'} behind" if count else ""


def _waiting(count: int) -> str:
    return f"{plural(count, 'event')} {'waits' if count == 1 else 'wait'}"


def _failing(where: str, part: ComponentStatus) -> Problem:
    words = part.problem or f"{part.doing[:1].upper()}{part.doing[1:]}"
    return Problem(where, part.cause or "not_connected", part.level, part.level_since or part.since, _also(words, part))


def _as_member(part: str | datetime) -> str | dict[str, datetime]:
    return {"at": part} if isinstance(part, datetime) else part


def _members(value: Any) -> dict[str, Any]:
    names = (member.name for member in fields(value))
    return {name: getattr(value, name) for name in names if name not in _NOT_TOLD}


def _seconds(since: datetime | None, now: datetime) -> float | None:
    return None if since is None else round((now - since).total_seconds(), 3)


def _sentence(part: ComponentStatus, now: datetime) -> str:
    words = f"{part.doing} for {age_words(now - part.since)}"
    if part.last_progress_at is not None:
        words += f", last answer {age_words(now - part.last_progress_at)} ago"
    return f"{words}. {ended(_also(part.problem, part))}" if part.problem else f"{words}."


def _also(words: str, part: ComponentStatus) -> str:
    return f"{ended(words)} Meanwhile: {part.passing}" if part.passing else words


def _held_back(part: SourceStatus, now: datetime) -> str:
    since = "" if part.held_since is None else f", the first for {age_words(now - part.held_since)}"
    return f"{_waiting(part.unsent)}{since}: {ended(part.held_back)}"


def completeness(part: SourceStatus, now: datetime) -> str:
    """Return what the last proven full walk of a PBX says about what is known of it."""
    if part.verified_at is None:
        words = "Deletions unknown: no full walk was proven yet."
    else:
        found = f"{_found(part, now)}, " if part.accounts is not None else ""
        words = f"{found}verified {_moment(part.verified_at, now)}. Deletions {part.deletions}."
    return " ".join([words, *(ended(more) for more in (part.warning, part.retelling) if more)])


def _found(part: SourceStatus, now: datetime) -> str:
    if not part.absent:
        return plural(part.accounts or 0, "account") + ("" if part.warning else ", all match")
    words = f"{part.seen} match"
    if part.unseen:
        words += f", {part.unseen} {_were(part.unseen)} not seen; a second walk {_second_walk(part, now)}"
    if held := part.deletions_held:
        words += f"{';' if part.unseen else ','} {held} {_were(held)} not seen, whose deletion is held"
    return words


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def _second_walk(part: SourceStatus, now: datetime) -> str:
    if part.walk is not None:
        return "is under way"
    at = part.second_look_at
    if at is None or at <= now:
        return "decides as soon as it can begin"
    return f"at {at.astimezone():%H:%M} decides"


def _moment(at: datetime, now: datetime) -> str:
    return f"{at.astimezone():%Y-%m-%d %H:%M}{in_future(at, now)}"


def in_future(at: datetime, now: datetime) -> str:
    """Return what is to be said about a recorded moment that lies in the future, or nothing where it does not."""
    return f" ({IN_FUTURE})" if at > now else ""
