"""What the guid of the list, usn and ausn show: U4, U5."""

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from operator import itemgetter
from typing import Final

from bridge.model import Cursor, Row, Token
from bridge.ops.observe.evidence import Delivery, Evidence, guid_in
from bridge.ops.observe.finding import Finding, Kind, Sureness, conclude
from bridge.pbx.recording.exchanges import Exchange
from bridge.pbx.wire import messages as m

MANY: Final = 10

_GUIDS: Final = {
    "request": Kind("a new one for every question without a guid", "guid-request"),
    "session": Kind("a new one for every connection", "guid-session"),
    "boot": Kind("the same on all connections, and another one after a restart", "guid-boot"),
    "lasting": Kind("the same on all connections and after a restart", "guid-db"),
    "changed": Kind("on one connection it became another one by itself"),
    "stays": Kind("the same for two questions on one connection"),
    "connections": Kind("the same on all connections; whether it outlives a restart was not seen"),
}
_STALE: Final = {
    "newguid": Kind("answers with the right guid and no account", "stale-newguid"),
    "rows": Kind("begins its list anew at once", "stale-rows"),
    "ignore": Kind("does not look at the guid and goes on from the numbers", "stale-ignore"),
    "error": Kind("answers with an error", "stale-error"),
    "silent": Kind("says nothing", "stale-silent"),
    "close": Kind("closes the connection", "stale-close"),
}
_ROW_GUIDS: Final = {
    "present": Kind("each account comes with the guid of the list", "rowguid-present"),
    "absent": Kind("accounts come without the guid of the list", "rowguid-absent"),
}
_CURSORS: Final = {
    "decimal": Kind("texts of decimal digits", "cursor-string"),
    "zeros": Kind("texts of decimal digits with zeros in front", "cursor-zeros"),
    "hex": Kind("texts of hexadecimal digits", "cursor-hex"),
    "number": Kind("numbers", "cursor-number"),
    "big": Kind("numbers beyond 2^53", "cursor-big"),
    "huge": Kind("numbers beyond 2^64", "cursor-huge"),
}


def about_cursor(evidence: Evidence) -> Iterator[Finding]:
    """Yield what the guid and the numbers show."""
    yield _guids(evidence)
    yield conclude(
        "U4",
        "The answer to a question with a foreign guid",
        _stale(evidence),
        _STALE,
        otherwise="not asked, or the answer may have been an error that comes now and then",
        enough=2,
    )
    yield conclude(
        "U4",
        "Whether an account comes with the guid of the list",
        ["present" if each.said.content.get("guid") else "absent" for each in evidence.deliveries],
        _ROW_GUIDS,
        otherwise="no account was told",
    )
    yield _cursors(evidence)
    yield from _shared(evidence)


def _guids(evidence: Evidence) -> Finding:
    question = "What the guid stands for, and so how long it lives"
    seen = list(_guid_kinds(evidence))
    weaker = next((weaker for strong, weaker in _WEAKER.items() if strong in seen), set())
    counted = [kind for kind in seen if kind not in weaker and kind != "stays"]
    if "request" in seen and "stays" in seen:
        counted.append("stays")
    return conclude("U4", question, counted, _GUIDS, otherwise="it was told on one connection only", enough=2)


_WEAKER: Final = {
    "request": {"session", "boot", "changed"},
    "session": {"boot"},
    "boot": {"connections"},
    "lasting": {"connections"},
}
"""What means nothing any more where another thing was seen."""


def _guid_kinds(evidence: Evidence) -> Iterator[str]:
    """Yield what each two guids that were told one after the other say."""
    told = [
        (talk.number, each.answer.at, guid, each.question.cursor.guid is None)
        for talk in evidence.transcript.talks
        for each in talk.exchanges
        if each.answer is not None and (guid := guid_in(each.answer.message)) is not None
    ]
    reboot = evidence.windows.get("reboot")
    pairs: set[tuple[str, frozenset[int]]] = set()
    for (talk, at, guid, is_probe), (next_talk, next_at, next_guid, is_next_probe) in pairwise(
        sorted(told, key=itemgetter(1))
    ):
        is_same = guid == next_guid
        if reboot is not None and at <= reboot.since < next_at:
            if talk != next_talk:  # or else it was not restarted
                yield "lasting" if is_same else "boot"
        elif evidence.act_between(at, next_at):
            continue
        elif talk != next_talk:
            kind = "connections" if is_same else "session"
            pair = (kind, frozenset((talk, next_talk)))
            if pair not in pairs:  # to go back and forth between two shows no more than once
                pairs.add(pair)
                yield kind
        elif is_probe and is_next_probe:
            yield "stays" if is_same else "request"
        elif not is_same and not is_next_probe:
            yield "changed"


def _stale(evidence: Evidence) -> list[str]:
    seen = [_stale_kind(evidence, each) for each in evidence.foreign]
    passing = {"error": "error", "silence": "silent", "closed": "close"}  # by outcome
    usual = {passing[each.outcome] for each in evidence.sorted if each.is_passing and each.outcome in passing}
    # One of those that come now and then says nothing about the guid.
    kept = [kind for kind in seen if kind not in usual]
    return kept or (seen if len(seen) > 1 and "close" not in usual else [])


def _stale_kind(evidence: Evidence, exchange: Exchange) -> str:
    if exchange.answer is None:
        if exchange.closed_with is not None:
            return "close"
        return "answers with something that nobody here can read" if exchange.beside else "silent"
    message = exchange.answer.message
    if isinstance(message, m.NoAccount):
        return "newguid" if message.cursor.guid is not None else "answers without guid and account"
    return (
        _stale_account(evidence, exchange.question.cursor, message.row)
        if isinstance(message, m.AccountRow)
        else "error"
    )


def _stale_account(evidence: Evidence, asked: Cursor, row: Row) -> str:
    account = row.account_guid
    firsts = {each.row.account_guid for each in evidence.deliveries if each.asked_from and each.asked_from.is_start}
    nexts = {
        each.row.account_guid
        for each in evidence.deliveries
        if each.asked_from and (each.asked_from.usn, each.asked_from.ausn) == (asked.usn, asked.ausn)
    }
    if asked.is_start or account in firsts & nexts:
        return "tells an account, which it would do in any case"
    if account in firsts:
        return "rows"
    return "ignore" if account in nexts else "tells another account than the first and the next"


def token_kind(tokens: list[Token]) -> str:
    """Return what form *tokens* have in common."""
    kinds = {_form(token) for token in tokens}
    if kinds == {"decimal", "hex"}:
        return "hex"
    widths = {len(token) for token in tokens}
    if "zeros" in kinds and kinds <= {"zeros", "decimal"} and len(widths) == 1:
        return "zeros"
    if len(kinds) == 1:
        return kinds.pop()
    return f"of several forms: {', '.join(sorted(kinds))}"


def _form(token: Token) -> str:
    value = json.loads(token)
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, float):
        return "numbers with a fraction"
    if isinstance(value, int):
        size = "huge" if value >= 1 << 64 else "big" if value > 1 << 53 else "number"
        return "negative numbers" if value < 0 else size
    if value.isascii() and value.isdecimal():
        return "zeros" if value[0] == "0" and len(value) > 1 else "decimal"
    return "hex" if set(value) <= set("0123456789abcdef") else "texts of another form"


def numbers(delivery: Delivery) -> tuple[int, int] | None:
    """Return usn and ausn as numbers; ``None`` where they are none."""
    cursor, found = delivery.row.cursor, []
    for token in (cursor.usn, cursor.ausn):
        value = json.loads(token) if token is not None else 0
        try:
            found.append(value if isinstance(value, int) else int(value, 16))
        except (TypeError, ValueError):
            return None
    return found[0], found[1]


def are_of_one_type(deliveries: Sequence[Delivery]) -> bool:
    """Tell whether their numbers can be compared: a text and a number that look alike may mean different things."""
    for name in ("usn", "ausn"):
        tokens = [token for each in deliveries if (token := getattr(each.row.cursor, name)) is not None]
        if len({type(json.loads(token)) for token in tokens}) > 1:
            return False
    return True


def _cursors(evidence: Evidence) -> Finding:
    rows = [each.row for each in evidence.deliveries if not each.row.cursor.is_start]
    usns = [row.cursor.usn for row in rows if row.cursor.usn is not None]
    ausns = [row.cursor.ausn for row in rows if row.cursor.ausn is not None]
    question = "The form of usn and ausn"
    if not usns:
        return conclude("U5", question, [], _CURSORS, otherwise="no account was told with them")
    kind, other = token_kind(usns), token_kind(ausns) if ausns else ""
    if other and other != kind and not {kind, other} <= {"decimal", "hex"}:
        kind = f"usn: {_CURSORS.get(kind, Kind(kind)).does}; ausn: {_CURSORS.get(other, Kind(other)).does}"
    return conclude("U5", question, [kind] * len(usns), _CURSORS, otherwise="", enough=MANY)


def _shared(evidence: Evidence) -> Iterator[Finding]:
    """Yield that one place in the list is behind several accounts, since then nobody can go on from there."""
    shared = evidence.shared
    if shared:
        does = f"{shared} pairs of them are told of several accounts each"
        question = "Whether usn and ausn name one place in the list"
        yield Finding("U5", question, does, Sureness.CONTRADICTORY, shared, (), (f"{question}: {does}",))
