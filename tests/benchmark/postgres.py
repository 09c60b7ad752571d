"""A store in PostgreSQL against one in a file: what ingesting costs, and what sending costs beside the broker.

Both in one process and in turns, each new for every round; the server runs on the same machine, with fsync as it is
installed. Without network but that.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from bridge.delivery.ingest import ingest
from bridge.events.normalize import Rules
from bridge.model import Batch
from bridge.security.database_url import read_database_url
from bridge.store.postgres.connecting import Database
from bridge.store.postgres.store import PostgresStore
from bridge.store.sqlite.store import SqliteStore
from bridge.store.tables.store import TableStore
from tests.benchmark.figures import Figure
from tests.benchmark.growth import GROUP, WINDOW, account
from tests.benchmark.running import Benchmark, Run
from tests.support.postgres import PrivatePostgres, is_installed
from tests.support.rows import HQ

MARKED = 64
"""Confirms that come together, and are recorded together."""


class Spent(NamedTuple):
    """Microseconds of an account, or of an event."""

    wall: float
    cpu: float


def timed(count: int, work: Callable[[], None]) -> Spent:
    """Return what *work* on so many of them took, of the clock and of this thread's CPU."""
    began, busy = time.perf_counter(), time.thread_time()
    work()
    return Spent((time.perf_counter() - began) / count * 1e6, (time.thread_time() - busy) / count * 1e6)


def ingested(store: TableStore, groups: int) -> None:
    """Have so many groups of new accounts told."""
    cursor, usn = store.place(HQ).cursor, 0
    for _ in range(groups):
        rows = [account(number, number) for number in range(usn + 1, usn + GROUP + 1)]
        usn += GROUP
        ingest(store, Batch(HQ, cursor, rows[-1].cursor, rows), rules=Rules(key=store.key), now=datetime.now(UTC))
        cursor = rows[-1].cursor


def drained(store: TableStore) -> None:
    """Read everything that waits in pages, and record it as confirmed."""
    while rows := store.exchange.unpublished({HQ: 0}, WINDOW, WINDOW):
        for start in range(0, len(rows), MARKED):
            store.exchange.mark_published(rows[start : start + MARKED], datetime.now(UTC))


def _compare(run: Run) -> list[Figure]:
    names = {
        "postgres_ingest": ("ingesting new accounts, 256 a commit, wall time", "µs per account"),
        "postgres_ingest_cpu": ("the same, CPU of the bridge", "µs per account"),
        "postgres_drain": ("reading the outbox and recording confirms, 64 at a time, wall time", "µs per event"),
        "postgres_drain_cpu": ("the same, CPU of the bridge", "µs per event"),
    }
    figures = [
        Figure(name, f"PostgreSQL against a file: {what}", side_unit=unit) for name, (what, unit) in names.items()
    ]
    if not is_installed():
        for figure in figures:
            figure.missing = "PostgreSQL (Debian: postgresql)"
        return figures
    groups = run.pick(80, 20)
    with PrivatePostgres() as server:
        for number in run.rounds(6, 2):
            url = server.create_database(f"round_{number}")
            database = Database(lambda url=url: read_database_url(url).parameters(), "postgresql://benchmark")  # type: ignore[misc]
            stores: list[TableStore] = [SqliteStore(run.folder / f"postgres-{number}.db"), PostgresStore(database)]
            spent: dict[type, tuple[Spent, Spent]] = {}
            for store in stores if number % 2 else reversed(stores):  # who goes first changes
                with store:
                    ingesting = timed(groups * GROUP, lambda store=store: ingested(store, groups))  # type: ignore[misc]
                    draining = timed(groups * GROUP, lambda store=store: drained(store))  # type: ignore[misc]
                spent[type(store)] = ingesting, draining
            (in_file, out_file), (in_database, out_database) = spent[SqliteStore], spent[PostgresStore]
            pairs = [
                (in_database.wall, in_file.wall),
                (in_database.cpu, in_file.cpu),
                (out_database.wall, out_file.wall),
                (out_database.cpu, out_file.cpu),
            ]
            for figure, (ours, theirs) in zip(figures, pairs, strict=True):
                figure.add(ours, theirs, ours / theirs)
            server.drop_database(f"round_{number}")
    return figures


BENCHMARKS = (
    Benchmark(
        "postgres",
        ("postgres_ingest", "postgres_ingest_cpu", "postgres_drain", "postgres_drain_cpu"),
        _compare,
    ),
)
