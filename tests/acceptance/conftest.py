"""One private broker for the tests that break none."""

from collections.abc import Iterator

import pytest

from tests.support.rabbit import PrivateBroker


@pytest.fixture(scope="session")
def broker() -> Iterator[PrivateBroker]:
    with PrivateBroker() as started:
        yield started
