"""A subscriber that applied everything has what the certificate says, and one that missed something has not."""

import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.consumer.inbox.sqlite import SqliteInbox
from bridge.delivery.ingest import ingest
from bridge.delivery.reconcile import DeletionLimit, WalkRecord, begin_walk, caught_up, delete_missing, observe
from bridge.events.cloudevents import ACCOUNT_CHANGED, AccountChanged, SourceVerified, decode, decode_certificate
from bridge.events.normalize import Rules, account_key
from bridge.model import AccountGuid, Batch, ChangeKind, Row
from bridge.store.sqlite.store import SqliteStore
from tests.support.outbox import unsent
from tests.support.rows import HQ, row

RULES = Rules(key=b"k" * 32)
NOW = datetime(2026, 11, 23, tzinfo=UTC)
ANY_NUMBER = DeletionLimit(walks=1, max_accounts=99)

GUIDS = ("A-1", "2a4d-009c", "Éva 1", "e\u0301va 2")
"""With dashes, capitals, blanks, and letters that are in NFC and that are not."""

ACTIONS = st.lists(
    st.tuples(st.sampled_from(["change", "respell", "delete", "vanish"]), st.sampled_from(GUIDS))
    | st.sampled_from([("walk", ""), ("renew", "")]),
    max_size=25,
)


@dataclass
class Source:
    """A PBX, and a real store that follows it."""

    path: Path
    present: dict[str, Row] = field(default_factory=dict)
    messages: list[AccountChanged | SourceVerified] = field(default_factory=list)
    """All that was ever published, in order."""
    _usn: int = 0

    def play(self, actions: list[tuple[str, str]]) -> None:
        """Do all that, and end with a proven walk."""
        lives: list[list[tuple[str, str]]] = [[]]
        for action in actions:
            if action[0] == "renew":
                lives.append([])
            else:
                lives[-1].append(action)
        for number, life in enumerate(lives):
            with SqliteStore(self.path) as store:
                if number:
                    store.compare(None, "the log cannot be read")  # so a new lineage begins, if there is one
                for what, guid in life:
                    self._do(store, what, guid)
        with SqliteStore(self.path) as store:
            self._walk(store)
            self.messages = [
                decode(found.body) if found.event_type == ACCOUNT_CHANGED else decode_certificate(found.body)
                for found in unsent(store.exchange)
            ]

    def _do(self, store: SqliteStore, what: str, guid: str) -> None:
        self._usn += 1
        known = self.present.get(guid)
        if what == "walk":
            self._walk(store)
        elif what == "change" or known is None:
            self.present[guid] = row(guid, self._usn, dn=str(self._usn))
            self._tell(store, self.present[guid])
        elif what == "respell":  # which nobody is told
            self.present[guid] = replace(known, account_guid=AccountGuid(known.account_guid.swapcase()))
            self._tell(store, self.present[guid])
        else:
            del self.present[guid]
            if what == "delete":
                self._tell(store, row(guid, self._usn, is_deleted=True))

    def _tell(self, store: SqliteStore, told: Row) -> None:
        ingest(store, Batch(HQ, store.place(HQ).cursor, told.cursor, [told]), rules=RULES, now=NOW)

    def _walk(self, store: SqliteStore) -> None:
        record = WalkRecord(NOW)
        store.place(HQ)
        begin_walk(store, HQ)
        observe(store, HQ, list(self.present.values()), record, rules=RULES, now=NOW)
        caught_up(store, HQ, record, ends_initial=True, rules=RULES, now=NOW)
        delete_missing(store, HQ, record, rules=RULES, now=NOW, deletion_limit=ANY_NUMBER)


def differences(messages: list[AccountChanged | SourceVerified], *, without: int | None = None) -> list[str]:
    """Return what an inbox finds at each certificate that applied everything in order, but for one event."""
    found = []
    with closing(sqlite3.connect(":memory:")) as database:
        inbox = SqliteInbox(database)
        inbox.create_tables()
        for number, message in enumerate(messages):
            if isinstance(message, SourceVerified):
                inbox.gone(message)
                found.append(inbox.difference(message))
            elif number != without:
                inbox.accept(message)
    return found


def is_repaired(messages: list[AccountChanged | SourceVerified], number: int) -> bool:
    """Tell whether something behind the event makes it good: a later one of its account, or a later lineage."""
    missed = messages[number]
    assert isinstance(missed, AccountChanged)
    return missed.lineage < messages[-1].lineage or any(
        isinstance(later, AccountChanged) and account_key(later.account_guid) == account_key(missed.account_guid)
        for later in messages[number + 1 :]
    )


@settings(max_examples=150)
@given(ACTIONS)
def test_an_inbox_is_as_each_certificate_says_unless_an_event_is_left_out_that_nothing_repairs(
    actions: list[tuple[str, str]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Source(Path(folder) / "bridge.db")
        source.play(actions)
    messages = source.messages
    last = messages[-1]
    assert isinstance(last, SourceVerified)
    assert last.accounts == len(source.present)
    assert not any(differences(messages))
    for number, message in enumerate(messages):
        if isinstance(message, AccountChanged):
            left_out = differences(messages, without=number)[-1]
            assert bool(left_out) == (not is_repaired(messages, number)), message


def test_every_kind_of_change_can_be_missed_and_shows(tmp_path: Path) -> None:
    """What the test above means, in one history."""
    source = Source(tmp_path / "bridge.db")
    source.play([("change", "A-1"), ("change", "2a4d-009c"), ("delete", "2a4d-009c"), ("change", "2a4d-009c")])
    source.play([("renew", ""), ("walk", ""), ("change", "A-1"), ("vanish", "2a4d-009c"), ("change", "Éva 1")])
    assert len({message.lineage for message in source.messages}) == 2
    kinds = [message.kind for message in source.messages if isinstance(message, AccountChanged)]
    assert set(kinds) == {ChangeKind.INITIAL, ChangeKind.CREATED, ChangeKind.UPDATED, ChangeKind.DELETED}
    shown = {
        message.kind: differences(source.messages, without=number)[-1].partition(": ")[2]
        for number, message in enumerate(source.messages)
        if isinstance(message, AccountChanged) and not is_repaired(source.messages, number)
    }
    assert shown == {
        ChangeKind.UPDATED: "as many accounts, not all of them the same or at the same revision",
        ChangeKind.DELETED: "accounts 3 instead of 2",
        ChangeKind.CREATED: "accounts 1 instead of 2",
    }
