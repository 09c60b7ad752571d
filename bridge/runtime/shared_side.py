"""What a connection to the broker needs to know of a store that several bridges share."""

import itertools
from typing import TYPE_CHECKING, Final

from bridge.clock import utc_now
from bridge.errors import BridgeError
from bridge.model import SourceName
from bridge.store.contract import Offload
from bridge.store.tables.store import TableStore

if TYPE_CHECKING:
    from bridge.store.postgres.shared import SharedStore

SHARED_HEARTBEAT_SECONDS: Final = 5
"""Asked of the broker: a frozen bridge's connection ends after three of them, which is as long as a lease lasts."""


def as_shared(store: TableStore) -> "SharedStore | None":
    """Return *store* if several bridges may work on it."""
    if not store.is_shared:
        return None
    from bridge.store.postgres.shared import SharedStore  # noqa: PLC0415 - needs the extra "postgres"

    return store if isinstance(store, SharedStore) else None


class SharingSide:
    """The ``Sharing`` of ``broker.fence`` and the ``Written`` of ``broker.stream``, by way of the store's thread."""

    def __init__(self, store: "SharedStore", exchange: str) -> None:
        self._store = store
        self._exchange = exchange
        self._numbers = itertools.count(1)
        self.own_fences: set[str] = set()
        """The queues of earlier connections of ours that may be there yet."""
        self.offload: Offload | None = None
        """Where the store is asked; that of the bridge, which is made later."""

    def __repr__(self) -> str:
        return f"<SharingSide of {self.life}>"

    @property
    def life(self) -> str:
        """Which life of the bridge this is."""
        return self._store.life

    def name_fence(self) -> str:
        """Return the name of a queue that nobody ever had."""
        return f"{self._exchange}.writer.{self.life}.{next(self._numbers)}"

    async def note_fence(self, queue: str) -> None:
        """Have the others know which queue our connection holds."""
        await self._ask(self._store.set_fence, queue)

    def has_former(self, source: SourceName) -> bool:
        """Tell whether a former holder of *source* may still have messages on their way."""
        held = self._store.held.get(source)
        return held is not None and held.former is not None

    async def former_fence(self, source: SourceName) -> tuple[str, float] | None:
        """Return which queue such a one held, and for how many seconds it is known to be dead."""
        return await self._ask(self._store.former_fence, source)

    async def clear_former(self, source: SourceName) -> None:
        """Note that nothing of former holders is on its way any more."""
        await self._ask(self._store.clear_former, source)

    @property
    def generation(self) -> str:
        """Changes whenever positions may be given twice."""
        return self._store.generation

    def epoch_of(self, source: SourceName) -> int:
        """Return under which epoch a source is held now."""
        held = self._store.held.get(source)
        return -1 if held is None else held.epoch

    async def count_written(self, source: SourceName, last: int) -> None:
        """Count as done all of a source up to the position *last*, which the log has."""
        await self._ask(self._store.log.count_written, source, last, utc_now())

    @property
    def _ask(self) -> Offload:
        if self.offload is None:
            raise BridgeError("the bridge is not put together yet")
        return self.offload
