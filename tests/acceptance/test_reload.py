"""The configuration is changed while the bridge runs as a process of its own: by SIGHUP, and by a command."""

import asyncio
import json
from pathlib import Path
from uuid import uuid4

import pytest

from bridge.ops import control_socket
from bridge.simulator.pbx import Pbx
from bridge.simulator.server import serve
from tests.support.process import Command, run
from tests.support.rabbit import PrivateBroker
from tests.support.witness import bind, read

PASSWORD = "pl4nted-s3cret"
ACCOUNTS = 20


class Place:
    """A configuration file, and what it says."""

    def __init__(self, folder: Path, broker: PrivateBroker, **urls: str) -> None:
        self.folder = folder
        self.urls = urls
        self.exchange = f"reload.{uuid4().hex[:8]}"
        self.head = (
            f'[rabbitmq]\nurl = "{broker.url}"\nexchange = "{self.exchange}"\nlog_stream = false\n'
            f'[store]\nurl = "sqlite:///{folder / "bridge.db"}"\n[status]\nenabled = false\n'
        )

    @property
    def config(self) -> tuple[str, str]:
        return "--config", str(self.folder / "bridge.toml")

    def write(self, *names: str, more: str = "") -> None:
        tables = (
            f'[[pbx]]\nname = "{name}"\nurl = "{self.urls[name]}"\napp = "app"\npassword = "{PASSWORD}"\n'
            "poll_interval_seconds = 0.2\n"
            for name in names
        )
        (self.folder / "bridge.toml").write_text("".join([self.head, more, *tables]))

    async def said(self, *arguments: str) -> tuple[int, str, str]:
        code, command = await asyncio.to_thread(run, *arguments, *self.config)
        return code, "\n".join(command.out), "\n".join(command.err)


@pytest.mark.parametrize("by", ["command", "signal"])
async def test_pbxs_come_and_go_while_the_bridge_runs(broker: PrivateBroker, tmp_path: Path, by: str) -> None:
    first, second = (Pbx(accounts=ACCOUNTS, seed=seed, app="app", password=PASSWORD) for seed in (1, 2))
    async with serve(first) as hq, serve(second) as branch:
        place = Place(tmp_path, broker, hq=hq.url, branch=branch.url)
        await bind(broker, place.exchange, f"{place.exchange}.q")
        place.write("hq")
        with Command("run", *place.config) as bridge:
            await read(broker, f"{place.exchange}.q", until=ACCOUNTS)
            place.write("branch", more="[walk]\ndeletion_walks = 3\n")
            if by == "command":
                code, told, _ = await place.said("reload", "--json")
                assert code == 0
                assert json.loads(told) == {
                    "added": ["branch"],
                    "removed": ["hq"],
                    "changed": [],
                    "unusable": [],
                    "needs_restart": ["walk.deletion_walks"],
                }
            else:
                bridge.hang_up()
                done = await asyncio.to_thread(bridge.wait_for_log, "reload.done")
                assert (done["added"], done["removed"]) == (["branch"], ["hq"])
                assert done["needs_restart"] == ["walk.deletion_walks"]
            witness = await read(broker, f"{place.exchange}.q", until=ACCOUNTS)
            assert {event["source"] for event in witness.deliveries} == {"/pbx/branch"}
            code, told, _ = await place.said("status")
            assert "hq: not followed any more. The store still has 20 accounts of it" in told
            assert bridge.terminate() == 0
            assert not first.connections
        assert not first.oracle.mistakes


async def test_mistakes_are_told_and_change_nothing(broker: PrivateBroker, tmp_path: Path) -> None:
    pbx = Pbx(accounts=ACCOUNTS, app="app", password=PASSWORD)
    async with serve(pbx) as hq:
        place = Place(tmp_path, broker, hq=hq.url)
        await bind(broker, place.exchange, f"{place.exchange}.q")
        place.write("hq")
        with Command("run", *place.config) as bridge:
            await read(broker, f"{place.exchange}.q", until=ACCOUNTS)
            place.write("hq", more="[walk]\ndeletion_walk = 3\nnightly_at = 7\n")
            code, told, problem = await place.said("reload")
            assert (code, told) == (2, "")
            assert "line 11: walk.nightly_at: must be a text in quotes" in problem
            assert "line 10: walk.deletion_walk: there is no such key; did you mean 'deletion_walks'?" in problem
            bridge.hang_up()
            refused = await asyncio.to_thread(bridge.wait_for_log, "reload.refused")
            assert "walk.deletion_walk" in refused["problem"]
            told = (await control_socket.ask(tmp_path / "bridge.db.sock", "GET", "/status")).decode()
            assert "The configuration was read again and not taken over" in told
            place.write("hq")
            assert (await place.said("reload"))[:2] == (0, "no PBX was added, removed or changed")
            pbx.rename(pbx.pick())
            await read(broker, f"{place.exchange}.q", until=1)
            assert bridge.terminate() == 0


async def test_who_reloads_what_does_not_run_hears_so(tmp_path: Path, broker: PrivateBroker) -> None:
    place = Place(tmp_path, broker, hq="ws://127.0.0.1:1")
    place.write("hq")
    code, _, problem = await place.said("reload")
    assert (code, "no bridge answers" in problem) == (1, True)
