"""Two subscribers that get everything the bridge publishes: one keeps a table of ids, the other the inbox."""

import sqlite3

from bridge.consumer.inbox.sqlite import SqliteInbox
from bridge.events.cloudevents import (
    ACCOUNT_CHANGED,
    AccountChanged,
    SourceVerified,
    decode,
    decode_certificate,
)
from bridge.events.normalize import account_key
from bridge.model import AccountGuid, ChangeKind, OutboxRow, Published


class IdTable:
    """Applies what has an id it does not know; with a certificate it drops what is of an older lineage."""

    def __init__(self) -> None:
        self.events: dict[str, bytes] = {}
        self.people: dict[str, Published] = {}
        self._lineages: dict[str, str] = {}

    def receive(self, row: OutboxRow) -> None:
        if row.event_id in self.events:
            assert self.events[row.event_id] == row.body, "an id names one thing only"
            return
        self.events[row.event_id] = row.body
        if row.event_type == ACCOUNT_CHANGED:
            event = decode(row.body)
            key = account_key(event.account_guid)
            self._lineages[key] = event.lineage
            apply(self.people, event)
            return
        certificate = decode_certificate(row.body)
        for key in list(self.people) if certificate.completes_lineage else ():
            if self._lineages[key] < certificate.lineage:
                del self.people[key]


class Inbox:
    """Applies what its inbox accepts, and compares with every certificate that comes in its turn."""

    def __init__(self) -> None:
        self._db = sqlite3.connect(":memory:")
        self._inbox = SqliteInbox(self._db)
        self._inbox.create_tables()
        self.people: dict[str, Published] = {}
        self._newest = ("", 0)
        """Lineage and sequence of the last event."""

    def receive(self, row: OutboxRow) -> None:
        with self._db:
            if row.event_type != ACCOUNT_CHANGED:
                self._verify(decode_certificate(row.body))
                return
            event = decode(row.body)
            self._newest = max(self._newest, (event.lineage, event.sequence))
            if self._inbox.accept(event):
                apply(self.people, event)

    def _verify(self, certificate: SourceVerified) -> None:
        for guid in self._inbox.gone(certificate):
            self.people.pop(account_key(AccountGuid(guid)), None)
        if (certificate.lineage, certificate.sequence) >= self._newest:  # no repetition, with later changes applied
            assert not (difference := self._inbox.difference(certificate)), difference


def apply(people: dict[str, Published], event: AccountChanged) -> None:
    key = account_key(event.account_guid)
    if event.kind is ChangeKind.DELETED:
        people.pop(key, None)
    else:
        people[key] = event.account
