"""What a bridge does beside its store's thread: it says that it lives."""

import threading
from collections.abc import Callable

from bridge.clock import steady_through_sleep
from bridge.errors import BridgeError
from bridge.logs import get_logger
from bridge.store.postgres.connecting import Database
from bridge.store.postgres.errors import taken
from bridge.store.postgres.session import Session
from bridge.store.sharing import RENEWALS, Tenure

log = get_logger(__name__)


class Lease:
    """The life *me* of a bridge, renewed until ``close``. Its row is there already, since *began_at* at the earliest.

    It is not renewed while *lives* says that the bridge does not work: one that hangs must not keep what it has. After
    *answer_seconds* without an answer another connection is tried.
    """

    def __init__(  # noqa: PLR0913 - what makes a lease
        self,
        database: Database,
        me: str,
        seconds: float,
        *,
        began_at: float | None = None,
        lives: Callable[[], bool] = lambda: True,
        answer_seconds: float | None = None,
    ) -> None:
        self._database = database
        self._me = me
        self._seconds = seconds
        self._lives = lives
        self._session = Session(database, me, patience_seconds=0, answer_seconds=answer_seconds)
        self._is_closed = threading.Event()
        self.is_lost = False
        """True once somebody else has the store."""
        self.tenure = Tenure(seconds, steady_through_sleep() if began_at is None else began_at)
        """What may be believed of it."""
        self._thread = threading.Thread(target=self._keep_renewing, name="lease", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Lease of {self._me} for {self._seconds} s{', lost' if self.is_lost else ''}>"

    @property
    def is_good(self) -> bool:
        """True while nobody else can have taken over what is ours."""
        return not self.is_lost and self.tenure.is_good(steady_through_sleep())

    @property
    def may_bury(self) -> bool:
        """True while the silence of others says that they are gone."""
        return not self.is_lost and self.tenure.may_bury(steady_through_sleep())

    def close(self) -> None:
        """Renew it no more."""
        self._is_closed.set()
        self._session.wait_no_more()
        self._thread.join()
        self._session.close()

    def _keep_renewing(self) -> None:
        while not self._is_closed.wait(self._seconds / RENEWALS):
            if not self._lives():
                log.warning("lease.not_renewed", problem="the bridge makes no progress")
                self.tenure.failed(steady_through_sleep())
                continue
            sent_at = steady_through_sleep()
            try:
                is_ours = self._session.do("renew_lease", {"me": self._me, "seconds": self._seconds})
            except BridgeError as problem:  # the store's own thread waits for the same, and says so
                log.debug("lease.not_renewed", problem=str(problem))
                self.tenure.failed(steady_through_sleep())
                continue
            if not is_ours:
                self.is_lost = True
                log.error("lease.lost", problem=taken(self._database.place))
                return
            self.tenure.renewed(sent_at)
