"""What became of an account's changes, in sentences: who is meant, what was confirmed, and why something was not sent.

Pure: what the store keeps and what the running bridge says come in, findings go out.
"""

import difflib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import orjson

from bridge.events.normalize import account_key
from bridge.events.wording import choose_name, shown
from bridge.model import AccountGuid, ChangeKind, Cursor, Published, Token
from bridge.observability.report import ended, plural
from bridge.store.records import KnownAccount, RecordedEvent, SourceRecord

NEAR: Final = 5
"""Suggestions, where nobody is found."""
MAX_COMPARED_NAMES: Final = 20_000
"""Among which near ones are looked for; comparing takes a while."""
_MIN_LIKENESS: Final = 0.6

_NAMES: Final = ("display_name", "common_name", "h323")


class EventState(StrEnum):
    """Where an event is."""

    CONFIRMED = "confirmed"
    WAITING = "waiting"
    IN_DOUBT = "in doubt"
    PARKED = "parked"
    HELD = "held"
    DISCARDED = "discarded"


@dataclass(frozen=True, slots=True)
class Live:
    """What the running bridge says about itself; the default is that none runs."""

    is_running: bool = False
    is_broker_usable: bool = False
    broker: str = ""
    """What the broker's side is doing, and what is wrong with it."""
    sources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By name: ``is_usable``, ``doing``, ``problem``, ``last_progress_at``, ``held_back``."""

    @classmethod
    def of(cls, status: Mapping[str, Any] | None) -> "Live":
        """Return it from the status of the bridge; ``None``: no bridge answers."""
        if status is None:
            return cls()
        broker = status["broker"]
        words = broker["problem"] or broker["doing"]
        return cls(is_running=True, is_broker_usable=broker["is_usable"], broker=words, sources=status["sources"])


@dataclass(frozen=True, slots=True)
class TracedEvent:
    """An event as a trace shows it."""

    event: str
    sequence: int
    routing_key: str
    change: str
    changed: Sequence[str]
    seen_at: datetime
    confirmed_at: datetime | None
    state: EventState
    why: str
    """Why it is not confirmed; empty where it is."""


@dataclass(frozen=True, slots=True)
class Trace:
    """One account and what became of its changes."""

    source: str
    guid: str
    name: str
    numbers: Sequence[str]
    is_deleted: bool
    revision: int
    sentences: Sequence[str]
    events: Sequence[TracedEvent]
    """Those that the outbox still has, the oldest first."""


def is_meant(account: Published, who: str) -> bool:
    """Tell whether *who* is the extension, guid, user name, name or address of *account*."""
    who = as_published(who)
    wanted = who.casefold()
    if account_key(AccountGuid(str(account.get("guid", "")))) == account_key(AccountGuid(who)):
        return True
    return any(wanted == word.casefold() for word in split_words(account))


def as_published(text: str) -> str:
    """Return what somebody typed, or copied from a file name, in the form in which it would be published (NFC)."""
    return unicodedata.normalize("NFC", text)


def split_words(account: Published) -> Iterator[str]:
    """Yield everything *account* may be asked for by, its guid aside."""
    yield from (str(number) for number in account.get("numbers") or ())
    yield from (str(account[name]) for name in _NAMES if account.get(name))
    yield from (str(email) for email in account.get("emails") or ())


def has_usn(known: KnownAccount, who: str) -> bool:
    """Tell whether *who* is the number under which the PBX told of the account last."""
    return who in {known.cursor.usn, f"{known.cursor.usn}".strip('"')}


def former(event: RecordedEvent, who: str) -> bool:
    """Tell whether *event* tells of an account that was asked for by *who* then."""
    who = as_published(who)
    # Before anything is parsed: most bodies do not have the word in them. Escaped, as orjson writes it.
    if orjson.dumps(who)[1:-1].decode().casefold() not in event.body.decode().casefold():
        return False
    data = orjson.loads(event.body).get("data", {})
    account = data.get("account")
    return bool(account) and (is_meant(account, who) or is_meant(data.get("previous", {}) | {"guid": ""}, who))


def as_told(event: RecordedEvent) -> KnownAccount:
    """Return the account that *event* told of, as it was then: the mirror may have begun anew since."""
    told = orjson.loads(event.body)
    data = told["data"]
    tokens = {name: Token(orjson.dumps(value).decode()) for name, value in data.get("cursor", {}).items()}
    return KnownAccount(
        source=event.source,
        key=str(event.account_key),
        cursor=Cursor(**tokens),
        account=data["account"],
        revision=data["revision"],
        is_deleted=data["change"] == ChangeKind.DELETED,
        last_walk=0,
        missed=0,
        lineage=told.get("lineage", ""),  # a version before lineages has none
        sequence=event.sequence,
    )


def unfinished(sources: Iterable[SourceRecord], renewed: Mapping[str, Any] | None) -> str:
    """Return which PBXs have not told everything yet, and since when it is told anew; empty where all have."""
    names = [source.name for source in sources if not source.is_complete]
    if not names:
        return ""
    unread = f"{' and '.join(names)} {'has' if len(names) == 1 else 'have'} not been read to {_its(names)} end"
    if renewed is None:
        return f"{unread} yet."
    since = _at(datetime.fromisoformat(renewed["at"]))
    return f"Everything is told anew since {since}, and {unread} in this lineage yet."


def _its(names: Sequence[str]) -> str:
    return "its" if len(names) == 1 else "their"


def near(accounts: Iterable[KnownAccount], who: str) -> list[str]:
    """Return what somebody may have meant by *who*: words that contain it, then those that look alike."""
    who = as_published(who)
    wanted = who.casefold()
    words: list[str] = []
    containing: list[str] = []
    for known in accounts:
        for word in split_words(known.account):
            if wanted in word.casefold():
                containing.append(word)
            elif len(words) < MAX_COMPARED_NAMES:
                words.append(word)
        if len(containing) >= NEAR:
            return containing[:NEAR]
    return [*containing, *difflib.get_close_matches(who, words, n=NEAR, cutoff=_MIN_LIKENESS)][:NEAR]


def trace(  # noqa: PLR0913 - what a trace weighs
    known: KnownAccount,
    events: Sequence[RecordedEvent],
    source: SourceRecord,
    live: Live,
    *,
    renewed: Mapping[str, Any] | None = None,
    unpublished: Sequence[str] = (),
    keep_days: float = 7,
) -> Trace:
    """Return what became of the changes of one account.

    *events* are all that the outbox has of it, the oldest first; *renewed* is what was noted when everything began to
    be told anew, as long as that is not done; *unpublished* names the fields that the configuration
    keeps back.
    """
    told = [_told(event, events, live) for event in events]
    return Trace(
        source=known.source,
        guid=str(known.account["guid"]),
        name=choose_name(known.account),
        numbers=[str(number) for number in known.account.get("numbers") or ()],
        is_deleted=known.is_deleted,
        revision=known.revision,
        sentences=[
            _who(known, source),
            *_told_anew(known, source, renewed),
            *_unread(source, live),
            *_last_change(known, events, told, keep_days),
            *(() if _is_former(known, source) else _since_then(known, events, source)),
            *(_read(source, live) if source.is_complete or renewed is None else ()),
            *_fields(unpublished),
        ],
        events=told,
    )


def _told(event: RecordedEvent, events: Sequence[RecordedEvent], live: Live) -> TracedEvent:
    data = orjson.loads(event.body)["data"]
    state = _state(event)
    return TracedEvent(
        event=event.event_id,
        sequence=event.sequence,
        routing_key=event.routing_key,
        change=data["change"],
        changed=data["changed"],
        seen_at=event.created_at,
        confirmed_at=event.published_at if state is EventState.CONFIRMED else None,
        state=state,
        why=_why(event, state, events, live),
    )


def _state(event: RecordedEvent) -> EventState:
    if event.discarded_reason is not None:
        return EventState.DISCARDED
    if event.published_at is not None:
        return EventState.CONFIRMED
    if event.parked_reason is not None:
        return EventState.PARKED
    if event.is_held:
        return EventState.HELD
    return EventState.IN_DOUBT if event.is_in_doubt else EventState.WAITING


def _why(event: RecordedEvent, state: EventState, events: Sequence[RecordedEvent], live: Live) -> str:
    match state:
        case EventState.CONFIRMED:
            return ""
        case EventState.DISCARDED:
            return f"it was discarded ({event.discarded_reason}) and is never sent"
        case EventState.PARKED:
            return (
                f"the broker refused it for good: {ended(event.parked_reason or '')} Once that is mended: "
                f"account-bridge parked retry {event.position}; to let it go: account-bridge parked discard "
                f"{event.position} --reason WHY"
            )
        case EventState.HELD:
            first = next((other for other in events if other.parked_reason is not None), None)
            at = f" at position {first.position}" if first is not None else ""
            return f"an earlier event of the account is parked{at}, and this one waits behind it: account-bridge parked"
        case _:
            doubt = ""
            if event.is_in_doubt:
                sent = "may have been sent" if _held_back(event, live) else "was sent, but no confirm came"
                doubt = f"it {sent}; it is sent again with the same id, and "
            return f"{doubt}{_delay(event, live)}"


def _held_back(event: RecordedEvent, live: Live) -> str:
    """Return why the exchange does not take the first event of its PBX that waits; empty where it does."""
    source = live.sources.get(event.source, {})
    return str(source.get("held_back") or source.get("fenced", {}).get("broker", ""))


def _delay(event: RecordedEvent, live: Live) -> str:
    if not live.is_running:
        return "no bridge runs on this store, so nothing is sent: start account-bridge run"
    if not live.is_broker_usable:
        return f"nothing goes out at present: {live.broker}"
    if held_back := _held_back(event, live):
        return f"what waits of {event.source} does not go out: {held_back}"
    return "it waits for its turn, behind what was made before it"


def _is_former(known: KnownAccount, source: SourceRecord) -> bool:
    return known.lineage != source.lineage


def _told_anew(known: KnownAccount, source: SourceRecord, renewed: Mapping[str, Any] | None) -> Iterator[str]:
    if _is_former(known, source) and source.is_complete:
        yield f"When everything was told anew, {source.name} did not have it any more."
    elif renewed is not None and not source.is_complete:
        yield unfinished([source], renewed)


def _who(known: KnownAccount, source: SourceRecord) -> str:
    account = known.account
    numbers = ", ".join(map(str, account.get("numbers") or ()))
    named = (("user name", account.get("h323")), ("extension", numbers), ("guid", account["guid"]))
    told = [f"{what} {value}" for what, value in named if value]
    name = shown(choose_name(account))
    gone = ", deleted" if known.is_deleted else ""
    if _is_former(known, source):
        return f"{name} was an account of {known.source} in a former lineage ({'; '.join(told)}{gone})."
    return f"{name} is an account of {known.source} ({'; '.join(told)}{gone})."


def _last_change(
    known: KnownAccount, events: Sequence[RecordedEvent], told: Sequence[TracedEvent], keep_days: float
) -> Iterator[str]:
    if not events:
        if known.revision == 0:
            yield "No change of it was ever published by this store."
        else:
            yield (
                f"Its last change (revision {known.revision}) was confirmed by the broker longer ago than events are "
                f"kept ({keep_days:g} days, replay.keep_days)."
            )
        return
    waiting = [event for event in told if event.state not in {EventState.CONFIRMED, EventState.DISCARDED}]
    if waiting:
        first = waiting[0]
        more = f" {plural(len(waiting) - 1, 'later change')} of it behind that." if len(waiting) > 1 else ""
        yield f"NOT SENT yet: the change seen {_at(first.seen_at)} ({_what(first)}), because {ended(first.why)}{more}"
    last = told[-1]
    if last.state is EventState.DISCARDED:
        yield f"NOT SENT: the change seen {_at(last.seen_at)} ({_what(last)}): {last.why}."
    confirmed = next((event for event in reversed(told) if event.state is EventState.CONFIRMED), None)
    if confirmed is not None and confirmed.confirmed_at is not None:
        yield (
            f"{'Before that, the' if waiting else 'Its'} last change{'' if not waiting else ' that went out'} was seen "
            f"{_at(confirmed.seen_at)} ({_what(confirmed)}) and sent as event {confirmed.event} with routing key "
            f"{confirmed.routing_key}; the broker confirmed it {_at(confirmed.confirmed_at)}."
        )
        if not waiting:
            yield (
                "A subscriber that did not see it: is its queue bound with a key that matches, and is it read? "
                "account-bridge check counts what waits in the configured queues, and who reads them. To send it there "
                f"once more: account-bridge replay --queue QUEUE --since {_minute(confirmed.seen_at)} "
                f"--account {known.account['guid']}"
            )


def _since_then(known: KnownAccount, events: Sequence[RecordedEvent], source: SourceRecord) -> Iterator[str]:
    if known.is_deleted:
        return
    if events and _usn(events[-1]) != _token(known.cursor.usn):
        yield (
            f"After that the PBX told of it again (usn {known.cursor.usn}), and no published field differed: that is "
            "no change, and nothing was sent."
        )
    if known.missed:
        yield f"The last {known.missed} proven full walks did not see it; it may be gone from the PBX."
    elif source.verified_at is not None and known.last_walk >= source.walk:
        yield f"The full walk proven {_at(source.verified_at)} found it as it was published."
    elif source.verified_at is not None:
        yield f"The last proven full walk ended {_at(source.verified_at)}."
    else:
        yield f"No full walk of {source.name} was proven yet."


def _read(source: SourceRecord, live: Live) -> Iterator[str]:
    if not any(_unread(source, live)):
        since = live.sources[source.name].get("last_progress_at")
        answer = f" (last answer {_at(datetime.fromisoformat(since))})" if since else ""
        yield f"{source.name} is being read{answer}; its PBX told nothing else about this account."


def _unread(source: SourceRecord, live: Live) -> Iterator[str]:
    """Yield why changes of this PBX are not heard: what a person looks for may be among them, so it comes first."""
    if source.paused is not None:
        reason = f" ({source.paused.reason})" if source.paused.reason else ""
        yield (
            f"NOT READ: {source.name} is paused since {_at(source.paused.since)}{reason}; what changed there since is "
            f"not known yet. To read it again: account-bridge resume {source.name}"
        )
    elif not live.is_running:
        yield "NOT READ: no bridge runs on this store at present; what changed since it stopped is not known yet."
    elif source.name not in live.sources:
        yield f"NOT READ: the running bridge does not follow {source.name}; it is not in its configuration any more."
    elif not live.sources[source.name]["is_usable"]:
        part = live.sources[source.name]
        since = part.get("last_progress_at")
        last = f" Its last answer came {_at(datetime.fromisoformat(since))}." if since else ""
        yield (
            f"NOT READ: {source.name} is not heard at the moment, so what changed there is not known yet: "
            f"{ended(part['problem'] or part['doing'])}{last}"
        )


def _fields(unpublished: Sequence[str]) -> Iterator[str]:
    if unpublished:
        yield f"Kept back by configuration, so that a change of these alone shows nowhere: {', '.join(unpublished)}."


def _what(event: TracedEvent) -> str:
    if event.changed:
        return f"{event.change}: {', '.join(event.changed)}"
    return f"{event.change}: nothing published differs" if event.change == ChangeKind.UPDATED else event.change


def _usn(event: RecordedEvent) -> Any:
    return orjson.loads(event.body)["data"]["cursor"].get("usn")


def _token(text: str | None) -> Any:
    return None if text is None else orjson.loads(text)


def _at(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"


def _minute(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%dT%H:%M}"
