"""What an operator may get wrong: one clear sentence each, an exit code, and no secret anywhere."""

import json
import re
import socket
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from bridge.delivery.ingest import ingest
from bridge.events.normalize import Rules
from bridge.simulator.pbx import Pbx
from bridge.simulator.server import Served, serve
from bridge.store.sqlite.store import SqliteStore
from tests.support.process import Command, run
from tests.support.rabbit import PrivateBroker
from tests.support.rows import batch, row
from tests.support.witness import bind

SECRET = "pl4nted-s3cret"


@pytest.fixture
def settings(tmp_path: Path, broker: PrivateBroker) -> dict[str, str]:
    return {
        "BRIDGE_PBX_URL": "ws://127.0.0.1:1",
        "BRIDGE_PBX_APP": "app",
        "BRIDGE_PBX_PASSWORD": SECRET,
        "BRIDGE_PBX_ANSWER_TIMEOUT_SECONDS": "3",
        "BRIDGE_RABBITMQ_URL": broker.url,
        "BRIDGE_STORE_URL": f"sqlite:///{tmp_path / 'bridge.db'}",
    }


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serve(Pbx(accounts=3, app="app", password=SECRET)) as serving:
        yield serving


async def checked(settings: dict[str, str]) -> tuple[int, str]:
    import asyncio  # noqa: PLC0415 - the process must not hold up the PBX that this loop serves

    code, command = await asyncio.to_thread(run, "check", environment=settings)
    assert SECRET not in command.printed
    assert "Traceback" not in command.printed
    return code, command.printed


async def test_check_finds_nothing_wrong_where_nothing_is(settings: dict[str, str], served: Served) -> None:
    code, printed = await checked({**settings, "BRIDGE_PBX_URL": served.url})
    assert code == 0, printed
    assert printed.count("ok  ") == len(printed.splitlines()) == 12
    assert "logged in as app; the first account came after" in printed


async def test_a_wrong_password_is_named(settings: dict[str, str], served: Served) -> None:
    code, printed = await checked({**settings, "BRIDGE_PBX_URL": served.url, "BRIDGE_PBX_PASSWORD": "wrong-pw"})
    assert code == 1
    assert "refused the login of app 'app': the Name or Password of the App object" in printed
    assert "wrong-pw" not in printed


async def test_a_wrong_path_is_named(settings: dict[str, str], served: Served) -> None:
    code, printed = await checked({**settings, "BRIDGE_PBX_URL": f"ws://127.0.0.1:{served.port}/wrong"})
    assert code == 1
    assert "HTTP status 404" in printed
    assert "/PBX0/APPS/websocket" in printed


async def test_nobody_at_the_address_is_named(settings: dict[str, str]) -> None:
    code, printed = await checked(settings)
    assert code == 1
    assert "no connection to port 1 of 127.0.0.1 (127.0.0.1): Connect" in printed


async def test_a_host_that_does_not_exist_is_named(settings: dict[str, str]) -> None:
    code, printed = await checked({**settings, "BRIDGE_PBX_URL": "ws://no-such-host.invalid"})
    assert code == 1
    assert "DNS knows no no-such-host.invalid" in printed
    assert "getent hosts no-such-host.invalid" in printed


@pytest.mark.parametrize(("name", "is_known", "words"), [
    ("127.0.0.1", True, None),
    ("127.0.0.1", False, "ca_file"),
    ("other.example.com", True, "server_name"),
])  # fmt: skip
async def test_certificates_are_verified(
    settings: dict[str, str], tmp_path: Path, name: str, *, is_known: bool, words: str | None
) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with serve(Pbx(accounts=3, app="app", password=SECRET), ssl_context=context) as serving:
        trusted = {"BRIDGE_PBX_CA_FILE": str(tmp_path / "ca.pem")} if is_known else {}
        code, printed = await checked({**settings, "BRIDGE_PBX_URL": serving.url, **trusted})
    assert code == (0 if words is None else 1), printed
    if words is not None:
        assert "does not verify" in printed
        assert words in printed


async def test_an_exchange_of_another_type_is_named(
    settings: dict[str, str], served: Served, broker: PrivateBroker
) -> None:
    await bind(broker, "pbx.accounts.topic", "some.queue")
    code, printed = await checked({**settings, "BRIDGE_PBX_URL": served.url, "BRIDGE_RABBITMQ_EXCHANGE": "amq.fanout"})
    assert code == 1
    assert "exchange amq.fanout" in printed


async def test_a_wrong_broker_password_is_named(
    settings: dict[str, str], served: Served, broker: PrivateBroker
) -> None:
    url = broker.url_of("guest", "br0ker-s3cret")
    code, printed = await checked({**settings, "BRIDGE_PBX_URL": served.url, "BRIDGE_RABBITMQ_URL": url})
    assert code == 1
    assert "refused user and password" in printed
    assert "br0ker-s3cret" not in printed


def test_a_store_that_cannot_be_written_ends_the_bridge_with_a_sentence(settings: dict[str, str]) -> None:
    code, command = run("run", environment={**settings, "BRIDGE_STORE_URL": "sqlite:////proc/nowhere/bridge.db"})
    assert code == 1
    assert "the store /proc/nowhere/bridge.db cannot be opened" in command.err[-1]
    assert "store.url" in command.err[-1]
    assert "Traceback" not in command.printed


def test_a_second_bridge_on_the_same_store_is_refused(settings: dict[str, str]) -> None:
    settings["BRIDGE_STATUS_PORT"] = "0"
    with Command("run", environment=settings) as first:
        first.wait_for_log("source.starting")
        code, second = run("run", environment=settings)
        assert code == 1
        assert "another bridge (process" in second.err[-1]
        assert first.terminate() == 0


def test_every_mistake_in_the_configuration_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "bridge.toml"
    file.write_text(
        '[rabbitmq]\nurll = "x"\nwindow = 0\n[[pbx]]\nurl = "http://x"\napp = "a"\npasword = "s3cret-here"\n'
    )
    code, command = run("run", "--config", str(file))
    assert code == 2
    assert "line 2: rabbitmq.urll: there is no such key; did you mean 'url'?" in command.printed
    assert "line 3: rabbitmq.window: must be at least 1" in command.printed
    assert "line 5: pbx[0].url: must look like wss://" in command.printed
    assert "line 7: pbx[0].pasword: there is no such key; did you mean 'password'?" in command.printed
    assert "s3cret-here" not in command.printed
    assert "Traceback" not in command.printed


def test_a_port_that_is_taken_is_named(settings: dict[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings["BRIDGE_STATUS_PORT"] = str(taken.getsockname()[1])
        code, command = run("run", environment=settings)
    assert code == 2
    assert "status page cannot listen" in command.err[-1]


def test_status_of_no_bridge_says_so(settings: dict[str, str]) -> None:
    code, command = run("status", environment=settings)
    assert code == 1
    assert re.search(r"no bridge answers at \S+bridge.db.sock. Is it running", command.printed)


@pytest.mark.parametrize(
    ("user", "writable", "readable", "words"),
    [
        ("reader", r"^pbx\.accounts\.", r"^pbx\.accounts", ""),
        (
            "writer",
            r"^pbx\.accounts",
            r"^pbx\.accounts(\.writer.*|)$",
            "FAIL  permissions    each start tells everything anew, since the log cannot be read",
        ),
    ],
)
async def test_a_missing_permission_is_named_with_the_line_that_gives_it(  # noqa: PLR0913, PLR0917 - its cases
    settings: dict[str, str], served: Served, broker: PrivateBroker, user: str, writable: str, readable: str, words: str
) -> None:
    broker.ctl("add_user", user, "pw-of-somebody")
    broker.ctl("set_permissions", user, r"^pbx\.accounts", writable, readable)
    url = broker.url_of(user, "pw-of-somebody")
    code, printed = await checked({**settings, "BRIDGE_PBX_URL": served.url, "BRIDGE_RABBITMQ_URL": url})
    assert code == 1
    assert words in printed
    assert f"rabbitmqctl set_permissions -p / {user} '^pbx" in printed


async def test_a_check_sends_nothing_and_tells_who_listens(
    settings: dict[str, str], served: Served, broker: PrivateBroker, tmp_path: Path
) -> None:
    await bind(broker, "pbx.accounts.checked", "pbx.accounts.checked.everything", key="#")
    file = tmp_path / "bridge.toml"
    file.write_text(
        '[rabbitmq]\nexchange = "pbx.accounts.checked"\n[[subscriber]]\nqueue = "pbx.accounts.checked.crm"\n'
    )
    code, printed = await checked({**settings, "BRIDGE_PBX_URL": served.url, "BRIDGE_CONFIG": str(file)})
    assert code == 0
    assert "warn  listeners      pbx.accounts.checked.crm: 0 events wait, 0 consumers: start its subscriber" in printed
    listed = [line.split("\t") for line in broker.ctl("list_queues", "name", "messages").splitlines()]
    depths = {name: depth for name, depth in listed if name.startswith("pbx.accounts.checked")}
    assert set(depths.values()) == {"0"}, "neither the log nor anybody's queue got anything"
    assert len(depths) == 4


async def test_a_check_says_where_to_look_for_queues_that_it_cannot_see(
    settings: dict[str, str], served: Served
) -> None:
    code, printed = await checked({**settings, "BRIDGE_PBX_URL": served.url})
    assert code == 0
    assert "ok    listeners      no [[subscriber]] is configured, the log keeps everything meanwhile" in printed
    assert "rabbitmqctl list_bindings" in printed


async def test_a_clock_that_went_back_is_named(settings: dict[str, str], tmp_path: Path) -> None:
    with SqliteStore(tmp_path / "bridge.db") as store:
        ingest(store, batch(row("a", 1)), rules=Rules(key=b"k"), now=datetime.now(UTC) + timedelta(days=1))
    code, printed = await checked(settings)
    assert code == 1
    assert "FAIL  clock" in printed
    assert "timedatectl set-ntp true" in printed


def test_a_check_can_be_read_by_programs(settings: dict[str, str]) -> None:
    code, command = run("check", "--json", environment=settings)
    assert code == 1
    found = json.loads("\n".join(command.out))
    assert {finding["level"] for finding in found} == {"ok", "error"}
