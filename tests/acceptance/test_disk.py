"""The disk of the store fills up, may not be written, or loses what it was given. Real file systems, small ones."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.simulator.pbx import Pbx
from bridge.simulator.server import serve
from tests.support.process import Command, run
from tests.support.rabbit import PrivateBroker
from tests.support.witness import bind, read

PASSWORD = "pl4nted-s3cret"
ACCOUNTS = 3000
NOWHERE = "amqp://127.0.0.1:1/"
WITHOUT_LOG = {"BRIDGE_RABBITMQ_LOG_STREAM": "false"}
"""With one, nothing is read before the broker was asked."""


class Disk:
    """A file system in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def mount(self, size: str) -> bool:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(self.folder)], check=False, capture_output=True
        )
        return done.returncode == 0

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.folder)], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "disk")
    made.folder.mkdir()
    if os.geteuid() != 0 or not made.mount("2m"):
        # A full disk is a real one of 2 MB here, and whoever is not root cannot have one.
        pytest.skip("only root may mount a file system")
    yield made
    made.unmount()


def environment(folder: Path, pbx_url: str, broker_url: str, **more: str) -> dict[str, str]:
    return {
        "BRIDGE_PBX_NAME": "hq",
        "BRIDGE_PBX_URL": pbx_url,
        "BRIDGE_PBX_APP": "app",
        "BRIDGE_PBX_PASSWORD": PASSWORD,
        "BRIDGE_PBX_POLL_INTERVAL_SECONDS": "0.2",
        "BRIDGE_RABBITMQ_URL": broker_url,
        "BRIDGE_STORE_URL": f"sqlite:///{folder / 'bridge.db'}",
        "BRIDGE_STORE_MIN_FREE_BYTES": "0",
        "BRIDGE_STATUS_ENABLED": "false",
        **more,
    }


async def everything_arrives(broker: PrivateBroker, settings: dict[str, str], pbx: Pbx) -> None:
    """Start the bridge on what the last one left; all accounts must come, once each and in order."""
    await bind(broker, "pbx.accounts", "everything")
    with Command("run", environment={**settings, "BRIDGE_RABBITMQ_URL": broker.url}) as bridge:
        witness = await read(broker, "everything", until=len(pbx.truth()))
        assert await asyncio.to_thread(bridge.terminate) == 0
    assert {event["subject"] for event in witness.deliveries} == set(pbx.truth())
    assert witness.sequences == list(range(1, len(witness.sequences) + 1))


async def test_a_full_disk_stops_the_bridge_with_a_sentence_and_loses_nothing(disk: Disk) -> None:
    pbx = Pbx(accounts=ACCOUNTS, app="app", password=PASSWORD)
    async with serve(pbx) as served:
        settings = environment(disk.folder, served.url, NOWHERE, **WITHOUT_LOG)
        with Command("run", environment=settings) as bridge:
            assert await asyncio.to_thread(bridge.wait) == 1
        assert "is full. Make room and start the bridge again; nothing is lost" in bridge.err[-1]
        assert "Traceback" not in bridge.printed
        code, again = await asyncio.to_thread(run, "run", environment=settings)
        assert (code, "is full" in again.err[-1]) == (1, True), "and so does the next one"
        disk.remount("size=64m")
        with PrivateBroker() as broker:
            await everything_arrives(broker, settings, pbx)


async def test_before_the_disk_is_full_reading_stops_and_it_goes_on_once_there_is_room(disk: Disk) -> None:
    disk.remount("size=64m")
    ballast = disk.folder / "ballast"
    ballast.write_bytes(b"x" * 50_000_000)
    pbx = Pbx(accounts=50, app="app", password=PASSWORD)
    async with serve(pbx) as served:
        settings = environment(disk.folder, served.url, NOWHERE, BRIDGE_STORE_MIN_FREE_BYTES="20000000", **WITHOUT_LOG)
        with Command("run", environment=settings) as bridge:
            full = await asyncio.to_thread(bridge.wait_for_log, "outbox.full")
            assert "almost full" in full["problem"]
            _, status = await asyncio.to_thread(run, "status", environment=settings)
            assert "Make room on it" in status.printed
            assert not pbx.oracle.deliveries
            _, check = await asyncio.to_thread(run, "check", environment=settings)
            assert "is open in a running bridge; the disk of the store is almost full" in check.printed
            ballast.unlink()
            await asyncio.to_thread(bridge.wait_for_log, "source.verified")
            assert await asyncio.to_thread(bridge.terminate) == 0


async def test_a_file_system_that_may_not_be_written_is_named(disk: Disk) -> None:
    with Command("check", environment=environment(disk.folder, "ws://127.0.0.1:1", NOWHERE)) as check:
        check.wait()
    disk.remount("ro")
    code, bridge = await asyncio.to_thread(
        run, "run", environment=environment(disk.folder, "ws://127.0.0.1:1", NOWHERE)
    )
    assert code == 1
    assert "Read-only file system. Let the bridge's user write to" in bridge.err[-1]
    assert "Traceback" not in bridge.printed


async def test_a_store_damaged_under_a_killed_bridge_is_refused_each_time(tmp_path: Path) -> None:
    """What a failing disk does: some pages in the middle hold something else."""
    pbx = Pbx(accounts=ACCOUNTS, app="app", password=PASSWORD)
    file = tmp_path / "bridge.db"
    async with serve(pbx) as served:
        settings = environment(tmp_path, served.url, NOWHERE, **WITHOUT_LOG)
        with Command("run", environment=settings) as bridge:
            await asyncio.to_thread(bridge.wait_for_log, "source.verified")
            bridge.kill()
        with file.open("r+b") as damaged:
            for page in range(100, 110):
                damaged.seek(page * 4096)
                damaged.write(b"\x55" * 4096)
        for _ in range(2):
            code, refused = await asyncio.to_thread(run, "run", environment=settings)
            assert code == 1
            assert "is damaged" in refused.err[-1]
            assert "Put a backup in its place, or move it and bridge.db.lock away" in refused.err[-1]


async def test_a_store_moved_away_is_told_anew_in_a_later_lineage(tmp_path: Path) -> None:
    """The remedy for a damaged store: the present state comes once more, and no id or number is given twice."""
    pbx = Pbx(accounts=200, app="app", password=PASSWORD)
    with PrivateBroker() as broker:
        await bind(broker, "pbx.accounts", "everything")
        async with serve(pbx) as served:
            told = []
            for folder in (tmp_path / "first", tmp_path / "second"):
                folder.mkdir()
                with Command("run", environment=environment(folder, served.url, broker.url)) as bridge:
                    told.append(await read(broker, "everything", until=200))
                    assert await asyncio.to_thread(bridge.terminate) == 0
    first, second = told
    assert not set(first.ids) & set(second.ids)
    assert {event["subject"] for event in first.deliveries} == {event["subject"] for event in second.deliveries}
    assert {event["data"]["change"] for event in second.deliveries} == {"initial"}
    assert max(event["lineage"] for event in first.deliveries) < min(event["lineage"] for event in second.deliveries)
