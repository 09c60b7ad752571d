"""What a bridge does beside its store's thread: it says that it lives, and cuts connections that give no answer."""

import threading
from collections.abc import Sequence
from typing import Final

from bridge.errors import BridgeError
from bridge.logs import get_logger
from bridge.store.postgres.connecting import Database
from bridge.store.postgres.errors import taken
from bridge.store.postgres.session import Session

RENEWALS: Final = 5
"""In the time of one lease, so that a few may fail."""
WATCH_SECONDS: Final = 1.0

log = get_logger(__name__)


class Lease:
    """The life *me* of a bridge, renewed until ``close``. Its row is there already."""

    def __init__(self, database: Database, me: str, seconds: float, watched: Sequence[Session]) -> None:
        self._database = database
        self._me = me
        self._seconds = seconds
        self._session = Session(database, me, patience_seconds=0)
        self._watched = [*watched, self._session]
        self._is_closed = threading.Event()
        self.is_lost = False
        """True once somebody else has the store."""
        self._threads = [
            threading.Thread(target=self._keep_renewing, name="lease", daemon=True),
            threading.Thread(target=self._keep_watching, name="store-watch", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def __repr__(self) -> str:
        return f"<Lease of {self._me} for {self._seconds} s{', lost' if self.is_lost else ''}>"

    def close(self) -> None:
        """Renew it no more."""
        self._is_closed.set()
        self._session.wait_no_more()
        for thread in self._threads:
            thread.join()
        self._session.close()

    def _keep_renewing(self) -> None:
        while not self._is_closed.wait(self._seconds / RENEWALS):
            try:
                is_ours = self._session.do("renew_lease", {"me": self._me, "seconds": self._seconds})
            except BridgeError as problem:  # the store's own thread waits for the same, and says so
                log.debug("lease.not_renewed", problem=str(problem))
                continue
            if not is_ours:
                self.is_lost = True
                log.error("lease.lost", problem=taken(self._database.place))
                return

    def _keep_watching(self) -> None:
        while not self._is_closed.wait(WATCH_SECONDS):
            for session in self._watched:
                session.cut_if_stuck()
