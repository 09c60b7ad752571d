"""The tables about the bridge itself, its store and its broker."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from bridge.config.base import (
    MAX_EXCHANGE_CHARACTERS,
    Age,
    FieldNames,
    Networks,
    ReadyWhen,
    SecretFile,
    Table,
    Time,
    TimeOrNever,
    TlsTable,
    check_kept_back,
    check_name,
    checked,
    holding,
    parse_url,
    parse_urls,
    short,
    usable,
)
from bridge.errors import BadConfig
from bridge.model import MAX_WINDOW_ROWS, WINDOW_ROWS
from bridge.security.secret import MIN_TOKEN_CHARACTERS, Secret
from bridge.security.urls import Url, read_vhost, split_urls

EXCHANGE: Final = "pbx.accounts"


AMQP_SCHEMES: Final = ("amqp", "amqps")
AMQP_WORDS: Final = "must look like amqp://user:password@host:5672/vhost (amqps for TLS)"
STREAM_SCHEMES: Final = ("rabbitmq-stream", "rabbitmq-stream+tls")
STREAM_WORDS: Final = (
    "must look like rabbitmq-stream://user:password@host:5552/vhost (rabbitmq-stream+tls and 5551 for TLS)"
)

LONGEST_ADDED_TO_AN_EXCHANGE: Final = ".detour.0123456789ab"
"""As ``replay`` and ``snapshot`` do, to an exchange; ``.log.writer.<source>`` is longer, but a queue may be, too."""
DEAD: Final = ".dead"


def check_amqp(text: str) -> None:
    """Return if *text* holds URLs of brokers.

    Raises:
        ValueError: it does not, in words that do not show it.

    """
    for url in parse_urls(text, AMQP_SCHEMES, AMQP_WORDS):
        _check_vhost(url)
        told = dict(pair.partition("=")[::2] for pair in url.query.split("&"))
        if told.get("auth", "plain").lower() not in {"plain", "amqplain"} or "cadata" in told:
            raise ValueError("may say neither auth nor cadata: the bridge logs in with user and password, see ca_file")


def check_stream(text: str) -> None:
    """Return if *text* holds URLs of stream ports.

    Raises:
        ValueError: it does not, in words that do not show it.

    """
    for url in parse_urls(text, STREAM_SCHEMES, STREAM_WORDS):
        _check_vhost(url)


def _check_vhost(url: Url) -> None:
    if len(read_vhost(url)) > MAX_EXCHANGE_CHARACTERS:
        raise ValueError(f"has a virtual host of more than {MAX_EXCHANGE_CHARACTERS} characters")


def _holding(check: Callable[[str], None]) -> AfterValidator:
    def checked(url: SecretStr) -> SecretStr:
        check(url.get_secret_value())
        return url

    return AfterValidator(checked)


def _endpoint(url: str) -> None:
    parse_url(url, ("http", "https"), "must look like http://collector:4318")


def check_exchange(name: str) -> None:
    """Return if an exchange may have *name*.

    Raises:
        ValueError: it may not; with what is wrong.

    """
    what = f"names like <exchange>{LONGEST_ADDED_TO_AN_EXCHANGE} are made of it"
    check_name(name, len(LONGEST_ADDED_TO_AN_EXCHANGE), most=MAX_EXCHANGE_CHARACTERS, what=what)


def check_queue(name: str) -> None:
    """Return if a queue may have *name*.

    Raises:
        ValueError: it may not; with what is wrong.

    """
    check_name(name, len(DEAD), what=f"the dead letters go to <queue>{DEAD}")
    if name.startswith("amq."):
        raise ValueError("begins with amq., which the broker keeps for itself")


ExchangeName = checked(check_exchange)
QueueName = checked(check_queue)
RoutingKey = checked(short)


class RabbitMqTable(TlsTable):
    """The broker, and what is declared there."""

    url: Annotated[SecretStr, _holding(check_amqp)] | None = None
    """Where the broker is: amqp://user:password@host:5672/vhost (amqps for TLS); several hosts separated by commas."""
    url_file: Annotated[Path, holding(check_amqp)] | None = None
    """A file with that, read again at every login."""
    exchange: Annotated[str, ExchangeName] = EXCHANGE
    """The topic exchange that gets the events."""
    declare: bool = True
    """Make exchange, log and queues; false: only look whether they are there."""
    log_stream: bool = True
    """Keep everything in the stream <exchange>.log."""
    log_max_age: Annotated[str, Age] = "30D"
    """How long the log keeps events: a number and one of Y M D h m s."""
    log_max_bytes: int = Field(5_000_000_000, ge=1_000_000, le=10**15)
    """How large the log may become."""
    stream_url: Annotated[SecretStr, _holding(check_stream)] | None = None
    """The stream port: the log is written through it, each event once. Without it the exchange feeds the log."""
    stream_url_file: Annotated[Path, holding(check_stream)] | None = None
    """A file with that, read again at every login."""
    log_partitions: int = Field(1, ge=1, le=64)
    """Into how many streams the log is split, by account; more than one needs stream_url."""
    window: int = Field(WINDOW_ROWS, ge=1, le=MAX_WINDOW_ROWS)
    """Unconfirmed events at a time; as many may be delivered twice after a kill."""
    confirm_timeout_seconds: float = Field(30, gt=0)
    """Without any confirm for so long, the connection is given up."""

    @property
    def urls(self) -> Sequence[str]:
        """The broker's hosts in the order in which they are tried; read anew where they come from a file.

        Raises:
            FileUnusable: the file holds none, and never did since the start.

        """
        return _hosts(self.secret)

    @property
    def stream_urls(self) -> Sequence[str]:
        """The broker's stream ports, the same way; none where the exchange feeds the log.

        Raises:
            FileUnusable: the file holds none, and never did since the start.

        """
        return _hosts(self.stream_secret)

    @property
    def secret(self) -> Secret | None:
        """What ``urls`` are read of."""
        return self.get_secret("url", check_amqp)

    @property
    def stream_secret(self) -> Secret | None:
        """What ``stream_urls`` are read of."""
        return self.get_secret("stream_url", check_stream)

    @property
    def writes_log(self) -> bool:
        """Whether the bridge writes the log itself, by the stream protocol."""
        return self.log_stream and (self.stream_url is not None or self.stream_url_file is not None)

    @model_validator(mode="after")
    def _partitions_need_streams(self) -> Self:
        if self.log_partitions > 1 and not self.writes_log:
            raise ValueError("log_partitions needs stream_url (and log_stream): an exchange feeds one stream only")
        return self


def _hosts(secret: Secret | None) -> Sequence[str]:
    return [] if secret is None else split_urls(secret.reveal())


class SubscriberTable(Table):
    """A queue that is declared before its subscriber first connects, so that it misses nothing; one for each."""

    queue: Annotated[str, QueueName]
    """Its name."""
    keys: tuple[Annotated[str, RoutingKey], ...] = ("*.account.*",)
    """Routing keys of the events it gets."""
    delivery_limit: int = Field(100, ge=1, le=1_000_000)
    """After so many deliveries without an acknowledgement an event goes to <queue>.dead; quorum queues only."""
    queue_type: Literal["quorum", "classic"] = "quorum"
    """quorum keeps its events through the loss of a node."""
    ordered: bool | None = None
    """true: of several subscribers one at a time gets events, so that they stay in order; false: they share them.
    Without it, a queue that exists is right either way, and one that is made is shared."""


class ReplayTable(Table):
    """How long published events are kept."""

    keep_days: float = Field(7, gt=0, le=3650)
    """How long published events stay in the store, for trace and replay."""


class PublishTable(Table):
    """Which fields leave, and which changes."""

    skip_unchanged: bool = False
    """No event where no published field differs."""
    include: FieldNames = ()
    """Beside the usual fields: apps, template, hidden, devices."""
    exclude: FieldNames = ()
    """Fields that never leave."""
    mask: FieldNames = ()
    """Fields of which only a keyed hash leaves: it shows that they changed, not what they are.

    The field hidden cannot be one of them: of yes and no a mask hides neither.
    """

    @model_validator(mode="after")
    def _keeps_back_what_it_can(self) -> Self:
        check_kept_back(self.exclude, self.mask)
        return self


class StatusTable(Table):
    """The status page."""

    enabled: bool = True
    """Serve the status page."""
    host: str = "127.0.0.1"
    """Where it listens; elsewhere than on this machine only with a token."""
    port: int = Field(8080, ge=0, le=65535)
    """0 takes any free one."""
    token: SecretStr | None = None
    """What /status asks for: Authorization: Bearer …"""
    token_file: SecretFile | None = None
    """A file with that."""
    hosts: tuple[str, ...] = ()
    """Names under which the page may be asked for, beside localhost and plain addresses."""
    proxies: Networks = ()
    """Addresses of proxies that say from where somebody asks, and whether by https; nobody else is believed."""
    proxy_protocol: bool = False
    """They say from where by the PROXY protocol, not by Forwarded or X-Forwarded-For."""
    max_unsent_age_seconds: float = Field(300, gt=0)
    """An event that waits for longer makes the bridge not ready."""
    max_walk_stall_seconds: float = Field(300, gt=0)
    """A full walk that reads no account for longer is stuck."""
    ready_when: Annotated[str, ReadyWhen] = "50%"
    """So many of the PBXs have to be read for the bridge to be ready: all, any (one is enough), or a share like 50%."""
    max_pbxs_in_metrics: int = Field(250, ge=0)
    """Up to so many PBXs have metrics each; of more PBXs those in trouble have, so many at most. Sums are of all."""

    @property
    def ready_share(self) -> float:
        """``ready_when`` as a share from 0, for any, to 1, for all."""
        words = {"any": 0.0, "all": 1.0}
        return words[self.ready_when] if self.ready_when in words else float(self.ready_when.removesuffix("%")) / 100

    @model_validator(mode="after")
    def _token_cannot_be_guessed(self) -> Self:
        usable(lambda: self.secret_token)
        return self

    @property
    def secret_token(self) -> str | None:
        """The token; ``None`` where the page is for this machine only.

        Raises:
            BadConfig: it cannot be read, or is too short.

        """
        token = None if self.secret is None else self.secret.reveal().strip()
        if token is not None and len(token) < MIN_TOKEN_CHARACTERS:
            raise BadConfig(
                f"token has {len(token)} characters, and fewer than {MIN_TOKEN_CHARACTERS} can be guessed. Make one by "
                "openssl rand -hex 32 (status.token_file, BRIDGE_STATUS_TOKEN_FILE)"
            )
        return token

    @model_validator(mode="after")
    def _proxies_are_known(self) -> Self:
        if self.proxy_protocol and not self.proxies:
            raise ValueError("proxies is missing: whose PROXY protocol is to be believed?")
        return self

    @model_validator(mode="after")
    def _strangers_need_a_token(self) -> Self:
        is_local = self.host in ("127.0.0.1", "::1", "localhost")
        if self.enabled and not is_local and self.token is None and self.token_file is None:
            raise ValueError(
                "token is missing: without one the page is for this machine only (host 127.0.0.1). Make one, for "
                "instance by openssl rand -hex 32, and set status.token_file (BRIDGE_STATUS_TOKEN_FILE)"
            )
        return self

    @property
    def secret(self) -> Secret | None:
        """What ``/status`` asks for."""
        return self.get_secret("token")


class TracesTable(Table):
    """Spans for OpenTelemetry; needs the extra ``otel``."""

    enabled: bool = False
    """Make spans, and send them."""
    endpoint: Annotated[str, checked(_endpoint)] = "http://localhost:4318"
    """Where a collector takes OTLP over HTTP."""


class LogTable(Table):
    """Logs."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """What is logged at least."""
    format: Literal["auto", "text", "json"] = "auto"
    """auto: text on a terminal, JSON otherwise."""


class WalkTable(Table):
    """Full walks, and what they may do."""

    nightly_at: Annotated[str, TimeOrNever] = "02:00"
    """When every PBX is walked from its start once a night, or never. Local time of the machine."""
    after_outage_minutes: float = Field(10, ge=0)
    """Walk after a PBX was away for so long, too."""
    max_at_once: int = Field(16, ge=1, le=10_000)
    """So many PBXs are read from their start at a time, at the first start too; others wait for their turn."""
    max_rows_ahead: int = Field(2048, ge=16, le=1_000_000)
    """Rows of all PBXs that may be read and not yet committed; a quarter of it is not for walks."""
    quiet_from: Annotated[str, Time] | None = None
    """No full walks from then on, unless asked for by resync."""
    quiet_until: Annotated[str, Time] | None = None
    """The end of that."""
    deletion_walks: int = Field(2, ge=1, le=10)
    """Proven full walks that must not have seen an account before it counts as deleted."""
    max_deleted_accounts: int = Field(20, ge=0)
    """More deletions at once wait for a human yes."""
    max_deleted_percent: float = Field(5, ge=0, le=100)
    """The same, in percent of the accounts of a PBX."""


class FleetTable(Table):
    """Many PBXs."""

    pbx_dir: Path | None = None
    """A folder: each file *.toml in it is a PBX that is dialled, with the keys of a [[pbx]] table. Its name is that of
    the file, unless it says another. A mistake in one file concerns that PBX only."""
