"""A store in PostgreSQL against one in a file: what ingesting costs, what sending costs, and what many accounts do.

The server runs on the same machine, with fsync as it is installed, and without network but that.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from bridge.delivery.ingest import ingest
from bridge.events.normalize import Rules
from bridge.model import Batch
from bridge.store.sqlite.store import SqliteStore
from bridge.store.tables.store import TableStore
from tests.benchmark import growth, outbox, sides, site
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


def marked(store: TableStore) -> float:
    """Read everything that waits and record it as confirmed; seconds of the latter."""
    seconds = 0.0
    while rows := store.exchange.unpublished({HQ: 0}, WINDOW, WINDOW):
        began = time.perf_counter()
        for start in range(0, len(rows), MARKED):
            store.exchange.mark_published(rows[start : start + MARKED], datetime.now(UTC))
        seconds += time.perf_counter() - began
    return seconds


def _without(figures: list[Figure]) -> list[Figure]:
    for figure in figures:
        figure.missing = "PostgreSQL (Debian: postgresql)"
    return figures


def _store(run: Run) -> list[Figure]:
    words = "PostgreSQL against a file: ingesting new accounts, 256 a commit"
    wall = Figure("postgres_ingest", f"{words}, wall time", side_unit="µs per account")
    cpu = Figure("postgres_ingest_cpu", f"{words}, CPU of the bridge", side_unit="µs per account")
    mark = Figure(
        "postgres_mark_us",
        f"recording confirms in PostgreSQL, {MARKED} at a time",
        "µs per event",
        note="reference: a file",
    )
    figures = [wall, cpu, mark]
    if not is_installed():
        return _without(figures)
    groups = run.pick(80, 20)
    with PrivatePostgres() as server:
        for number in run.rounds(6, 2):
            database = server.create_database(f"round_{number}")
            stores = [site.store_at(site.in_file(run.folder / f"postgres-{number}.db")), site.store_at(database)]
            spent: dict[bool, tuple[Spent, float]] = {}
            for store in stores if number % 2 else reversed(stores):  # who goes first changes
                with store:
                    ingesting = timed(groups * GROUP, lambda store=store: ingested(store, groups))  # type: ignore[misc]
                    marking = marked(store) / (groups * GROUP) * 1e6
                spent[isinstance(store, SqliteStore)] = ingesting, marking
            (in_database, ours), (in_file, theirs) = spent[False], spent[True]
            wall.add(in_database.wall, in_file.wall, in_database.wall / in_file.wall)
            cpu.add(in_database.cpu, in_file.cpu, in_database.cpu / in_file.cpu)
            mark.add(ours, theirs, ours)
            server.drop_database(f"round_{number}")
    return figures


def _drain(run: Run) -> list[Figure]:
    count = run.pick(40_000, 8000)
    words = "publishing a full outbox from PostgreSQL, against one in a file"
    wall = Figure("postgres_drain", f"{words}, wall time", side_unit="µs per event")
    cpu = Figure("postgres_drain_cpu", f"{words}, CPU of the bridge", side_unit="µs per event")
    figures = [wall, cpu]
    if not is_installed():
        return _without(figures)
    template = run.folder / "drain.db"
    outbox.fill(site.in_file(template), count)
    with PrivatePostgres() as server:
        for number in run.rounds(6, 2):
            database = server.create_database(f"round_{number}")
            outbox.fill(database, count)
            stores = [str(template), database]
            exchange = site.new_exchange()
            measured = {
                store: outbox.sent(run, store, exchange, count) for store in (stores if number % 2 else stores[::-1])
            }
            for figure, key in ((wall, "seconds"), (cpu, "cpu_seconds")):
                theirs, ours = (measured[store][key] / count * 1e6 for store in stores)
                figure.add(ours, theirs, ours / theirs)
            server.drop_database(f"round_{number}")
    return figures


def _growth(run: Run) -> list[Figure]:
    few, many = 5000, run.pick(500_000, 25_000)
    words = f"with {many} accounts mirrored in PostgreSQL, against {few}"
    change = Figure("postgres_growth", f"a change, from its row to its recorded confirm, {words}", side_unit="µs")
    walk = Figure("postgres_growth_walk", f"an account that a full walk finds as it was, {words}", side_unit="µs")
    figures = [change, walk]
    if not is_installed():
        return _without(figures)
    changes = run.pick(20_000, 5000)
    with PrivatePostgres() as server:
        databases = {size: server.create_database(f"accounts_{size}") for size in (few, many)}
        for size, url in databases.items():
            run.say(f"making a store with {size} accounts")
            growth.filled(url, accounts=size)
        for number in run.rounds(5):
            measured = {
                size: sides.run("growth", "changed", url=url, accounts=size, changes=changes, seed=number)
                for size, url in databases.items()
            }
            for figure, key in ((change, "change_us"), (walk, "walk_us")):
                ours, theirs = measured[many][key], measured[few][key]
                figure.add(ours, theirs, ours / theirs)
    return figures


BENCHMARKS = (
    Benchmark("postgres", ("postgres_ingest", "postgres_ingest_cpu", "postgres_mark_us"), _store),
    Benchmark("postgres_drain", ("postgres_drain", "postgres_drain_cpu"), _drain, is_extra=True),
    Benchmark("postgres_growth", ("postgres_growth", "postgres_growth_walk"), _growth, is_extra=True),
)
