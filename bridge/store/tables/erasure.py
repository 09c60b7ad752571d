"""Personal data taken out of a store, for good: what stays are numbers, digests and ids, so that nothing becomes news.

How far what was deleted is gone from disks is a matter of the engine. Events that were pruned before are not covered,
nor are backups, the log at the broker, and what subscribers keep.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Final, Protocol

import orjson

from bridge.events.cloudevents import without_person
from bridge.model import SourceName
from bridge.store.records import Forgotten
from bridge.store.tables.moments import as_text
from bridge.store.tables.outbox import TableOutbox

_REASON: Final = "its account was forgotten"


class Database(Protocol):
    """What forgetting needs of a store."""

    def query(self, name: str, /, **parameters: Any) -> Sequence[Any]:
        """Return the rows of a statement."""

    def change(self, name: str, /, **parameters: Any) -> int:
        """Run a statement, and return how many rows it changed."""

    def erasing(self) -> AbstractContextManager[None]:
        """Return a context in which changes are made together and what is deleted is overwritten."""


def forget(key: str, at: datetime, sinks: Sequence[TableOutbox], store: Database, *, discard_unsent: bool) -> Forgotten:
    """Take what is known of the person out of the account with this key, at every PBX, and out of its events.

    An account that a PBX still has keeps its entry, or else its next change could not be told from no change. Where
    events are to be sent yet, nothing happens, unless *discard_unsent*: then they are never sent.

    """
    accounts = store.query("account_everywhere", key=key)
    events = store.query("events_with_person", key=key)
    states = {event["position"]: _states(store, event["position"]) for event in events}
    unsent = sum(
        any(event["sinks"] & sink.sink and sink.wants(at_, states[at_].get(sink.sink)) for sink in sinks)
        for event in events
        for at_ in [event["position"]]
    )
    present_at = [SourceName(account["source"]) for account in accounts if not account["is_deleted"]]
    if unsent and not discard_unsent:
        return Forgotten(0, 0, present_at, unsent)
    gone = [account for account in accounts if account["is_deleted"]]
    with store.erasing():
        for account in gone:
            content = orjson.dumps({"guid": account["account_guid"]})
            store.change("forget_account", source_id=account["source_id"], key=key, content=content)
        for event in events:
            position = event["position"]
            for sink in sinks:
                if event["sinks"] & sink.sink:
                    sink.forget(position, states[position].get(sink.sink), _REASON, at)
            store.change("forget_event", position=position, at=as_text(at), body=without_person(event["body"]))
        for source in {event["source_id"] for event in events}:
            for sink in sinks:
                sink.release(source, at)
    if unsent:
        for sink in sinks:
            sink.load([row["id"] for row in store.query("source_ids")])
    return Forgotten(len(gone), len(events), present_at, unsent)


def _states(store: Database, position: int) -> dict[int, str]:
    return {row["sink"]: row["state"] for row in store.query("aside_of_event", position=position)}
