"""How the log is written where several bridges share a store: all in the same way, or none begins."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, Protocol

from bridge.errors import BadConfig
from bridge.model import Sink
from bridge.store.tables.moments import as_text
from bridge.store.tables.notes import BY_SOURCE, PARTITIONS, SINCE

OTHERS_DIFFER: Final = (
    "the bridges that share the store write the log in another way than this one is to (rabbitmq.stream_url, "
    "rabbitmq.log_partitions). Give all of them the same, and start them together"
)
WAITS: Final = (
    "{events} events wait, and the log is to be written in another way than it was. Start the bridges once more as "
    "they were, until everything is sent"
)


class Database(Protocol):
    """What this needs of the store."""

    def query(self, name: str, /, **parameters: Any) -> Sequence[Any]:
        """Return the rows of a statement."""

    def change(self, name: str, /, **parameters: Any) -> int:
        """Run a statement, and return how many rows it changed."""

    def together(self) -> Any:
        """Return a context in which all changes become durable together."""

    def note(self, name: str) -> str:
        """Return what was noted under that name; empty where nothing was."""

    def set_note(self, name: str, value: str) -> None:
        """Note something about the store as a whole; an empty text is nothing."""


def write_by_source(store: Database, partitions: int, last: int, now: datetime) -> None:
    """Have the log written by source, in *partitions*; what has a position up to *last* is there in another way.

    Raises:
        BadConfig: others write it in another way, or events wait that it may have.

    """
    with store.together():
        store.query("lock_log")  # whoever starts beside us asks the same, and one of us is first
        before, by_source = _read(store, PARTITIONS), _read(store, BY_SOURCE)
        if not (by_source and before == str(partitions)):
            _refuse_beside_others(store)
            if before and not by_source:
                _refuse_while_waiting(store, "count_unsent_of_all", Sink.LOG, after=_progress(store, 0))
            else:
                _refuse_while_waiting(store, "count_waiting", Sink.LOG if by_source else Sink.EXCHANGE)
            store.change("confirm_all", sink=Sink.LOG, through=last, at=as_text(now))
            store.change("set_meta_value", name=SINCE, value=str(last).encode())
    for name, value in ((PARTITIONS, str(partitions)), (BY_SOURCE, "yes"), (SINCE, _read(store, SINCE))):
        store.set_note(name, value)


def refuse_another_log(store: Database, began_with: tuple[str, str]) -> None:
    """Make sure, in the open transaction, that all still write the log as this bridge does.

    *began_with* are the notes that said so when it began: whoever began beside it was not ready, as it was not itself.

    Raises:
        BadConfig: they do not.

    """
    store.query("lock_log")
    if (_read(store, PARTITIONS), _read(store, BY_SOURCE)) != began_with:
        raise BadConfig(OTHERS_DIFFER)


def write_no_more(store: Database) -> None:
    """Have the exchange feed the log.

    Raises:
        BadConfig: others write it, or events wait that are in one of the two and not in the other.

    """
    if not _read(store, PARTITIONS):
        return
    _refuse_beside_others(store)
    if _read(store, BY_SOURCE):
        _refuse_while_waiting(store, "count_waiting", Sink.LOG)
    else:
        _refuse_while_waiting(store, "count_unsent_of_all", Sink.LOG, after=_progress(store, 0))
    _refuse_while_waiting(store, "count_waiting", Sink.EXCHANGE)
    with store.together():
        for name in (PARTITIONS, BY_SOURCE):
            store.set_note(name, "")


def write_as_one(store: Database, last: int, now: datetime) -> None:
    """Have one bridge write what several wrote by source; nothing where they did not.

    Raises:
        BadConfig: events wait that the log may have.

    """
    if not store.note(BY_SOURCE):
        return
    _refuse_while_waiting(store, "count_waiting", Sink.LOG)
    with store.together():
        store.change("confirm", sink=Sink.LOG, lane=0, through=last, at=as_text(now))
        store.set_note(BY_SOURCE, "")
        store.set_note(SINCE, str(last))


def _progress(store: Database, lane: int) -> int:
    return int(store.query("progress_of_lane", sink=Sink.LOG, lane=lane)[0]["through"])


def _read(store: Database, name: str) -> str:
    """Return what is noted in the database, whoever noted it."""
    found = store.query("meta_value", name=name)
    return bytes(found[0]["value"]).decode() if found else ""


def _refuse_beside_others(store: Database) -> None:
    if any(peer["is_ready"] for peer in store.query("peers")):
        raise BadConfig(OTHERS_DIFFER)


def _refuse_while_waiting(store: Database, statement: str, sink: Sink, **more: int) -> None:
    waiting = store.query(statement, sink=sink, **more)[0]["rows"]
    waiting += store.query("count_aside", sink=sink)[0]["rows"]
    if waiting:
        raise BadConfig(WAITS.format(events=waiting))
