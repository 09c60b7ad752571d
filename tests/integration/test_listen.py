"""The door for PBXs that dial, on real sockets: who gets in, who does not, and what those cost us."""

import asyncio
import json
import socket as sockets
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from bridge.errors import BadConfig
from bridge.pbx import websocket
from bridge.pbx.inbound import server
from bridge.pbx.inbound.admission import Bounds, Ticket
from bridge.pbx.inbound.authentication import App, Verdict
from bridge.pbx.inbound.identity import Identity
from bridge.pbx.walk.actions import EpochBegan, WalkEnded
from bridge.security.rate import Share
from bridge.security.tls import ServerCertificate, Trust, client_context
from bridge.simulator.pbx import Pbx
from bridge.simulator.server import call
from tests.support.certificates import fingerprint_of, written
from tests.support.dialling import PASSWORD, Door, answer_of, challenged, introduce, log_in, login_of, until

CAPTURED = json.loads((Path(__file__).parents[1] / "data/login-digests-of-pbxs-that-dial.json").read_text("utf-8"))
MAIN = Identity("example.com", "pbx-main")


def pbx_called(name: str, accounts: int = 5, **more: Any) -> Pbx:
    return Pbx(accounts=accounts, app="app", password=PASSWORD, name=name, domain="example.com", **more)


def is_hung_up(plain: sockets.socket) -> bool:
    """Read what comes until there is no more."""
    try:
        while plain.recv(1000):
            continue
    except ConnectionResetError:
        return True
    return True


async def is_dropped(socket: ClientConnection) -> int | None:
    """Wait for the end of a connection, whatever comes before, and return its code."""
    async with asyncio.timeout(20):
        try:
            while True:
                await socket.recv()
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd is not None else None


async def test_a_pbx_that_dials_is_read_to_its_end_like_one_that_we_dial() -> None:
    async with Door().open() as door:
        pbx = pbx_called("pbx-main", accounts=30)
        async with call(pbx, f"{door.url}/instance?x=1"):
            await until(lambda: any(isinstance(heard, WalkEnded) for heard in door.heard.get(MAIN, [])))
        assert set(door.accounts(MAIN)) == set(pbx.truth())
        assert not pbx.oracle.mistakes
        assert door.refusals == {}


@pytest.mark.parametrize("vector", CAPTURED, ids=lambda vector: vector["sip"])
@pytest.mark.parametrize("is_altered", [False, True])
async def test_logins_that_real_pbxs_sent_get_in_and_altered_ones_do_not(
    vector: dict[str, Any], monkeypatch: pytest.MonkeyPatch, *, is_altered: bool
) -> None:
    monkeypatch.setattr("bridge.pbx.inbound.server.new_challenge", lambda: vector["challenge"])
    told = {name: vector[name] for name in ("app", "domain", "sip", "guid", "dn", "digest")}
    told["guid"] = "0" * 32 if is_altered else told["guid"]
    apps = [App(vector["sip"], None, lambda: vector["password"])]
    async with Door(apps=apps).open() as door, door.knock() as socket:
        await challenged(socket)
        await socket.send(json.dumps({"mt": "AppLogin", **told, "info": json.loads(vector["info"])}))
        assert (await answer_of(socket)).get("ok", False) is not is_altered


async def test_appinfo_is_answered_and_so_is_what_comes_before_pbxinfo() -> None:
    async with Door().open() as door, door.knock() as socket:
        assert await log_in(socket) == {"mt": "AppLoginResult", "ok": True}
        await socket.send('{"mt":"AppInfo","app":"acct","src":"s1"}')
        await introduce(socket)
        said = [await answer_of(socket), await answer_of(socket)]
        assert {"mt": "AppInfoResult", "app": "acct", "src": "s1"}.items() <= said[1].items()
        assert said[0]["mt"] == "AccountInfo"


async def test_each_connection_is_challenged_anew_and_a_login_is_good_for_one() -> None:
    async with Door().open() as door:
        async with door.knock() as one, door.knock() as other:
            first, second = await challenged(one), await challenged(other)
            assert first != second
            await other.send(login_of(first))
            assert "ok" not in await answer_of(other)
        async with door.knock() as socket:
            await challenged(socket)
            await socket.send('{"mt":"AppChallenge"}')
            assert await is_dropped(socket) == 1008


@pytest.mark.parametrize(("changes", "reason"), [
    ({"password": "wrong"}, "wrong password"),
    ({"app": "unheard-of"}, "no entry in"),
    ({"sip": "erika.mustermann"}, "the login of a user"),
    ({"after": {"domain": "altered"}}, "wrong password"),
    ({"after": {"digest": None}}, "wrong password"),
])  # fmt: skip
async def test_a_bad_login_gets_one_answer_after_one_time_whatever_is_wrong(
    changes: dict[str, Any], reason: str
) -> None:
    async with Door().open() as door, door.knock() as socket:
        challenge = await challenged(socket)
        began = time.monotonic()
        await socket.send(login_of(challenge, **changes))
        assert await answer_of(socket) == {"mt": "AppLoginResult"}
        assert time.monotonic() - began >= server.REFUSAL_SECONDS - 0.01
        assert await is_dropped(socket) == 1008
        assert [told.startswith(reason) for told in door.refusals] == [True]


async def test_how_long_a_refusal_takes_does_not_tell_whether_the_app_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both leave at a time that was fixed when the login came; what is left is the timer's own inexactness."""
    due: dict[str, list[float]] = {"app": [], "unheard-of": []}
    held: list[float] = []
    hold = server._hold  # noqa: SLF001 - what is measured is when it lets go

    async def measured(socket: Any, until_: float) -> None:
        held.append(until_)
        await hold(socket, until_)

    monkeypatch.setattr(server, "_hold", measured)
    for app in ("app", "unheard-of") * 2:
        async with Door().open() as door, door.knock() as socket:
            held.clear()
            await log_in(socket, app=app, password="wrong")
            judged, told = held
            due[app].append(told - judged)
    for gaps in due.values():
        assert gaps == pytest.approx([server.REFUSAL_SECONDS] * 2, abs=0.005)


@pytest.mark.parametrize("message", [
    '{"api":"PbxAccountApi","mt":"AccountInfo","src":"1"}',
    '{"mt":"AccountInfoResult","account-guid":"x","usn":"1"}',
    '{"mt":"KeepAlive"}',
    '{"mt":"CheckBuild","url":"x"}',
    '{"mt":"PbxInfo","domain":"d","pbx":"p"}',
    '{"mt":"AppLogin"}',
    '{"mt":"AppLoginResult","ok":true}',
    '{"mt":"Unheard.of"}',
    "no JSON",
    "[" * 60_000,
    "",
])  # fmt: skip
async def test_whoever_says_anything_but_the_login_is_dropped(message: str) -> None:
    async with Door().open() as door, door.knock() as socket:
        await socket.send(message)
        assert await is_dropped(socket) == 1008
        assert not door.sources


@pytest.mark.parametrize("claims", [
    {"pbx": "pbx-other"},
    {"domain": "other.com"},
])  # fmt: skip
async def test_pbxinfo_has_to_name_the_pbx_that_logged_in(claims: dict[str, str]) -> None:
    async with Door().open() as door:
        async with door.knock() as socket:
            await log_in(socket)
            await socket.send(json.dumps({"mt": "PbxInfo", "domain": "example.com", "pbx": "pbx-main", **claims}))
            assert await is_dropped(socket) == 1008
            assert not door.sources
        async with door.knock() as socket:  # nor may it become another one later
            await log_in(socket)
            await introduce(socket)
            await answer_of(socket)
            await socket.send(json.dumps({"mt": "PbxInfo", "domain": "example.com", "pbx": "pbx-main", **claims}))
            await is_dropped(socket)
            assert door.ends == ["PbxInfo names another PBX than the login did"]


async def test_without_pbxinfo_the_login_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "INTRODUCTION_SECONDS", 0.2)
    async with Door().open() as door, door.knock() as socket:
        await log_in(socket)
        assert (await answer_of(socket))["mt"] == "AccountInfo"
        assert list(door.sources) == [MAIN]


async def test_several_pbxs_of_a_domain_are_several_sources() -> None:
    async with Door().open() as door:
        one, other = pbx_called("one", accounts=3), pbx_called("other", accounts=4, seed=2)
        async with call(one, door.url), call(other, door.url):
            await until(lambda: len(door.accounts(Identity("example.com", "one"))) == 3)
            await until(lambda: len(door.accounts(Identity("example.com", "other"))) == 4)


async def test_of_two_connections_of_a_pbx_the_newer_is_read_and_the_older_closed() -> None:
    async with Door().open() as door:
        pbx = pbx_called("pbx-main", accounts=3)
        async with call(pbx, door.url):
            await until(lambda: len(door.accounts(MAIN)) == 3)
            older = next(iter(pbx.connections.values()))
            async with call(pbx, door.url):
                await until(lambda: sum(isinstance(heard, EpochBegan) for heard in door.heard[MAIN]) == 2)
                await until(lambda: older not in pbx.connections.values())
                await until(lambda: len(door.accounts(MAIN)) == 6)
                assert len(door.sources) == 1
                assert door.ends == ["PBX pbx-main of example.com dialled anew, and its former connection was closed"]
        assert pbx.oracle.load.max_parallel_probes <= 1, "no two walks at once"
        assert not pbx.oracle.mistakes


async def test_a_pbx_that_dials_again_and_again_is_read_in_the_end() -> None:
    async with Door().open() as door:
        sockets_ = []
        for _ in range(10):
            knocking = door.knock()
            socket = await knocking.__aenter__()
            sockets_.append((knocking, socket))
            await log_in(socket)
            await introduce(socket)
        assert (await answer_of(sockets_[-1][1]))["mt"] == "AccountInfo"
        for _, socket in sockets_[:-1]:
            await is_dropped(socket)
        for knocking, _ in sockets_:
            await knocking.__aexit__(None, None, None)
        await until(lambda: door.gate.connected == 0)


async def test_browsers_and_other_paths_are_turned_away_before_there_is_a_websocket() -> None:
    async with Door().open() as door:
        for options, status in (({"origin": "https://evil.example"}, 403), ({"path": "-elsewhere"}, 404)):
            path = str(options.pop("path", ""))
            with pytest.raises(InvalidStatus) as refused:
                async with door.knock(path, **options):
                    pass
            assert refused.value.response.status_code == status
            assert "Server" not in refused.value.response.headers


async def test_compression_is_not_negotiated() -> None:
    """A few bytes that inflate to gigabytes never get the chance."""
    from websockets.asyncio.client import connect  # noqa: PLC0415 - with another default than usual

    async with Door().open() as door, connect(door.url, proxy=None, compression="deflate") as socket:
        assert socket.protocol.extensions == []


async def test_before_the_login_messages_are_small_and_after_it_as_large_as_configured() -> None:
    async with Door(max_message_bytes=300_000).open() as door:
        async with door.knock() as socket:
            await socket.send("x" * (websocket.LOGIN_BYTES + 1))
            assert await is_dropped(socket) == 1009
        await until(lambda: door.refusals == {"a message that is too large": 1})
        async with door.knock() as socket:
            await log_in(socket)
            await introduce(socket)
            await socket.send(json.dumps({"mt": "Unheard.of", "x": "x" * 200_000}))
            assert (await answer_of(socket))["mt"] == "AccountInfo"
            await socket.send("x" * 300_001)
            assert await is_dropped(socket) == 1009


async def test_who_has_logged_in_says_little_before_it_says_who_it_is() -> None:
    async with Door(max_message_bytes=300_000).open() as door:
        async with door.knock() as socket:
            await log_in(socket)
            await socket.send(json.dumps({"mt": "Unheard.of", "x": "x" * 100_000}))
            assert await is_dropped(socket) == 1008
        await until(lambda: door.refusals == {"it says too much before it says who it is": 1})


async def test_whoever_is_slow_is_dropped_at_every_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CLOSE_SECONDS", 0.3)
    async with Door(login_seconds=0.4).open() as door:
        silent = sockets.create_connection(("127.0.0.1", door.listener.port))
        half = sockets.create_connection(("127.0.0.1", door.listener.port))
        half.sendall(b"GET /pbx HTTP/1.1\r\nHost: x\r\nUpg")
        async with door.knock() as open_only, door.knock() as challenged_only, door.knock() as dribbling:
            await challenged(challenged_only)
            dribbling.transport.write(b"\x01\xfe\x10\x00")  # the head of a frame that never comes
            await until(lambda: door.gate.connected == 5)
            for socket in (open_only, challenged_only, dribbling):
                assert await is_dropped(socket) == 1008
            await until(lambda: door.gate.connected == 0)
        for plain in (silent, half):
            plain.settimeout(5)
            assert await asyncio.to_thread(is_hung_up, plain)
            plain.close()


async def test_tls_that_is_never_finished_is_counted_and_ended(tmp_path: Path) -> None:
    certificate = written(trustme.CA(), tmp_path, "127.0.0.1")
    async with Door(certificate=ServerCertificate(*certificate), login_seconds=0.4).open() as door:
        with sockets.create_connection(("127.0.0.1", door.listener.port)) as plain:
            plain.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
            await until(lambda: door.gate.connected == 1)
            await until(lambda: door.gate.connected == 0)


async def test_an_address_may_have_so_many_connections_and_no_more() -> None:
    async with Door(bounds=Bounds(per_address=3)).open() as door:
        async with door.knock() as one, door.knock() as two, door.knock() as three:
            for number, socket in enumerate((one, two, three)):
                await log_in(socket, info={"appobj": "app", "pbx": f"pbx {number}"})
                await introduce(socket, pbx=f"pbx {number}")
            with sockets.create_connection(("127.0.0.1", door.listener.port)) as fourth:
                fourth.settimeout(5)
                assert await asyncio.to_thread(is_hung_up, fourth)
            await until(lambda: door.refusals.get("too many connections") == 1)
        await until(lambda: door.gate.connected == 0)
        async with door.knock():
            pass


async def test_strangers_at_the_address_of_a_pbx_make_room_for_it() -> None:
    """As behind a proxy that says nothing: whoever did not log in goes."""
    async with Door(bounds=Bounds(per_address=10)).open() as door:
        strangers = [sockets.create_connection(("127.0.0.1", door.listener.port)) for _ in range(50)]
        pbx = pbx_called("pbx-main")
        async with call(pbx, door.url):
            await until(lambda: len(door.accounts(MAIN)) == 5)
            strangers += [sockets.create_connection(("127.0.0.1", door.listener.port)) for _ in range(50)]
            pbx.change_display_name(pbx.pick())
            await until(lambda: door.gate.connected <= 11)
            assert len(pbx.connections) == 1, "and none that is in is dropped for them"
        for stranger in strangers:
            stranger.close()


async def test_whoever_makes_room_is_gone_at_once_although_he_said_more_than_was_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is read while a login waits, so not even that the connection was ended would be noticed."""
    monkeypatch.setattr(server, "REFUSAL_SECONDS", 20.0)
    async with Door(bounds=Bounds(unauthenticated=1)).open() as door, door.knock() as stranger:
        await stranger.send(login_of(await challenged(stranger), password="guess"))
        await stranger.send("more")
        await until(lambda: door.refusals.get(Verdict.WRONG_PASSWORD) == 1)
        async with door.knock():
            await until(lambda: door.gate.connected == 1, seconds=5)


async def test_guesses_from_the_address_of_a_pbx_do_not_hold_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """They fill its pauses; who logged in from there before, with the guid of its App object, has a turn of its own."""
    monkeypatch.setattr(server, "REFUSAL_SECONDS", 0.0)
    async with Door().open() as door:
        async with door.knock() as socket:
            assert (await log_in(socket))["ok"] is True

        async def guess() -> None:
            async with door.knock() as socket:
                await log_in(socket, password="guess", guid="1" * 32)

        for _ in range(9):
            door.gate.failed(Ticket("127.0.0.1", lambda: None), asyncio.get_running_loop().time())
        guesses = [asyncio.create_task(guess()) for _ in range(3)]
        await until(lambda: door.refusals.get("too many attempts"))
        async with door.knock() as socket:
            began = time.monotonic()
            assert (await log_in(socket))["ok"] is True
            assert time.monotonic() - began < 1
        for task in guesses:
            task.cancel()
        await asyncio.wait(guesses)


async def test_behind_a_proxy_that_is_known_each_has_the_address_that_it_says() -> None:
    async with Door(bounds=Bounds(per_address=1), proxies=("127.0.0.1",)).open() as door:
        told = [{"X-Forwarded-For": "6.6.6.6, 192.0.2.1"}, {"Forwarded": "for=192.0.2.2;proto=https"}]
        async with (
            door.knock(additional_headers=told[0]) as one,
            door.knock(additional_headers=told[1]) as two,
        ):
            for socket, pbx in ((one, "one"), (two, "two")):
                await log_in(socket, info={"appobj": "app", "pbx": pbx})
                await introduce(socket, pbx=pbx)
            await until(lambda: len(door.visits) == 2)
            assert [visit.address for visit in door.visits] == ["192.0.2.1", "192.0.2.2"]
            with pytest.raises(InvalidStatus) as refused:
                async with door.knock(additional_headers=told[0]):
                    pass
            assert refused.value.response.status_code == 429
        await until(lambda: door.gate.connected == 0)


@pytest.mark.parametrize("is_tls", [False, True])
async def test_a_proxy_introduces_whom_it_lets_through_before_anything_else_is_said(
    tmp_path: Path, *, is_tls: bool
) -> None:
    authority = trustme.CA()
    certificate = ServerCertificate(*written(authority, tmp_path, "127.0.0.1")) if is_tls else None
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = client_context(Trust(ca_file=tmp_path / "ca.pem")) if is_tls else None
    head = b"PROXY TCP4 192.0.2.1 192.0.2.2 50000 443\r\n"
    async with Door(certificate=certificate, proxies=("127.0.0.9",), is_introduced=True).open() as door:

        def dialled(said: bytes, source: str) -> sockets.socket:
            plain = sockets.create_connection(("127.0.0.1", door.listener.port), source_address=(source, 0))
            plain.sendall(said)
            return plain

        for source, said, address in (("127.0.0.9", head, "192.0.2.1"), ("127.0.0.8", b"", "127.0.0.8")):
            door.visits.clear()
            async with door.knock(
                sock=dialled(said, source), ssl=context, additional_headers={"X-Forwarded-For": "192.0.2.7"}
            ) as socket:
                await log_in(socket)
                await introduce(socket)
                await until(lambda: door.visits)
                assert door.visits[0].address == address
        for source, said in (("127.0.0.9", b"GET / HTTP/1.1\r\n\r\n"), ("127.0.0.9", head[:9]), ("127.0.0.8", head)):
            with dialled(said, source) as plain:
                plain.settimeout(20)
                assert await asyncio.to_thread(is_hung_up, plain)
        assert door.refusals["a proxy that does not speak the PROXY protocol"] == 2
        await until(lambda: door.gate.connected == 0)


async def test_nobody_else_may_say_where_it_comes_from() -> None:
    async with (
        Door(proxies=("192.0.2.1",)).open() as door,
        door.knock(additional_headers={"X-Forwarded-For": "192.0.2.7", "Forwarded": "for=192.0.2.7"}) as socket,
    ):
        await log_in(socket)
        await introduce(socket)
        await until(lambda: door.visits)
        assert (door.visits[0].address, door.visits[0].guid) == ("127.0.0.1", "0" * 32)


async def test_an_app_that_is_bound_to_a_certificate_wants_that_one(tmp_path: Path) -> None:
    ours, theirs, others = trustme.CA(), trustme.CA(), trustme.CA()
    files = written(ours, tmp_path, "127.0.0.1")
    ours.cert_pem.write_to_path(str(tmp_path / "ours.pem"))
    good = written(theirs, tmp_path, "pbx.example.com", as_name="pbx")
    twin = written(theirs, tmp_path, "pbx.example.com", as_name="twin")
    unknown = written(others, tmp_path, "pbx.example.com", as_name="unknown")
    theirs.cert_pem.write_to_path(str(tmp_path / "theirs.pem"))
    bound = App("app", None, lambda: PASSWORD, fingerprint=fingerprint_of(good[0]))
    for trusted in (tmp_path / "theirs.pem", good[0]):  # who signed it, or the certificate itself
        async with Door(apps=[bound], certificate=ServerCertificate(*files, trusted)).open() as door:
            for shown, is_in in ((good, True), (twin, False), (None, False), (unknown, False)):
                certificate, key = shown or (None, None)
                trust = Trust(ca_file=tmp_path / "ours.pem", certificate_file=certificate, key_file=key)
                try:
                    async with door.knock(ssl=client_context(trust)) as socket:
                        assert ((await log_in(socket)).get("ok") is True) is is_in, shown
                except (ConnectionClosed, InvalidHandshake, OSError):
                    assert not is_in, "who shows a certificate that nobody vouches for does not come so far"


async def test_a_crowd_of_silent_strangers_keeps_no_pbx_out() -> None:
    """More of them than may be there without a login, all of them earlier."""
    async with Door(bounds=Bounds(unauthenticated=10, per_address=1000)).open() as door:
        strangers = [sockets.create_connection(("127.0.0.1", door.listener.port)) for _ in range(50)]
        pbx = pbx_called("pbx-main")
        async with call(pbx, door.url):
            await until(lambda: len(door.accounts(MAIN)) == 5)
            strangers += [sockets.create_connection(("127.0.0.1", door.listener.port)) for _ in range(50)]
            await until(lambda: door.gate.connected <= 11)
            pbx.change_display_name(pbx.pick())
            assert len(pbx.connections) == 1, "and none that is in is dropped for them"
        for stranger in strangers:
            stranger.close()


async def test_a_flood_is_turned_away_unseen_and_takes_nothing_from_whoever_is_new_or_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bridge.pbx.inbound.admission.TOGETHER", Share(20, 0.01))
    monkeypatch.setattr("bridge.pbx.inbound.admission.WHILE_SECONDS", 60.0)

    def come(address: str) -> sockets.socket:
        return sockets.create_connection(("127.0.0.1", door.listener.port), source_address=(address, 0))

    async with Door(bounds=Bounds(unauthenticated=1000)).open() as door:
        async with door.knock() as socket:
            await log_in(socket)
        flood = [await asyncio.to_thread(come, f"127.5.0.{1 + number % 8}") for number in range(200)]
        await until(lambda: door.refusals.get("too many connections in a short time", 0) > 100)
        assert door.gate.connected < 60
        with await asyncio.to_thread(come, "127.5.0.99") as new:
            new.settimeout(1)
            with pytest.raises(TimeoutError):
                await asyncio.to_thread(is_hung_up, new)
        for _ in range(50):
            async with door.knock() as socket:
                assert (await log_in(socket))["ok"] is True
        for each in flood:
            each.close()


@pytest.mark.parametrize("says_where", [True, False], ids=["from many addresses", "from nowhere"])
async def test_a_flood_through_a_proxy_that_sends_headers_is_counted_by_them_and_takes_nothing_from_a_pbx(
    monkeypatch: pytest.MonkeyPatch,
    says_where: bool,  # noqa: FBT001 - a case
) -> None:
    monkeypatch.setattr("bridge.pbx.inbound.admission.TOGETHER", Share(20, 0.01))
    monkeypatch.setattr("bridge.pbx.inbound.admission.WHILE_SECONDS", 60.0)

    async def log_in_from_there() -> bool:
        async with door.knock(additional_headers={"X-Forwarded-For": "192.0.2.7"}) as socket:
            return (await log_in(socket))["ok"] is True

    def come(number: int) -> sockets.socket:
        stranger = sockets.create_connection(("127.0.0.1", door.listener.port))
        told = f"X-Forwarded-For: 198.51.{number // 250}.{number % 250}\r\n" if says_where else ""
        stranger.sendall(f"GET /nothing HTTP/1.1\r\nHost: x\r\n{told}\r\n".encode())
        return stranger

    async with Door(proxies=("127.0.0.1",)).open() as door:
        assert await log_in_from_there()
        flood = []
        for number in range(300):
            flood.append(await asyncio.to_thread(come, number))
            if number % 20 == 0:
                assert await log_in_from_there()
        await until(lambda: door.refusals.get("too many connections", 0) > 100)
        for each in flood:
            each.close()


async def test_what_a_stranger_takes_of_memory_is_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself asyncio fills a quarter of a megabyte with zeros for each connection by TLS."""
    monkeypatch.setattr("bridge.pbx.inbound.admission.TOGETHER", Share(1000, 1000))
    certificate = ServerCertificate(*written(trustme.CA(), tmp_path, "127.0.0.1"))
    async with Door(certificate=certificate, bounds=Bounds(unauthenticated=1000, per_address=1000)).open() as door:
        for _ in range(3):  # what is freed once must not change where later ones lie
            before = memory_kb()
            strangers = [sockets.create_connection(("127.0.0.1", door.listener.port)) for _ in range(60)]
            await until(lambda: door.gate.connected == 60)
            await asyncio.sleep(0.2)
            assert memory_kb() - before < 60 * 100
            for stranger in strangers:
                stranger.close()
            await until(lambda: door.gate.connected == 0)


def memory_kb() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


async def test_guesses_wait_longer_each_time_and_a_pbx_elsewhere_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.pbx.inbound.admission.FIRST_PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(server, "REFUSAL_SECONDS", 0.0)
    took = []
    async with Door().open() as door:
        for _ in range(4):
            async with door.knock() as socket:
                began = time.monotonic()
                assert "ok" not in await log_in(socket, password="guess")
                took.append(time.monotonic() - began)
        async with door.knock() as socket:
            assert (await log_in(socket))["ok"] is True
        async with door.knock() as socket:
            began = time.monotonic()
            assert "ok" not in await log_in(socket, password="guess")
            assert time.monotonic() - began < 0.7, "a good login forgives its address"
    assert took[3] > 0.7
    assert took[2] > 0.35


async def test_a_half_open_connection_that_answered_pings_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PING_SECONDS", 0.1)
    async with Door().open() as door, door.knock() as socket:
        await log_in(socket)
        await introduce(socket)
        await answer_of(socket)
        await until(lambda: socket.protocol.close_rcvd is None)
        await asyncio.sleep(0.3)  # pongs are sent by the library
        socket.transport.pause_reading()
        await until(lambda: door.ends)
        assert "hung up" in door.ends[0]


async def test_a_new_certificate_is_shown_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CERTIFICATE_CHECK_SECONDS", 0.05)
    old, new = trustme.CA(), trustme.CA()
    files = written(old, tmp_path, "127.0.0.1")
    for authority, name in ((old, "old.pem"), (new, "new.pem")):
        authority.cert_pem.write_to_path(str(tmp_path / name))
    trust_old, trust_new = (client_context(Trust(ca_file=tmp_path / name)) for name in ("old.pem", "new.pem"))
    async with Door(certificate=ServerCertificate(*files)).open() as door, door.knock(ssl=trust_old) as before:
        files[1].write_text("half written")
        await asyncio.sleep(0.2)
        async with door.knock(ssl=trust_old):
            pass  # what is unusable changes nothing
        written(new, tmp_path, "127.0.0.1")
        async with asyncio.timeout(10):
            while True:
                try:
                    async with door.knock(ssl=trust_new):
                        break
                except OSError:
                    await asyncio.sleep(0.05)
        assert (await log_in(before))["ok"] is True, "connections from before stay"


async def test_a_pbx_dials_by_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = ServerCertificate(*written(authority, tmp_path, "127.0.0.1"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with (
        Door(certificate=certificate).open() as door,
        call(pbx_called("pbx-main"), door.url, ssl_context=client_context(Trust(ca_file=tmp_path / "ca.pem"))),
    ):
        await until(lambda: len(door.accounts(MAIN)) == 5)


async def test_a_port_that_is_taken_is_a_matter_of_configuration() -> None:
    async with Door().open() as door:
        other = Door(port=door.listener.port)
        with pytest.raises(BadConfig, match=r"listen\.host and listen\.port"):
            async with other.open():
                pass


UPGRADE = (
    b"GET /pbx HTTP/1.1\r\nHost: bridge\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
)
EMPTY_PING = b"\x89\x80\x00\x00\x00\x00"


async def longest_turn() -> float:
    """Return how long others had to wait for their turn at most, once cancelled."""
    longest, before = 0.0, time.monotonic()
    with suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(0)
            now = time.monotonic()
            longest, before = max(longest, now - before), now
    return longest


def flood(port: int) -> None:
    """Open a WebSocket and send a mebibyte of empty pings."""
    with suppress(ConnectionError), sockets.create_connection(("127.0.0.1", port)) as plain:
        plain.settimeout(20)
        plain.sendall(UPGRADE + b"\r\n")
        plain.sendall(EMPTY_PING * ((1 << 20) // len(EMPTY_PING)))
        is_hung_up(plain)


async def test_a_mebibyte_of_pings_from_each_of_eight_strangers_keeps_nobody_waiting() -> None:
    """They cost 3 s each when every ping that came was answered before anybody else had a turn."""
    async with Door().open() as door:
        watching = asyncio.create_task(longest_turn())
        await asyncio.gather(*(asyncio.to_thread(flood, door.listener.port) for _ in range(8)))
        watching.cancel()
        assert await watching < 0.5
        await until(lambda: door.gate.connected == 0)
        assert sum(door.refusals.values()) == 8


@pytest.mark.parametrize("frame", [EMPTY_PING, b"\x8a\x80\x00\x00\x00\x00", b"\x01\x80\x00\x00\x00\x00" + EMPTY_PING])
async def test_before_the_login_frames_are_counted_of_every_kind(frame: bytes) -> None:
    async with Door().open() as door, door.knock() as socket:
        socket.transport.write(frame * (server.STRANGERS_FRAMES + 1))
        assert await is_dropped(socket) in (1002, 1008)
        await until(lambda: sum(door.refusals.values()) == 1)


async def test_a_login_with_pings_and_in_fragments_is_still_one() -> None:
    async with Door().open() as door, door.knock() as socket:
        await socket.ping()
        challenge = await challenged(socket)
        text = login_of(challenge)
        await socket.send(text[at : at + 100] for at in range(0, len(text), 100))
        assert (await answer_of(socket))["ok"] is True


async def test_after_the_login_pings_are_counted_too() -> None:
    async with Door().open() as door, door.knock() as socket:
        await log_in(socket)
        await introduce(socket)
        await answer_of(socket)
        socket.transport.write(EMPTY_PING * 1000)
        assert await is_dropped(socket) == 1008
        await until(lambda: door.ends)
        assert "too many frames that bring nothing" in door.ends[0]


@pytest.mark.parametrize(
    "more", [b"X: " + b"y" * 5000 + b"\r\n", b"X-1: y\r\n", b"y" * 3000], ids=["long", "many", "one"]
)
async def test_a_request_has_so_many_bytes_and_headers_and_no_more(more: bytes) -> None:
    async with Door().open() as door:
        with sockets.create_connection(("127.0.0.1", door.listener.port)) as plain:
            plain.settimeout(10)

            def push() -> bool:
                with suppress(ConnectionError):
                    plain.sendall(UPGRADE + more * (40_000 // len(more)))
                return is_hung_up(plain)

            assert await asyncio.to_thread(push)
        await until(lambda: door.gate.connected == 0)


async def test_at_a_stop_every_pbx_hears_that_we_go_away() -> None:
    """The one that is read, the one that is about to be, and a stranger."""
    async with Door().open() as door:
        read, waiting, stranger = door.knock(), door.knock(), door.knock()
        one, other, nobody = [await knocking.__aenter__() for knocking in (read, waiting, stranger)]
        await log_in(one)
        await introduce(one)
        await answer_of(one)
        await log_in(other, info={"appobj": "app", "pbx": "pbx-other"})
    codes = [await is_dropped(each) for each in (one, other, nobody)]
    assert codes == [1001, 1001, 1001]
    for knocking in (read, waiting, stranger):
        await knocking.__aexit__(None, None, None)


async def test_a_stop_waits_for_nobody_who_does_not_come_to_an_end(tmp_path: Path) -> None:
    certificate = ServerCertificate(*written(trustme.CA(), tmp_path, "127.0.0.1"))
    for its in (certificate, None):
        door = Door(login_seconds=60.0, certificate=its)
        async with door.open():
            half = sockets.create_connection(("127.0.0.1", door.listener.port))
            half.sendall(b"\x16\x03\x01\x02\x00\x01\x00" if its is not None else UPGRADE)
            await until(lambda door=door: door.gate.connected == 1)  # type: ignore[misc]
            began = time.monotonic()
        assert time.monotonic() - began < 5
        half.settimeout(5)
        assert await asyncio.to_thread(is_hung_up, half)
        half.close()


async def test_an_exception_that_nobody_planned_is_the_trouble_of_one_login(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    async with Door().open() as door:
        async with door.knock() as socket:
            with monkeypatch.context() as broken:
                broken.setattr(door.listener._judge, "judge", fail)  # noqa: SLF001 - to have it fail
                challenge = await challenged(socket)
                await socket.send(login_of(challenge))
                assert await is_dropped(socket) == 1011
        async with door.knock() as socket:
            assert (await log_in(socket))["ok"] is True
