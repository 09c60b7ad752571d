"""The README's own words, run."""

import asyncio
import re
import sqlite3
import tomllib
from pathlib import Path
from typing import Any

import pytest
import trustme

from bridge.cli.main import commands
from bridge.config.loading import load_settings
from bridge.config.settings import Settings
from tests.support.certificates import written
from tests.support.process import run
from tests.support.rabbit import PrivateBroker
from tests.support.site import site
from tests.support.witness import bind

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


async def test_the_python_subscriber_applies_every_change(
    tmp_path: Path, broker: PrivateBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "readme"}
    exec(compile(blocks("python")[0], "README.md", "exec"), namespace)  # noqa: S102 - that is the point
    await bind(broker, "pbx.accounts", "pbx.accounts.crm")
    subscribing = asyncio.create_task(namespace["main"](broker.url))
    environment = {"BRIDGE_RABBITMQ_EXCHANGE": "pbx.accounts"}
    async with site(tmp_path, broker, accounts=30) as place:
        place.environment |= environment
        with place.bridge() as bridge:
            async with asyncio.timeout(60):
                while count(tmp_path / "crm.db") < 30:
                    await asyncio.sleep(0.05)
            assert await asyncio.to_thread(bridge.terminate) == 0
    subscribing.cancel()
    await asyncio.wait([subscribing])


def count(database: Path) -> int:
    connection = sqlite3.connect(database)
    try:
        return int(connection.execute("SELECT count(*) FROM person").fetchone()[0])
    except sqlite3.OperationalError:
        return 0
    finally:
        connection.close()


def test_the_settings_it_shows_are_settings(tmp_path: Path) -> None:
    text = blocks("toml")[0]
    for secret in re.findall(r'"(/run/secrets/\w+)"', text):
        file = tmp_path / Path(secret).name
        file.write_text("amqp://bridge:pw@localhost/" if file.name == "broker" else "pw")
        text = text.replace(secret, str(file))
    path = tmp_path / "bridge.toml"
    path.write_text(text)
    settings = load_settings(path, {})
    assert [pbx.name for pbx in settings.pbx] == ["hq", "branch"]
    for table, content in tomllib.loads(text).items():
        assert table in Settings.model_fields, content


def test_what_it_shows_for_pbxs_that_dial_is_settings(tmp_path: Path) -> None:
    certificate, key = written(trustme.CA(), tmp_path, "bridge.example.com")
    (tmp_path / "app").write_text("pw")
    text = blocks("toml")[1].replace("/etc/ssl/bridge.pem", str(certificate)).replace("/etc/ssl/bridge.key", str(key))
    path = tmp_path / "bridge.toml"
    path.write_text(text.replace("/run/secrets/app", str(tmp_path / "app")))
    settings = load_settings(path, {}, require_rabbitmq=False)
    assert settings.listen is not None
    assert [app.name for app in settings.listen.app] == ["acct-bridge"]


def test_every_command_it_names_is_one_and_the_other_way_round() -> None:
    named = set(re.findall(r"^\| `account-bridge ([\w-]+)", README, re.MULTILINE))
    assert named == set(commands.commands)


def test_every_option_it_names_is_one() -> None:
    for name, words in re.findall(r"^\| `account-bridge ([\w-]+)` \| (.*) \|$", README, re.MULTILINE):
        options = {option for parameter in commands.commands[name].params for option in parameter.opts}
        assert set(re.findall(r"`(--[\w-]+)", words)) <= options


def test_every_test_it_points_to_is_where_it_says() -> None:
    pointed_to = re.findall(r"\[`(test_\w+)`\]\(([\w/.]+)\)", README)
    assert len(pointed_to) == len(re.findall(r"`test_\w+`", README)) > 0
    for name, file in pointed_to:
        assert f"def {name}(" in (Path(__file__).parents[2] / file).read_text("utf-8"), name


@pytest.mark.parametrize("command", sorted(commands.commands))
def test_every_command_explains_itself(command: str) -> None:
    code, printed = run(command, "--help")
    assert code == 0
    assert "Usage:" in printed.printed
