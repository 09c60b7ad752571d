"""SIGHUP, whenever it comes."""

import os
import signal

import pytest

from bridge.cli.common import ended_alike, reload_signal


async def test_whoever_hangs_up_before_a_bridge_reads_its_pbxs_is_heard_as_soon_as_it_does() -> None:
    """Its configuration may have been read by then, in which somebody changed something just now."""
    heard: list[str] = []
    with ended_alike() as hung_up:
        os.kill(os.getpid(), signal.SIGHUP)
        with reload_signal(lambda: heard.append("reload"), hung_up):
            assert heard == ["reload"]


async def test_without_that_nothing_is_read_again() -> None:
    with ended_alike() as hung_up, reload_signal(lambda: pytest.fail("nobody hung up"), hung_up):
        assert not hung_up.is_set()
