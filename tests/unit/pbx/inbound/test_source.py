"""The source of a PBX that dials, once nobody reads it any more."""

from unittest.mock import Mock

from bridge.pbx.inbound.identity import Identity
from bridge.pbx.inbound.source import InboundConnection, InboundSource
from bridge.pbx.walk.actions import Pace
from bridge.pbx.websocket import GOING_AWAY


async def test_a_connection_to_a_source_that_was_let_go_is_over_at_once() -> None:
    """Another bridge has the PBX since, and nobody here would ever read it: it has to dial again."""
    identity = Identity("example.com", "main")
    source = InboundSource(identity, Pace())
    source.hang_up()
    call = InboundConnection(identity, Mock(), Mock())
    source.attach(call)
    assert call.over.is_set()
    assert call.code == GOING_AWAY
    assert source.connected_seconds is None
