"""What compose.yaml promises, as far as it can be seen without an engine; ``tests/acceptance/compose`` runs it."""

import json
from pathlib import Path

import pytest

from tests.support.compose import TEXT, Made, services


@pytest.mark.parametrize("name", sorted(services()))
def test_no_service_has_or_gets_privileges(name: str) -> None:
    lines = services()[name]
    assert "    cap_drop: [ALL]\n" in lines
    assert '    security_opt: ["no-new-privileges:true"]\n' in lines
    assert "privileged" not in lines
    assert "docker.sock" not in lines
    assert ("cap_add" in lines) is (name == "setup")


def test_every_service_is_looked_at() -> None:
    assert {
        "setup",
        "rabbitmq",
        "bridge",
        "others",
        "simulator",
        "subscriber",
        "postgres",
        "prometheus",
        "grafana",
    } <= set(services())


def test_what_setup_writes_is_readable_by_whom_it_is_for_and_nobody_else(tmp_path: Path) -> None:
    made = Made(tmp_path)
    made.run()
    assert made.files == {
        "bridge/broker_url": (10001, 0o400),
        "bridge/status_token": (10001, 0o400),
        "bridge/store_url": (10001, 0o400),
        "bridge/stream_url": (10001, 0o400),
        "broker/definitions.json": (0, 0o444),  # the broker's own volume
        "broker/operator_password": (0, 0o444),
        "database/password": (999, 0o400),
        "scrape/token": (65534, 0o400),
        "subscriber/broker_url": (10001, 0o400),
    }
    passwords = {user["name"]: user["password"] for user in made.definitions["users"]}
    assert len(set(passwords.values())) == 3
    for user in ("bridge", "subscriber"):
        assert made.read(f"{user}/broker_url") == f"amqp://{user}:{passwords[user]}@rabbitmq:5672/"
    assert made.read("bridge/stream_url") == f"rabbitmq-stream://bridge:{passwords['bridge']}@rabbitmq:5552/"
    assert made.read("database/password") in made.read("bridge/store_url")
    assert made.read("scrape/token") == made.read("bridge/status_token")
    assert len(made.read("scrape/token")) >= 32


def test_only_whom_it_is_for_sees_it_at_all() -> None:
    mounts = {name: {part for part in lines.split() if ":/" in part} for name, lines in services().items()}
    for volume, users in {
        "broker-users": {"setup", "rabbitmq"},
        "bridge-secrets": {"setup", "bridge", "others"},
        "subscriber-secrets": {"setup", "subscriber"},
        "scrape-token": {"setup", "prometheus"},
        "database-password": {"setup", "postgres"},
    }.items():
        assert {name for name, parts in mounts.items() if any(part.startswith(f"{volume}:") for part in parts)} == users


def test_setup_keeps_what_there_is_and_adds_what_is_missing(tmp_path: Path) -> None:
    """At every start, after one that was broken off, and with the volumes of an older version."""
    made = Made(tmp_path)
    made.run()
    before = {name: made.read(name) for name in made.files}
    made.run()
    assert {name: made.read(name) for name in made.files} == before
    definitions = made.definitions
    definitions["users"] = [user for user in definitions["users"] if user["name"] != "subscriber"]
    (tmp_path / "broker/definitions.json").unlink()
    (tmp_path / "broker/definitions.json").write_text(json.dumps(definitions))
    (tmp_path / "subscriber/broker_url").unlink()
    (tmp_path / "bridge/broker_url.new").write_text("half")
    made.run()
    assert made.read("bridge/broker_url") == before["bridge/broker_url"]
    assert made.read("subscriber/broker_url") != before["subscriber/broker_url"]
    assert [user["name"] for user in made.definitions["users"]] == ["bridge", "subscriber", "operator"]
    assert made.files.keys() == before.keys()


def test_the_subscriber_may_read_the_log_and_nothing_else(tmp_path: Path) -> None:
    made = Made(tmp_path)
    made.run()
    assert made.rights("subscriber") == ("^$", "^$", r"^pbx\.accounts\.log")
    assert made.rights("bridge") == (r"^pbx\.accounts",) * 3


def test_the_demo_cannot_leak_into_the_real_thing() -> None:
    """A project has containers, volumes, a broker and a log of its own; ``tests/acceptance/compose`` runs it."""
    assert "\nname: pbx-account-bridge${BRIDGE_PBX_URL:+-live}\n" in TEXT
    assert "BRIDGE_PBX_NAME: ${BRIDGE_PBX_NAME:-${BRIDGE_PBX_URL:+hq}}" in services()["bridge"]


def test_the_bridge_writes_the_log_itself() -> None:
    assert "BRIDGE_RABBITMQ_STREAM_URL_FILE: /run/bridge/stream_url" in services()["bridge"]
    assert "target: /etc/rabbitmq/enabled_plugins" in services()["rabbitmq"]
    assert "[rabbitmq_management,rabbitmq_prometheus,rabbitmq_stream]." in TEXT


def test_the_others_are_told_what_the_first_one_is_told_and_have_nothing_of_their_own() -> None:
    """Each has the same configuration; what must not be forgotten is in the database."""
    others, first = services()["others"], services()["bridge"]
    assert "environment: *bridge\n" in others
    assert "environment: &bridge\n" in first
    assert "BRIDGE_STORE_SHARED: ${BRIDGE_STORE_SHARED:-false}" in first
    assert "bridge-data" not in others
    assert "ports:" not in others
    assert "profiles: [postgres, scale]" in services()["postgres"]


@pytest.mark.parametrize("ignoring", [".gitignore", ".dockerignore"])
def test_nobody_commits_or_ships_a_secret_by_mistake(ignoring: str) -> None:
    lines = {
        line.removeprefix("**/").rstrip("/") for line in (Path(__file__).parents[2] / ignoring).read_text().splitlines()
    }
    assert {".env", ".secrets"} <= lines
