"""What changes show, of themselves or by an operator's acts: U3, U5, U6, U8 to U10, U14."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from bridge.ops.observe.about_cursor import are_of_one_type, numbers
from bridge.ops.observe.evidence import DELETION_TYPES, Delivery, Evidence, Window, accounts_of, guid_in
from bridge.ops.observe.finding import NEVER, Finding, Kind, Sureness, conclude
from bridge.pbx.recording.exchanges import Said
from bridge.pbx.recording.names import MEMBERS
from bridge.pbx.wire import messages as m

MANY: Final = 20

_DELETIONS: Final = {
    "flag": Kind("a row that says so in words (deleted, del, update)", "del-flag"),
    "mt": Kind("a message type of its own (AccountInfoDel, AccountDelete)", "del-mt"),
    "bare": Kind("a row without name and info, which says nothing for certain", "del-bare"),
    "none": Kind("nothing is told; the account is missing when the list is read again", "del-none"),
    "newguid": Kind("the list gets a new guid, and everything is told again", "del-newguid"),
}
_ORDERS: Final = {
    "lex": Kind("an edit of a template raises ausn, the same for all; usn stays", "ord-lex"),
    "indep": Kind("an edit of a template raises ausn, for each account another one; usn stays", "ord-indep"),
    "const": Kind("an edit of a template raises usn; ausn stays", "ord-const"),
    "absent": Kind("there is no ausn", "ord-absent"),
}
_DUPLICATES: Final = {
    "chain": Kind("an account as it was told already, once more", "dup-chain"),
    "late": Kind("an older state of an account behind a newer one", "dup-late"),
    "noop": Kind("an account in which nothing differs, with new numbers"),
    "none": Kind("nothing was told twice", "dup-none"),
}
_INFOS: Final = {
    "full": Kind("all of it, at first and with a change", "info-full"),
    "delta": Kind("all of it at first, and with a change what differs", "info-delta"),
    "missing": Kind("none at all", "info-missing"),
}
_SHAPES: Final = {
    "login": Kind("as in the login of a PBX (appobj, appdn, appurl, …)", "shape-l"),
    "user": Kind("as the user object of clients (sip, num, prefix, …)", "shape-u"),
    "table": Kind("as a row of the users table (h323, e164, grps, devices, …)", "shape-t"),
    "object": Kind("as an object of the admin API (grp, gws, presence, …)", "shape-o"),
}
_PUSHES: Final = {
    "row": Kind("changes come without a question", "push-row"),
    "none": Kind("changes come when asked for only", "push-none"),
}
_COALESCING: Final = {
    "one": Kind("two changes between two questions come as one row", "coalesce"),
    "each": Kind("each change comes as a row of its own", "log"),
}
_TELLING: Final[Mapping[str, frozenset[str]]] = {
    "login": frozenset({"appobj", "appdn", "appurl", "lics"}),
    "user": frozenset({"sip", "num", "prefix"}),
    "object": frozenset({"grp", "gws", "presence", "login-c", "login-t", "app-lics", "uclic"}),
    "table": frozenset({"grps", "devices", "apps-my", "pseudo", "h323-email", "t-allows", "forks", "cds", "wakeups"}),
}


def about_changes(evidence: Evidence) -> Iterator[Finding]:
    """Yield what changes and the accounts themselves show."""
    yield conclude(
        "U3",
        "How a deleted account is told",
        _deletions(evidence),
        _DELETIONS,
        otherwise="no account was seen to be deleted",
    )
    yield _orders(evidence)
    yield _duplicates(evidence)
    yield _scope(evidence)
    yield conclude(
        "U9", "How much of info an account brings", _infos(evidence), _INFOS, otherwise="no account was told"
    )
    yield _shapes(evidence)
    yield conclude(
        "U10",
        "Whether changes come without a question",
        _pushes(evidence),
        _PUSHES,
        otherwise="nothing changed while somebody watched",
        enough=2,
    )
    yield conclude(
        "U14",
        "Two changes between two questions",
        _coalescing(evidence),
        _COALESCING,
        otherwise="two changes of one account were not seen",
    )


def _deletions(evidence: Evidence) -> Iterator[str]:
    is_told = False
    for delivery in evidence.deliveries:
        if delivery.said.content.get("mt") in DELETION_TYPES:
            is_told = True
            yield "mt"
        elif delivery.row.is_deleted:
            is_told = True
            yield "flag"
    window = evidence.windows.get("delete")
    if window is None or is_told:
        return
    ends = {id(each.exchange.answer) for each in evidence.ends}
    told = [each for each in window.deliveries if id(each.said) not in ends]
    bare = [each for each in told if not each.row.h323 and not each.row.info and evidence.before(each)]
    guids = {guid for said in evidence.answers if window.has(said.at) and (guid := guid_in(said.message)) is not None}
    before = {guid for said in evidence.answers if said.at < window.since and (guid := guid_in(said.message))}
    if bare:
        yield "bare"
    elif before and guids - before:
        yield "newguid"
    elif missing := missing_since(evidence):
        if unknown_in(evidence, window):
            yield "something of a type that nobody here knows; the account is missing when the list is read again"
            return
        is_told = any(each.account in missing for each in window.deliveries)
        yield "a row that does not say so; the account is missing when the list is read again" if is_told else "none"


def unknown_in(evidence: Evidence, window: Window) -> Sequence[Said]:
    """Return what came within *window*, is no answer, and cannot be read by anybody here."""
    every = [said for talk in evidence.transcript.talks for said in talk.unasked if window.has(said.at)]
    return [said for said in every if isinstance(said.message, m.Other | m.Unreadable)]


def missing_since(evidence: Evidence) -> frozenset[str]:
    """Return which accounts that were there a reading of the list after a deletion misses."""
    window = evidence.windows["delete"]
    there = accounts_of([each for each in evidence.deliveries if each.at < window.since])
    walks = [walk for walk in evidence.walks if window.has(walk[0].at) and len(walk) >= len(there) - 1]
    return there - accounts_of(walks[-1]) if walks else frozenset()


def _orders(evidence: Evidence) -> Finding:
    question = "How usn and ausn advance"
    rows = [each.row for each in evidence.deliveries if not each.row.cursor.is_start]
    without = sum(row.cursor.ausn is None for row in rows)
    if rows and without:
        seen = ["absent" if without == len(rows) else "some accounts come without ausn, some with"] * len(rows)
        return conclude("U5", question, seen, _ORDERS, otherwise="")
    if evidence.shared:
        return conclude("U5", question, [], _ORDERS, otherwise="the same numbers are told of several accounts")
    ausns = {row.cursor.ausn for row in rows}
    so_far = "ausn was the same for all accounts" if len(ausns) == 1 else f"ausn had {len(ausns)} values"
    edit = "no edit of a template was seen" if "template" in evidence.windows else "nobody edited a template"
    otherwise = f"{edit}; {so_far}" if rows else "no account was told with them"
    # However many accounts it moves, one edit was watched.
    return conclude("U5", question, _reissued(evidence), _ORDERS, otherwise=otherwise, enough=NEVER)


def _reissued(evidence: Evidence) -> list[str]:
    """Return how the numbers of accounts moved when a template was edited; of two accounts at least."""
    window = evidence.windows.get("template")
    moves = []
    for delivery in window.deliveries if window is not None else ():
        if delivery.asked_from is None:
            continue
        before, now = evidence.before(delivery), numbers(delivery)
        was = numbers(before) if before is not None else None
        if was is not None and now is not None and was != now:
            moves.append((was, now))
    if len(moves) < 2:  # noqa: PLR2004 - one alone may be anything
        return []
    if all(was[0] == now[0] for was, now in moves):
        values = len({now[1] for _, now in moves})
        kinds = {1: "lex", len(moves): "indep"}
        return [kinds.get(values, f"an edit of a template raises ausn, to {values} values; usn stays")] * len(moves)
    if all(was[1] == now[1] for was, now in moves):
        return ["const"] * len(moves)
    return ["an edit of a template raises both usn and ausn"] * len(moves)


def _duplicates(evidence: Evidence) -> Finding:
    question = "What is told more than once"
    seen = list(_repeated(evidence))
    if not seen and len(evidence.deliveries) < MANY:
        return conclude("U6", question, [], _DUPLICATES, otherwise="nothing so far, of few accounts")
    enough = 2 if seen else NEVER
    return conclude(
        "U6", question, seen or ["none"] * len(evidence.deliveries), _DUPLICATES, otherwise="", enough=enough
    )


def _repeated(evidence: Evidence) -> Iterator[str]:
    ends = {id(each.exchange.answer) for each in evidence.ends}
    newest: dict[str, Delivery] = {}
    for delivery in evidence.deliveries:
        account = delivery.account
        before = newest.get(account)
        if before is None or delivery.row.is_deleted:
            newest[account] = delivery
            continue
        if id(delivery.said) not in ends and (kind := _repetition(evidence, delivery, before)):
            yield kind
        if not _is_older(delivery, before):
            newest[account] = delivery


def _repetition(evidence: Evidence, delivery: Delivery, before: Delivery) -> str:
    """Return how an account is told again, where that is no part of reading the list again."""
    asked = delivery.asked_from
    is_same_place = _place(before) == _place(delivery)
    if asked is None:
        return "chain" if is_same_place else "late" if _is_older(delivery, before) else ""
    if not asked.is_start and is_same_place and (asked.usn, asked.ausn) == _place(delivery):
        return "chain"
    template = evidence.windows.get("template")
    is_template = template is not None and template.has(delivery.at)
    is_noop = not is_same_place and bool(delivery.row.info) and delivery.row.info == before.row.info
    return "noop" if is_noop and not is_template else ""


def _place(delivery: Delivery) -> tuple[Any, Any]:
    return delivery.row.cursor.usn, delivery.row.cursor.ausn


def _is_older(one: Delivery, other: Delivery) -> bool:
    mine, others = numbers(one), numbers(other)
    if mine is None or others is None or not are_of_one_type((one, other)):
        return False
    return mine != others and mine[0] <= others[0] and mine[1] <= others[1]


def _scope(evidence: Evidence) -> Finding:
    count = len(accounts_of(evidence.longest_walk))
    told = f"{count} accounts were listed; whether those are all, or others than users too, is for you to compare"
    return Finding("U8", "Which objects are listed", told, Sureness.UNKNOWN, count)


def _infos(evidence: Evidence) -> Iterator[str]:
    ends = {id(each.exchange.answer) for each in evidence.ends}
    told = [each for each in evidence.deliveries if not each.row.is_deleted and id(each.said) not in ends]
    firsts = [each for each in told if evidence.before(each) is None and not each.row.unread]
    with_info = sum(each.row.info is not None for each in firsts)
    if 0 < with_info < len(firsts):
        yield from ["some accounts come with info, and some without"] * len(firsts)
        return
    for delivery in told:
        row = delivery.row
        before = evidence.before(delivery)
        if row.unread:
            yield f"info is {row.unread}"
        elif before is None or before.row.info is None or delivery.asked_from is None:
            if row.info is None and before is None:
                yield "missing"
        elif row.info is None or _place(before) == _place(delivery):
            continue
        else:
            yield "full" if before.row.info.keys() <= row.info.keys() else "delta"


def _shapes(evidence: Evidence) -> Finding:
    question = "What info is made of"
    infos = [each.row.info for each in evidence.deliveries if each.row.info]
    names = {name for info in infos for name in info}
    known = sorted(names & MEMBERS)
    told = f"its names: {', '.join(known)}" + (
        f", and {len(names - MEMBERS)} that nobody here knows" if names - MEMBERS else ""
    )
    if not infos:
        return Finding("U9", question, "no account was told with info", Sureness.UNKNOWN)
    shapes = [shape for shape, telling in _TELLING.items() if telling & names]
    sureness = Sureness.SURE if len(infos) >= MANY else Sureness.LIKELY
    if shapes == ["object", "table"]:  # which has all that the other has
        shapes = ["object"]
    words = (_SHAPES[shapes[0]].word,) if len(shapes) == 1 else ()
    uncovered = () if words else (f"{question}: {told}",)
    does = f"{_SHAPES[shapes[0]].does}; {told}" if words else told
    return Finding("U9", question, does, sureness, len(infos), words, uncovered)


def _pushes(evidence: Evidence) -> Iterator[str]:
    answers = {id(said) for each in evidence.transcript.exchanges for said in each.beside}
    for window in evidence.windows.values():
        if any(id(said) not in answers for said in unknown_in(evidence, window)):
            yield "something of a type that nobody here knows comes without a question"
    known: set[tuple[str, Any, Any]] = set()
    for delivery in evidence.deliveries:
        told = (delivery.account, *_place(delivery))
        is_new, is_watched = told not in known, any(window.has(delivery.at) for window in evidence.windows.values())
        known.add(told)
        if not is_new:
            continue
        before = evidence.before(delivery)
        if delivery.asked_from is None:
            if is_watched if before is None else not _is_older(delivery, before):
                yield "row"
        elif is_watched and not delivery.asked_from.is_start:
            yield "none"


def _coalescing(evidence: Evidence) -> Iterator[str]:
    window = evidence.windows.get("rename")
    if window is None:
        return
    asked = [each for each in window.deliveries if each.asked_from is not None]
    for account in accounts_of(asked):
        mine = [each for each in asked if each.account == account]
        before = evidence.before(mine[0])
        places = {_place(each) for each in mine} - ({_place(before)} if before is not None else set())
        if places:
            yield "each" if len(places) > 1 else "one"
