"""What the checksum of a certificate costs: the bridge that makes it, and a subscriber that compares with it."""

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bridge.consumer import SqliteInbox
from bridge.delivery.reconcile import DeletionLimit, WalkRecord, delete_missing
from bridge.events.checksum import checksum
from bridge.events.normalize import Rules
from bridge.store.sqlite.store import SqliteStore
from tests.benchmark import sides, site
from tests.benchmark.figures import Figure
from tests.benchmark.growth import filled
from tests.benchmark.running import Benchmark, Run
from tests.support.events import LINEAGE, verified
from tests.support.rows import HQ


def certified(*, path: str) -> dict[str, Any]:
    """Certify such a store, of which a walk saw everybody; seconds of CPU, in all and for the checksum alone."""
    with SqliteStore(Path(path)) as store:
        before, now = sides.rss_bytes(), datetime.now(UTC)
        with store.transaction() as transaction:
            lineage = transaction.place(HQ).lineage
            alone = _busy(lambda: checksum((lineage, key, number) for key, number in transaction.revisions(HQ)))
        grown = sides.peak_rss_bytes() - before
        rules, limit = Rules(key=store.key), DeletionLimit()
        whole = _busy(lambda: delete_missing(store, HQ, WalkRecord(now), rules=rules, now=now, deletion_limit=limit))
    return {"whole_s": whole, "checksum_s": alone, "grown": grown}


def compared(*, path: str, accounts: int) -> dict[str, Any]:
    """Compare an inbox of so many accounts with its certificate; seconds of CPU, and of merely counting them."""
    present = {f"{number:08x}cc7009001c9dd009033aabbcc": 1 for number in range(accounts)}
    certificate = verified(present=present)
    with closing(sqlite3.connect(path)) as database:
        inbox = SqliteInbox(database)
        inbox.create_tables()
        rows = ((account, account, LINEAGE) for account in present)
        database.executemany("INSERT INTO pbx_inbox VALUES ('hq', ?, ?, ?, 1, 0)", rows)
        database.commit()
        differs: list[str] = []
        comparing = _busy(lambda: differs.append(inbox.difference(certificate)))
        assert differs == [""], differs
        counting = _busy(lambda: database.execute("SELECT count(*) FROM pbx_inbox WHERE is_deleted = 0").fetchall())
    return {"comparing_s": comparing, "counting_s": counting}


def _busy(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _certificate(run: Run) -> list[Figure]:
    accounts = run.pick(500_000, 25_000)
    run.say(f"making a store with {accounts} accounts")
    store = run.folder / "certificate.db"
    filled(site.in_file(store), accounts=accounts)
    words = f"of {accounts} accounts"
    certificate = Figure("certificate_s", f"CPU of a certificate {words}, against one without a checksum", "s")
    comparing = Figure("compare_s", f"CPU of comparing an inbox {words} in SQLite, against counting them", "s")
    memory = Figure("checksum_memory_mb", f"memory that the checksum {words} takes", "MB")
    for number in run.rounds(5, 2):
        made = sides.run("certificate", "certified", path=str(store))
        certificate.add(made["whole_s"], made["whole_s"] - made["checksum_s"], made["whole_s"])
        memory.add(made["grown"] / 1e6, 0, made["grown"] / 1e6)
        found = sides.run("certificate", "compared", path=str(run.folder / f"inbox-{number}.db"), accounts=accounts)
        comparing.add(found["comparing_s"], found["counting_s"], found["comparing_s"])
    return [certificate, comparing, memory]


BENCHMARKS = (
    Benchmark("certificate", ("certificate_s", "compare_s", "checksum_memory_mb"), _certificate, is_extra=True),
)
