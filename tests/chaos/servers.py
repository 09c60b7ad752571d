"""The servers of a store in PostgreSQL: a primary, one that becomes its standby, and what others do to it."""

import time
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path
from typing import Self

import psycopg

from tests.chaos.errors import CannotRunError
from tests.chaos.faults import Link
from tests.support.postgres import PrivatePostgres
from tests.support.proxy import Proxy

GUEST = "somebody else"
PATIENCE_SECONDS = 60.0
PAUSE_SECONDS = 0.05


class Servers:
    """Starts the primary with ``with``; the way to whichever is the primary is among *links*."""

    def __init__(self, links: dict[Link, Proxy], *, is_synchronous: bool) -> None:
        self.is_synchronous = is_synchronous
        """A standby has all that was committed."""
        self.primary = self._first = PrivatePostgres()
        self._spare = PrivatePostgres()
        self._links = links
        self._ways: dict[PrivatePostgres, Proxy] = {}
        self._snapshot: psycopg.Connection | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.push(self._spare)
        self._stack.enter_context(self.primary)
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go_of_snapshot()
        self._stack.close()

    async def open_ways(self, stack: AsyncExitStack, seed: int) -> None:
        """Have a proxy before each of them."""
        for server in (self.primary, self._spare):
            self._ways[server] = await stack.enter_async_context(Proxy(server.port, seed=seed))
        self._links[Link.STORE] = self._ways[self.primary]

    @property
    def url(self) -> str:
        """What a bridge is told: both hosts, whichever writes."""
        first, second = (way.port for way in self._ways.values())
        return self._first.url(port=first).replace(f":{first}/", f":{first},127.0.0.1:{second}/")

    @property
    def runtime(self) -> Path:
        """A folder with a short name for the sockets of bridges."""
        return self._first.runtime

    def stand_by(self) -> None:
        """Make a standby while all goes on; one that is asynchronous hears of nothing more once it is there."""
        self._spare.copy_from(self.primary)
        self._spare.start()
        if self.is_synchronous:
            self.primary.configure(synchronous_standby_names="*")
            _until(lambda: self.primary.run("SELECT sync_state FROM pg_stat_replication") == [("sync",)])
        else:
            self._spare.configure(primary_conninfo="")

    def fail_over(self) -> None:
        """Have the standby take over from a primary that is gone."""
        lost, standby = self.primary, self._spare
        lost.kill()
        standby.promote()
        _until(lambda: standby.run("SELECT pg_is_in_recovery()") == [(False,)])
        self.primary, self._spare = standby, lost
        self._links[Link.STORE] = self._ways[standby]

    def use_up(self, seconds: float) -> None:
        """End all sessions, and take every connection there is for so many seconds."""
        with ExitStack() as taken:
            until = time.monotonic() + seconds
            self._end_sessions()
            while time.monotonic() < until:
                try:
                    taken.enter_context(psycopg.connect(self.primary.url(), application_name=GUEST))
                except psycopg.OperationalError:  # there is none left
                    self._end_sessions()
                    time.sleep(PAUSE_SECONDS)

    def _end_sessions(self) -> None:
        others = f"datname = 'bridge' AND application_name <> '{GUEST}'"
        with suppress(psycopg.OperationalError):  # there may be none left for the administrator, either
            self.primary.run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")  # noqa: S608 - ours

    def hold_snapshot(self) -> None:
        """Look at the store in a transaction that stays open, in place of the former one."""
        self.let_go_of_snapshot()
        self._snapshot = psycopg.connect(self.primary.url(), application_name=GUEST)
        self._snapshot.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        self._snapshot.execute("SELECT count(*) FROM outbox")

    def let_go_of_snapshot(self) -> None:
        """End that transaction, if there is one and its server has not ended it."""
        if self._snapshot is not None:
            with suppress(psycopg.Error):
                self._snapshot.close()
            self._snapshot = None


def _until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        if time.monotonic() > end:
            raise CannotRunError("PostgreSQL has no standby that is in step")
        time.sleep(PAUSE_SECONDS)
