import resource
from collections.abc import Iterator

import pytest

from bridge.runtime.descriptors import afford


@pytest.fixture(autouse=True)
def limits() -> Iterator[tuple[int, int]]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_as_many_as_are_wanted_are_allowed_where_the_system_lets_us(limits: tuple[int, int]) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, limits[1]))
    assert afford(200) == 200
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 300, "nothing is taken away"
    assert afford(400) == 400
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 400


def test_and_otherwise_as_many_as_it_lets_us(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: (300, 1024))
    monkeypatch.setattr(resource, "setrlimit", lambda _kind, limits: told.append(limits))
    assert afford(5000) == 1024
    assert told == [(1024, 1024)]
