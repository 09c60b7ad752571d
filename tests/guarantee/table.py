"""Prints what becomes of each behaviour of a PBX: ``python -m tests.guarantee.table [CASES]``."""

import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import structlog

from bridge.simulator.modes import ALL_WORDS, Modes
from bridge.store.sqlite.store import SqliteStore
from bridge.store.tables.store import TableStore
from tests.guarantee.test_every_behaviour import can_be_proven, can_be_read, check_events, check_mirror, play
from tests.support.world import World, hurried

DEFAULT_CASES = 40


def holds(check: Callable[[World], None], world: World) -> bool:
    try:
        check(world)
    except AssertionError:
        return False
    return True


def counted(store: TableStore, word: str, cases: int) -> Counter[str]:
    result: Counter[str] = Counter()
    for number in range(cases):
        world = play(store, number, Modes.parse([word]), label=word)
        events = world.events()
        result["events"] += len(events)
        result["converged"] += holds(check_mirror, world)
        result["duplicates"] += len(events) - len({event.event_id for event in events})
        result["invented"] += not holds(lambda world: check_events(world, world.events()), world)
        result["deletions"] += sum(event.kind == "deleted" for event in events)
    return result


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    cases = int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_CASES
    print(f"{'mode':<20} converges  duplicates  invented  deletions        events   ({cases} cases each)")  # noqa: T201 - its output
    with tempfile.TemporaryDirectory() as folder, SqliteStore(Path(folder) / "bridge.db") as store:
        hurried(store)
        for word in ALL_WORDS:
            modes = Modes.parse([word])
            if not can_be_read(modes):
                continue
            result = counted(store, word, cases)
            right = "right" if can_be_proven(modes) else "never guessed"
            print(  # noqa: T201 - its output
                f"{word:<20} {result['converged']:>4}/{cases:<4} {result['duplicates']:>10} {result['invented']:>9}"
                f"  {right:<13} {result['deletions']:>3} {result['events']:>6}",
                flush=True,
            )


if __name__ == "__main__":
    main()
