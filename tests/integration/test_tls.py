"""Whom we believe, on real TLS: PBXs and brokers with certificates of every kind."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trustme

from bridge.broker.connection import connect
from bridge.errors import BridgeError, BrokerRefusedLogin, PbxNotTrusted, PbxUnreachable
from bridge.model import Cursor
from bridge.ops.check import run_checks
from bridge.pbx.outbound import PbxSource
from bridge.pbx.reader import WalkEvent
from bridge.security.tls import ServerCertificate, Trust, as_text, client_context, presented_certificate
from bridge.security.tls import fingerprint_of as fingerprint_shown
from bridge.simulator.pbx import Pbx
from bridge.simulator.server import serve
from tests.support.certificates import authority_file, fingerprint_of, written
from tests.support.rabbit import PrivateBroker, free_port
from tests.support.settings import without_broker

NAME = "pbx.example"


@dataclass
class Paper:
    """A certificate for ``NAME`` that a PBX shows, its CA, and another certificate of the same CA."""

    folder: Path
    authority: trustme.CA = field(default_factory=trustme.CA)

    def __post_init__(self) -> None:
        self.certificate, self.key = written(self.authority, self.folder, NAME)
        self.other, _ = written(self.authority, self.folder, NAME, as_name="other")
        self.ca_file = authority_file(self.authority, self.folder)
        self.strangers_ca_file = authority_file(trustme.CA(), self.folder, "stranger.pem")

    def context(self) -> ssl.SSLContext:
        return ServerCertificate(self.certificate, self.key).context


@pytest.fixture
def paper(tmp_path: Path) -> Paper:
    return Paper(tmp_path)


def trusts(paper: Paper) -> dict[str, tuple[Trust, str | None]]:
    """Return ways to believe, each with the words of its failure, or ``None`` where it has to work."""
    right, wrong = fingerprint_of(paper.certificate), fingerprint_of(paper.other)
    return {
        "its CA and name": (Trust(paper.ca_file, NAME), None),
        "its CA, not its name": (Trust(paper.ca_file), r"IP address mismatch.*Set (rabbitmq.)?server_name"),
        "another name": (Trust(paper.ca_file, "other.example"), r"Hostname mismatch.*Set (rabbitmq.)?server_name"),
        "another CA": (Trust(paper.strangers_ca_file, NAME), "does not verify"),
        "the system's CAs": (Trust(server_name=NAME), r"unable to get local issuer.*Set .*ca_file .*or .*fingerprint"),
        "its fingerprint": (Trust(fingerprints=frozenset({right})), None),
        "one of two fingerprints": (
            Trust(fingerprints=frozenset({bytes(32), right})),
            None,
        ),
        "another fingerprint": (
            Trust(fingerprints=frozenset({wrong})),
            r"not the one whose fingerprint.*set .*fingerprint to it",
        ),
        "everybody": (Trust(is_blind=True), None),
    }


class _Enough(Exception):  # noqa: N818 - ends the reading, and is no error
    pass


async def read_one(url: str, trust: Trust) -> None:
    async def first(_heard: WalkEvent) -> None:
        raise _Enough

    source = PbxSource(url, app="app", password=lambda: "s3cret", ssl_context=client_context(trust))
    async with asyncio.timeout(20):
        await source.read(Cursor(), first)


@pytest.mark.parametrize("way", [
    "its CA and name",
    "its CA, not its name",
    "another name",
    "another CA",
    "the system's CAs",
    "its fingerprint",
    "one of two fingerprints",
    "another fingerprint",
    "everybody",
])  # fmt: skip
async def test_a_pbx_is_believed_or_not(paper: Paper, way: str) -> None:
    trust, words = trusts(paper)[way]
    async with serve(Pbx(accounts=1, app="app", password="s3cret"), ssl_context=paper.context()) as served:
        if words is None:
            with pytest.raises(_Enough):
                await read_one(served.url, trust)
        else:
            with pytest.raises(PbxNotTrusted, match=words):
                await read_one(served.url, trust)
            assert not served.pbx.oracle.load.logins


async def test_a_self_signed_certificate_of_another_name_and_expired_needs_only_its_fingerprint(tmp_path: Path) -> None:
    """As PBXs come from the factory: OpenSSL would object to each of these."""
    from datetime import UTC, datetime  # noqa: PLC0415 - used once

    authority = trustme.CA()
    issued = authority.issue_cert("innovaphone.example", not_after=datetime(2020, 1, 1, tzinfo=UTC))
    issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "certificate.pem"))
    context = ServerCertificate(tmp_path / "both.pem", None).context
    pin = fingerprint_of(tmp_path / "certificate.pem")
    async with serve(Pbx(accounts=1, app="app", password="s3cret"), ssl_context=context) as served:
        with pytest.raises(PbxNotTrusted):
            await read_one(served.url, Trust(ca_file=authority_file(authority, tmp_path)))
        with pytest.raises(_Enough):
            await read_one(served.url, Trust(fingerprints=frozenset({pin})))


async def test_check_tells_when_a_certificate_expired(tmp_path: Path) -> None:
    from datetime import UTC, datetime  # noqa: PLC0415 - used by few

    authority = trustme.CA()
    issued = authority.issue_cert("localhost", not_after=datetime(2020, 1, 31, tzinfo=UTC))
    issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    context = ServerCertificate(tmp_path / "both.pem", None).context
    async with serve(Pbx(accounts=1, app="app", password="s3cret"), ssl_context=context) as served:
        settings = without_broker(
            tmp_path,
            f'[store]\nurl = "sqlite:///{tmp_path}/bridge.db"\n[[pbx]]\nname = "hq"\napp = "app"\npassword = "s3cret"\n'
            f'url = "wss://localhost:{served.port}"\nca_file = "{authority_file(authority, tmp_path)}"\n',
        )
        *_, found = [finding.words async for finding in run_checks(settings) if finding.what == "PBX hq"]
    assert "certificate has expired. Put a new one there. The certificate of localhost expired on 2020-01-31" in found
    assert "ca_file" not in found, "it is right as it is"


async def test_what_to_pin_is_shown_without_believing_it(paper: Paper) -> None:
    async with serve(Pbx(accounts=1), ssl_context=paper.context()) as served:
        shown = await presented_certificate("127.0.0.1", served.port)
        assert shown == ssl.PEM_cert_to_DER_cert(paper.certificate.read_text())
        assert fingerprint_shown(shown) == as_text(fingerprint_of(paper.certificate))
    async with serve(Pbx(accounts=1)) as plain:
        assert await presented_certificate("127.0.0.1", plain.port) is None
    assert await presented_certificate("127.0.0.1", plain.port) is None


async def test_a_pbx_that_asks_for_our_certificate_gets_it(paper: Paper) -> None:
    ours = trustme.CA()
    certificate, key = written(ours, paper.folder, "bridge.example", as_name="ours")
    context = paper.context()
    context.verify_mode = ssl.CERT_REQUIRED
    ours.configure_trust(context)
    async with serve(Pbx(accounts=1, app="app", password="s3cret"), ssl_context=context) as served:
        with pytest.raises(_Enough):
            await read_one(served.url, Trust(paper.ca_file, NAME, certificate_file=certificate, key_file=key))
        with pytest.raises((PbxUnreachable, PbxNotTrusted)):
            await read_one(served.url, Trust(paper.ca_file, NAME))


@asynccontextmanager
async def listening(context: ssl.SSLContext, said: list[bytes]) -> AsyncIterator[int]:
    """Listen as a broker that is none, and keep what is said there behind the handshake."""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said.append(await reader.read(1000))
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_nothing_is_said_to_a_broker_whose_certificate_is_not_the_pinned_one(paper: Paper) -> None:
    said: list[bytes] = []
    async with listening(paper.context(), said) as port:
        trust = Trust(fingerprints=frozenset({fingerprint_of(paper.other)}))
        with pytest.raises(BrokerRefusedLogin, match="not the one whose fingerprint"):
            async with connect(
                [f"amqps://user:s3cret@127.0.0.1:{port}/"], client_name="test", ssl_context=client_context(trust)
            ):
                pass
    assert b"".join(said) == b""


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Paper:
    return Paper(tmp_path_factory.mktemp("papers"))


@pytest.fixture(scope="module")
def secure_broker(papers: Paper) -> Iterator[str]:
    port = free_port()
    configuration = (
        f"listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {papers.ca_file}\n"
        f"ssl_options.certfile = {papers.certificate}\nssl_options.keyfile = {papers.key}\n"
    )
    with PrivateBroker(configuration):
        yield f"amqps://guest:guest@127.0.0.1:{port}/"


@pytest.mark.parametrize("way", [
    "its CA and name",
    "its CA, not its name",
    "another CA",
    "its fingerprint",
    "another fingerprint",
    "everybody",
])  # fmt: skip
async def test_a_broker_is_believed_or_not(papers: Paper, secure_broker: str, way: str) -> None:
    trust, words = trusts(papers)[way]
    problem: BridgeError | None = None
    try:
        async with connect([secure_broker], client_name="test", ssl_context=client_context(trust)) as connection:
            assert await connection.channel()
    except BrokerRefusedLogin as refused:
        problem = refused
    assert (problem is None) == (words is None)
    assert words is None or re.search(words, str(problem))
