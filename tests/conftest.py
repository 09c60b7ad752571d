"""What all tests share."""

import logging

import pytest
import structlog
from hypothesis import HealthCheck, settings

# No test may depend on how fast the machine is; the same examples every time keep a red run red.
settings.register_profile("bridge", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.load_profile("bridge")

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run take its time."""
    parser.addoption("--thorough", action="store_true", help="play ten times as many cases of what a PBX may do")
