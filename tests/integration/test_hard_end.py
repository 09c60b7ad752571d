"""A bridge that is to end, ends: in good order where it can, and the hard way where it cannot."""

import asyncio
import signal
import sys
import time
from pathlib import Path

import pytest

from bridge.runtime.hard_end import HUNG, STOP_SECONDS
from tests.starts import first_child, may_unshare, send
from tests.support.process import Command
from tests.support.proxy import Proxy
from tests.support.rabbit import PrivateBroker
from tests.support.site import site

# The real command, with something in it that hangs, and little patience.
PATCH = """
import asyncio, sys, time
from datetime import timedelta
from bridge.runtime import bridge
from bridge.runtime import sinks
from bridge.cli import main
from bridge.runtime import hard_end
{patch}
times = hard_end.HardEnd.__init__.__kwdefaults__
times["stop_seconds"], times["hang_seconds"] = {stop_seconds}, {hang_seconds}
sys.argv = ["account-bridge", "run"]
main.main()
"""

NEVER_ENDS = """
async def hang(self):
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass
sinks.OutboxRelay.run = hang
"""
FATAL = """
async def fails(self):
    from bridge.errors import StoreUnusable
    await asyncio.sleep(2)
    raise StoreUnusable("the disk is gone")
bridge.Bridge._keep_measuring = fails
"""
LOADS = """
import sys, time
class Slow:
    def find_spec(self, name, *_):
        if name == "bridge.cli.main":
            print("loading", file=sys.stderr, flush=True)
            time.sleep(3600)
sys.meta_path.insert(0, Slow())
from bridge.__main__ import main
main()
"""
BLOCKS = """
bridge.STORE_STUCK = timedelta(seconds=2)
async def blocks(self):
    await asyncio.sleep(1)
    while True:  # not one long sleep: a signal that comes just before such a call is only seen behind it
        time.sleep(0.1)
bridge.Bridge._keep_pruning = blocks
"""


@pytest.fixture
def patched(tmp_path: Path) -> "Patched":
    return Patched(tmp_path / "patched.py")


class Patched:
    """Makes the command with something replaced in it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, *patches: str, hang_seconds: float = 1.0, stop_seconds: float = 2.0) -> tuple[str, ...]:
        self._path.write_text(
            PATCH.format(patch="\n".join(patches), hang_seconds=hang_seconds, stop_seconds=stop_seconds)
        )
        return (sys.executable, str(self._path))


async def test_a_stop_that_hangs_ends_the_hard_way_with_a_sentence(
    tmp_path: Path, broker: PrivateBroker, patched: Patched
) -> None:
    async with site(tmp_path, broker, accounts=1) as place:
        with Command(environment=place.environment, program=patched(NEVER_ENDS)) as bridge:
            await asyncio.to_thread(bridge.wait_for_log, "status.listening")
            await asyncio.sleep(2)
            assert await asyncio.to_thread(bridge.terminate) == HUNG
            assert "account-bridge: the bridge did not stop within 2 s" in bridge.printed


async def test_a_fatal_error_while_another_task_hangs_is_seen_and_ends_the_hard_way(
    tmp_path: Path, broker: PrivateBroker, patched: Patched
) -> None:
    """Nobody stops it: the process has to end by itself, so that somebody starts it anew."""
    async with site(tmp_path, broker, accounts=1) as place:
        with Command(environment=place.environment, program=patched(NEVER_ENDS, FATAL)) as bridge:
            assert await asyncio.to_thread(bridge.wait, seconds=60) == HUNG
            assert "within 2 s, and the task 'measure' has ended: the disk is gone" in bridge.printed


async def test_a_second_signal_ends_it_at_once_with_a_sentence(
    tmp_path: Path, broker: PrivateBroker, patched: Patched
) -> None:
    """Also where the loop hangs: nobody has to wait for that."""
    hanging = patched(NEVER_ENDS, BLOCKS, hang_seconds=600.0, stop_seconds=600.0)
    async with site(tmp_path, broker, accounts=1) as place:
        with Command(environment=place.environment, program=hanging) as bridge:
            await asyncio.to_thread(bridge.wait_for_log, "status.listening")
            await asyncio.sleep(2)
            bridge.interrupt()
            either = {128 + signal.SIGINT, 128 + signal.SIGTERM}  # the second may overtake the first
            assert await asyncio.to_thread(bridge.terminate) in either
            assert bridge.err[-1].startswith("account-bridge: ended at once by a second signal")


@pytest.mark.parametrize("what", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_is_being_loaded_ends_it_without_a_traceback(tmp_path: Path, what: signal.Signals) -> None:
    (tmp_path / "slow.py").write_text(LOADS)
    with Command(program=(sys.executable, str(tmp_path / "slow.py"))) as bridge:
        while not bridge.err:
            time.sleep(0.01)
        send(bridge.number, what)
        assert bridge.wait(seconds=20) == 128 + what
        assert bridge.err == ["loading"]


@pytest.mark.parametrize("what", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_is_being_loaded_ends_it_also_as_the_first_process_of_a_container(
    tmp_path: Path, what: signal.Signals
) -> None:
    """Such a process does not hear of a signal that it has no handler for."""
    if not may_unshare():
        pytest.skip("nobody may be the first process of anything here")
    (tmp_path / "slow.py").write_text(LOADS)
    program = ("unshare", "--pid", "--fork", "--kill-child", sys.executable, str(tmp_path / "slow.py"))
    with Command(program=program) as bridge:
        while not bridge.err:
            time.sleep(0.01)
        send(first_child(bridge), what)
        assert bridge.wait(seconds=20) == 128 + what
        assert bridge.err == ["loading"]


async def test_an_event_loop_that_hangs_ends_the_hard_way(
    tmp_path: Path, broker: PrivateBroker, patched: Patched
) -> None:
    async with site(tmp_path, broker, accounts=1) as place:
        with Command(environment=place.environment, program=patched(BLOCKS)) as bridge:
            assert await asyncio.to_thread(bridge.wait, seconds=60) == HUNG
            assert "the task 'store' has made no progress" in bridge.printed
            assert "blocks" in bridge.printed, "where it hangs is told, too"


async def test_a_stop_is_over_in_time_although_the_broker_says_nothing_any_more(
    tmp_path: Path, broker: PrivateBroker
) -> None:
    async with Proxy(broker.port) as proxy, site(tmp_path, broker, accounts=50) as place:
        place.environment["BRIDGE_RABBITMQ_URL"] = f"amqp://guest:guest@127.0.0.1:{proxy.port}/"
        with place.bridge() as bridge:
            await place.witness(until=50)
            proxy.freeze_after(0)
            begun = asyncio.get_running_loop().time()
            assert await asyncio.to_thread(bridge.terminate) == 0
            assert asyncio.get_running_loop().time() - begun < STOP_SECONDS


def test_in_compose_something_starts_it_again() -> None:
    compose = (Path(__file__).parents[2] / "compose.yaml").read_text()
    bridge = compose.split("\n  bridge:\n")[1].split("\n\n")[0]
    assert "restart: unless-stopped" in bridge
    assert "stop_grace_period: 30s" in bridge
    assert STOP_SECONDS < 30
