"""The rest of the publisher needs a broker: ``tests/integration/test_publisher.py``."""

import inspect

import pytest
from aiormq.channel import Channel
from aiormq.connection import Connection

from bridge.broker.publisher import unblocked_event


@pytest.mark.parametrize("name", ["_on_confirm_frame", "_on_return_frame", "_get_frame", "_read_content"])
def test_the_private_names_that_the_publisher_uses_are_still_there(name: str) -> None:
    """Without the first two nothing would ever be confirmed, and everything be sent again and again."""
    assert inspect.iscoroutinefunction(getattr(Channel, name))


async def test_the_library_still_knows_whether_the_broker_has_an_alarm() -> None:
    assert not unblocked_event(Connection("amqp://localhost/")).is_set(), "set only once connected"
