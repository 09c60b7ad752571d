"""What all tests share."""

import logging
import signal
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

from tests.support.planted import leaks
from tests.support.postgres import PrivatePostgres, is_installed
from tests.support.rabbit import PrivateBroker

# No test may depend on how fast the machine is; the same examples every time keep a red run red.
settings.register_profile("bridge", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.load_profile("bridge")

# A run that a shell starts in the background inherits an ignored SIGINT, and so would every bridge that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run take its time, or another store."""
    parser.addoption("--thorough", action="store_true", help="play ten times as many cases of what a PBX may do")
    parser.addoption(
        "--store", choices=["sqlite", "postgresql"], default="sqlite", help="what the guarantee is shown on"
    )


@pytest.fixture(autouse=True)
def whoever_sets_up_logging_does_so_for_one_test() -> Iterator[None]:
    """A command that is run in this process says what is logged from then on, for all of it."""
    root, before = logging.getLogger(), structlog.get_config()
    level, handlers = root.level, list(root.handlers)
    yield
    structlog.configure(**before)
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.fixture(scope="session", autouse=True)
def nothing_that_is_written_has_a_secret_in_it(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Search every byte that all tests left behind: databases, files, whatever."""
    yield
    found = list(leaks(tmp_path_factory.getbasetemp()))
    assert not found, found


@pytest.fixture(scope="session")
def server() -> Iterator[PrivatePostgres]:
    """A PostgreSQL for all tests of a process, each with databases of its own; it does not wait for its disk."""
    if not is_installed():
        pytest.skip("PostgreSQL is not installed here (Debian: postgresql)")
    with PrivatePostgres(is_durable=False) as started:
        yield started


@pytest.fixture(scope="session")
def broker() -> Iterator[PrivateBroker]:
    """A broker for all tests of a process, each with names of its own; whoever disturbs one starts another."""
    with PrivateBroker(streams=True) as started:
        yield started


@pytest.fixture
def broken() -> Iterator[PrivateBroker]:
    """A broker that the test may break."""
    with PrivateBroker(streams=True) as started:
        yield started
