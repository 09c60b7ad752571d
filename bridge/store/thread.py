"""The thread on which a store is called: one, so that calls happen one at a time and in order."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from bridge.errors import BridgeError
from bridge.store.contract import Result


class StoreThread:
    """The ``Offload`` of ``store.contract``: one thread, so that calls happen one at a time and in order.

    The order is that in which they were given, whether awaited or not: so what is asked of the outbox while a group is
    being kept is answered with that.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._is_closed = False

    def __call__(self, call: Callable[..., Result], /, *args: Any) -> Awaitable[Result]:
        """Return what ``call(*args)`` returns.

        Raises:
            BridgeError: it is closed; whoever may be told to do something hears that to the last moment.

        """
        if self._is_closed:
            raise BridgeError("the bridge is stopping")
        return asyncio.get_running_loop().run_in_executor(self._executor, partial(call, *args))

    def close(self) -> None:
        """Finish what was begun, and begin nothing more."""
        self._is_closed = True
        self._executor.shutdown(wait=True)
