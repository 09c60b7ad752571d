"""Every stage once, with a mark before and behind: what ``instructions`` runs under valgrind. Prints nothing."""

import gc
import os
import sys

from tests.benchmark.stages import stages

WARM_ACCOUNTS = 50
"""Loaded, compiled and cached is everything then."""


def main(accounts: int) -> None:
    """Take a few *accounts* through every stage, and then so many more."""
    for _, work in stages(WARM_ACCOUNTS):
        work()
    gc.collect()
    gc.disable()  # when it runs is not of the stage it runs in
    for _, work in stages(accounts):
        os.sched_yield()
        work()
        os.sched_yield()


if __name__ == "__main__":
    main(int(sys.argv[1]))
