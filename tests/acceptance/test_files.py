"""Files with passwords and certificates that are missing, empty or half written: the trouble of one, never of all."""

import asyncio
import json
from pathlib import Path
from typing import Any

from bridge.simulator.pbx import Pbx
from bridge.simulator.server import serve
from tests.support.process import PATIENCE_SECONDS, Command, run
from tests.support.rabbit import PrivateBroker

SECRET = "pl4nted-s3cret"


def written(folder: Path, broker: PrivateBroker, *pbxs: str) -> Path:
    """Return a configuration with a store of its own."""
    file = folder / "bridge.toml"
    file.write_text(
        f'[rabbitmq]\nurl = "{broker.url}"\n[store]\nurl = "sqlite:///{folder}/bridge.db"\n[status]\nport = 0\n'
        + "".join(f'[[pbx]]\napp = "app"\npoll_interval_seconds = 0.5\n{pbx}\n' for pbx in pbxs)
    )
    return file


async def status(file: Path) -> dict[str, Any]:
    _, command = await asyncio.to_thread(run, "status", "--json", "--config", str(file))
    return dict(json.loads("\n".join(command.out)))


async def test_what_one_pbx_lacks_at_the_start_is_said_and_the_others_are_read(
    tmp_path: Path, broker: PrivateBroker
) -> None:
    async with serve(Pbx(accounts=3, app="app", password=SECRET)) as served:
        file = written(
            tmp_path,
            broker,
            f'name = "well"\nurl = "{served.url}"\npassword = "{SECRET}"',
            f'name = "keyless"\nurl = "{served.url}"\npassword_file = "{tmp_path}/none"',
            f'name = "blind"\nurl = "wss://127.0.0.1:1"\npassword = "{SECRET}"\nca_file = "{tmp_path}/none.pem"',
        )
        with Command("run", "--config", str(file)) as bridge:
            verified = await asyncio.to_thread(bridge.wait_for_log, "source.verified")
            await asyncio.to_thread(bridge.wait_for_log, "source.failed", 2)
            assert verified["source"] == "well"
            assert {entry["of"] for entry in bridge.logs("file.unusable")} == {"PBX keyless", "PBX blind"}
            problems = {problem["where"]: problem for problem in (await status(file))["problems"]}
            assert {name: problem["cause"] for name, problem in problems.items()} == {
                "keyless": "file_unusable",
                "blind": "file_unusable",
            }
            assert f"the secret in {tmp_path}/none cannot be read: No such file" in problems["keyless"]["words"]
            assert f"ca_file: {tmp_path}/none.pem" in problems["blind"]["words"]
            code, check = await asyncio.to_thread(run, "check", "--config", str(file))
            assert code == 1
            assert f"FAIL  PBX keyless    the secret in {tmp_path}/none cannot be read" in check.printed
            assert "FAIL  PBX blind      ca_file" in check.printed
            assert await asyncio.to_thread(bridge.terminate) == 0


async def test_a_password_file_that_is_empty_for_a_moment_changes_nothing_but_a_warning(
    tmp_path: Path, broker: PrivateBroker
) -> None:
    secret = tmp_path / "pbx.secret"
    secret.write_bytes(b"\xef\xbb\xbf" + SECRET.encode() + b"\r\n")
    async with serve(Pbx(accounts=3, app="app", password=SECRET)) as served:
        file = written(tmp_path, broker, f'name = "hq"\nurl = "{served.url}"\npassword_file = "{secret}"')
        with Command("run", "--config", str(file)) as bridge:
            await asyncio.to_thread(bridge.wait_for_log, "source.verified")
            secret.write_bytes(b"")
            served.drop_connections()
            told = await asyncio.to_thread(bridge.wait_for_log, "file.unusable")
            assert (told["of"], told["level"]) == ("hq", "warning")
            served.pbx.change_display_name(next(iter(served.pbx.truth())), "heard all the same")
            await until_published(file, 4)
            problems = (await status(file))["problems"]
            assert [(problem["where"], problem["cause"]) for problem in problems] == [("hq", "file_unusable")]
            secret.write_text(SECRET)
            served.drop_connections()
            await asyncio.to_thread(bridge.wait_for_log, "file.usable_again")
            assert await asyncio.to_thread(bridge.terminate) == 0


async def until_published(file: Path, events: int) -> None:
    """Wait until the bridge has published so many."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (await status(file))["published"] < events:
            await asyncio.sleep(0.2)
