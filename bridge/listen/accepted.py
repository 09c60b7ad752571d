"""A WebSocket that a PBX has opened to us."""

import logging

from websockets.asyncio.server import ServerConnection

from bridge.fast_lane import FastLane


class AcceptedConnection(FastLane, ServerConnection):
    """A connection that is gone from memory when it is over.

    The library's protocol has a cycle in itself and refers to the connection by its logger. So thousands of strangers
    would wait for the garbage collector, each with the 256 KiB that TLS reads into.
    """

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of it."""
        super().connection_lost(exc)
        self.protocol.logger = logging.getLogger("websockets.server")
