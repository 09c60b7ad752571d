"""Private brokers: one for all the tests that break none, and one each for those that do."""

from collections.abc import Iterator

import pytest

from tests.support.rabbit import PrivateBroker


@pytest.fixture(scope="session")
def broker() -> Iterator[PrivateBroker]:
    with PrivateBroker() as started:
        yield started


@pytest.fixture
def broken() -> Iterator[PrivateBroker]:
    with PrivateBroker() as started:
        yield started
