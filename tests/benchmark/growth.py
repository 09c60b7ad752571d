"""What a change costs as the store grows: more accounts in the mirror, more history in the outbox.

Without network: from a delivered row to a recorded confirm, everything that the store has to do with it.
"""

import random
import time
from datetime import UTC, datetime
from statistics import median
from typing import Any

from bridge.delivery.ingest import ingest
from bridge.delivery.reconcile import WalkRecord, begin_walk, observe
from bridge.events.normalize import Rules
from bridge.model import Batch, Cursor, Row
from bridge.store.tables.store import TableStore
from tests.benchmark import sides, site
from tests.benchmark.figures import Figure
from tests.benchmark.plots import Line, Plot
from tests.benchmark.running import Benchmark, Run
from tests.support.rows import HQ, row

GROUP = 256
"""Rows of one commit, as many as the bridge reads ahead."""
WINDOW = 256


def account(number: int, usn: int) -> Row:
    """Return an account as a PBX tells it; another *usn* is another state of it."""
    return row(
        f"{number:08x}cc7009001c9dd009033aabbcc",
        usn,
        e164=str(usn),
        emails=[{"email": f"user{number}@example.com"}],
        grps=[{"name": "Support", "mode": "active", "dyn": "in"}],
        node="master",
    )


def filled(url: str, *, accounts: int, history: int = 0) -> None:
    """Make a store that mirrors so many accounts and keeps so many published events."""
    with site.store_at(url) as store:
        cursor = Cursor()
        usn = 0
        for start in range(0, accounts, 5000):
            rows = [account(number, (usn := usn + 1)) for number in range(start, min(start + 5000, accounts))]
            cursor = _ingested(store, cursor, rows)
            _confirmed(store)
            if not history:
                store.prune(datetime.max.replace(tzinfo=UTC), 5000)
        made = accounts
        while made < history:
            rows = [account(number % accounts, (usn := usn + 1)) for number in range(made, made + 5000)]
            cursor = _ingested(store, cursor, rows)
            _confirmed(store)
            made += 5000


def changed(*, url: str, accounts: int, changes: int, seed: int) -> dict[str, Any]:
    """Change accounts of such a store by chance, and walk over as many; seconds for each of the two."""
    chance = random.Random(seed)  # noqa: S311 - reproducible, not secret
    with site.store_at(url) as store:
        cursor = store.place(HQ).cursor
        usn = seed * 10_000_000
        groups = [
            [account(number, (usn := usn + 1)) for number in chance.sample(range(accounts), GROUP)]
            for _ in range(changes // GROUP)
        ]
        began, busy = time.perf_counter(), time.process_time()
        for rows in groups:
            cursor = _ingested(store, cursor, rows)
            _confirmed(store)
        changing, cpu = time.perf_counter() - began, time.process_time() - busy
        begin_walk(store, HQ)
        walk = WalkRecord(datetime.now(UTC))
        rules = Rules(key=store.key)
        present = list({known.account_guid: known for rows in groups for known in rows}.values())
        began = time.perf_counter()
        for start in range(0, len(present), GROUP):
            observe(store, HQ, present[start : start + GROUP], walk, rules=rules, now=datetime.now(UTC))
        walking = time.perf_counter() - began
    count = len(groups) * GROUP
    return {
        "change_us": changing / count * 1e6,
        "change_cpu_us": cpu / count * 1e6,
        "walk_us": walking / len(present) * 1e6,
        "rss": sides.peak_rss_bytes(),
    }


def _ingested(store: TableStore, since: Cursor, rows: list[Row]) -> Cursor:
    until = rows[-1].cursor
    ingest(store, Batch(HQ, since, until, rows), rules=Rules(key=store.key), now=datetime.now(UTC))
    return until


def _confirmed(store: TableStore) -> None:
    position = 0
    while rows := store.exchange.unpublished({HQ: position}, WINDOW, WINDOW):
        position = rows[-1].position
        store.exchange.mark_published(rows, datetime.now(UTC))


def _growth(run: Run) -> list[Figure]:
    few, many = 5000, run.pick(500_000, 25_000)
    sizes = [few, *([50_000] if many > 50_000 else []), many]
    changes = run.pick(20_000, 5000)
    stores = {size: run.folder / f"accounts-{size}.db" for size in sizes}
    disk: list[tuple[float, float]] = []
    for size, path in stores.items():
        run.say(f"making a store with {size} accounts")
        filled(site.in_file(path), accounts=size)
        disk.append((size, path.stat().st_size / size))
    words = f"with {many} accounts mirrored, against {few}"
    change = Figure("mirror_growth", f"a change, from its row to its recorded confirm, {words}", side_unit="µs")
    cpu = Figure("mirror_growth_cpu", f"CPU of a change {words}", side_unit="µs")
    walk = Figure("mirror_growth_walk", f"an account that a full walk finds as it was, {words}", side_unit="µs")
    memory = Figure("mirror_memory_bytes", "memory of each mirrored account", "bytes", side_unit="MB in all")
    on_disk = Figure("mirror_disk_bytes", "disk for each mirrored account", "bytes", note=f"reference: {few} accounts")
    on_disk.add(disk[-1][1], disk[0][1], disk[-1][1])
    costs: dict[int, list[float]] = {size: [] for size in sizes}
    for number in run.rounds(5):
        measured = {
            size: sides.run("growth", "changed", url=site.in_file(path), accounts=size, changes=changes, seed=number)
            for size, path in stores.items()
        }
        for figure, key in ((change, "change_us"), (cpu, "change_cpu_us"), (walk, "walk_us")):
            ours, reference = measured[many][key], measured[few][key]
            figure.add(ours, reference, ours / reference)
        grown = measured[many]["rss"] - measured[few]["rss"]
        memory.add(measured[many]["rss"] / 1e6, measured[few]["rss"] / 1e6, grown / (many - few))
        for size in sizes:
            costs[size].append(measured[size]["change_us"])
    points = [(size, median(found)) for size, found in costs.items()]
    run.plots.append(Plot("cost-accounts.svg", "Cost of a change", "accounts mirrored", "µs", [Line("store", points)]))
    return [change, cpu, walk, memory, on_disk]


def _history(run: Run) -> list[Figure]:
    accounts, changes = 5000, run.pick(20_000, 5000)
    sizes = (0, 20_000) if run.is_quick else (0, 50_000, 500_000)
    stores = {size: run.folder / f"history-{size}.db" for size in sizes}
    for size, path in stores.items():
        run.say(f"making a store that keeps {size} published events")
        filled(site.in_file(path), accounts=accounts, history=size)
    none, most = sizes[0], sizes[-1]
    change = Figure("history_growth", f"a change with {most} published events kept, against none", side_unit="µs")
    costs: dict[int, list[float]] = {size: [] for size in sizes}
    for number in run.rounds(5, 2):
        for size, path in stores.items():
            wanted = {"url": site.in_file(path), "accounts": accounts, "changes": changes, "seed": number}
            costs[size].append(sides.run("growth", "changed", **wanted)["change_us"])
        change.add(costs[most][-1], costs[none][-1], costs[most][-1] / costs[none][-1])
    points = [(size or accounts, median(found)) for size, found in costs.items()]
    run.plots.append(
        Plot("cost-history.svg", "Cost of a change", "published events kept", "µs", [Line("store", points)])
    )
    return [change]


MIRROR = ("mirror_growth", "mirror_growth_cpu", "mirror_growth_walk", "mirror_memory_bytes", "mirror_disk_bytes")
BENCHMARKS = (
    Benchmark("mirror_growth", MIRROR, _growth),
    Benchmark("history_growth", ("history_growth",), _history, is_extra=True),
)
