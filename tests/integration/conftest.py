"""One private broker for all integration tests; those that break a broker start another one."""

from collections.abc import Iterator

import pytest

from tests.support.rabbit import PrivateBroker


@pytest.fixture(scope="session")
def broker() -> Iterator[PrivateBroker]:
    with PrivateBroker() as started:
        yield started
