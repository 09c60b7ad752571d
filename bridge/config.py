"""Settings from one TOML file and the environment; read once, at the edge.

Every mistake is reported at once, each with its key and line. Every secret may also be a file (``…_file``).
"""

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from bridge.errors import BadConfig
from bridge.mistakes import Key, Places, did_you_mean, lines_of
from bridge.model import SourceName
from bridge.normalize import FIELDS, OPTIONAL_FIELDS
from bridge.secret import HIDDEN, Secret, without_password
from bridge.tls import ServerCertificate, Trust, client_context, read_fingerprint

PREFIX: Final = "BRIDGE_"
CONFIG_VARIABLE: Final = "BRIDGE_CONFIG"
DEFAULT_PATH: Final = "/PBX0/APPS/websocket"
EXCHANGE: Final = "pbx.accounts"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _one_place_for_each_secret(cls, given: Any) -> Any:
        if isinstance(given, Mapping):
            for name in given:
                if f"{name}_file" in given:
                    raise ValueError(f"give {name} or {name}_file, not both")
        return given

    def _secret(self, name: str) -> Secret | None:
        value, file = getattr(self, name), getattr(self, f"{name}_file")
        if file is not None:
            return Secret(file=file)
        return None if value is None else Secret(value.get_secret_value())


def _readable(file: Path) -> Path:
    try:
        Secret(file=file).reveal()
    except BadConfig as problem:
        raise ValueError(str(problem)) from problem
    return file


def _names_fields(names: Sequence[str]) -> Sequence[str]:
    for name in names:
        if name not in (*FIELDS, *OPTIONAL_FIELDS):
            raise ValueError(f"{name!r} is no field of an account{did_you_mean(name, (*FIELDS, *OPTIONAL_FIELDS))}")
    return names


def _keep_guid(*lists: Sequence[str] | None) -> None:
    if any("guid" in (names or ()) for names in lists):
        raise ValueError("guid can be neither excluded nor masked: it is what an event is about")


def _of_the_form(pattern: str, words: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(words)
        return value

    return AfterValidator(check)


def _amqp(url: SecretStr) -> SecretStr:
    for one in url.get_secret_value().split(","):
        parts = urlsplit(one.strip())
        if parts.scheme not in ("amqp", "amqps") or not parts.hostname:
            raise ValueError("must look like amqp://user:password@host:5672/vhost (amqps for TLS)")
    return url


def _stream(url: SecretStr) -> SecretStr:
    for one in url.get_secret_value().split(","):
        parts = urlsplit(one.strip())
        if parts.scheme not in {"rabbitmq-stream", "rabbitmq-stream+tls"} or not parts.hostname:
            raise ValueError(
                "must look like rabbitmq-stream://user:password@host:5552/vhost (rabbitmq-stream+tls and 5551 for TLS)"
            )
    return url


def _websocket(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise ValueError(f"must look like wss://pbx.example.com{DEFAULT_PATH}")
    return url


def _sqlite(url: str) -> str:
    if url.startswith("postgresql:"):
        raise ValueError("PostgreSQL is not there yet; use sqlite:///path/to/bridge.db")
    if not url.startswith("sqlite:///") or not url.removeprefix("sqlite:///"):
        raise ValueError("must look like sqlite:///bridge.db, or sqlite:////var/lib/bridge.db (four slashes)")
    return url


def _fingerprints(text: str) -> str:
    for one in text.split(","):
        read_fingerprint(one)
    return text


def _from_root(path: str) -> str:
    if not path.startswith("/") or "?" in path or "#" in path:
        raise ValueError("must be the path of a URL, like /pbx")
    return path.rstrip("/")


SecretFile = Annotated[Path, AfterValidator(_readable)]
FieldNames = Annotated[tuple[str, ...], AfterValidator(_names_fields)]
Time = _of_the_form(r"([01]\d|2[0-3]):[0-5]\d", "must be a time like 02:00")
TimeOrNever = _of_the_form(r"([01]\d|2[0-3]):[0-5]\d|never", "must be a time like 02:00, or never")
Name = _of_the_form(r"[a-z0-9][a-z0-9-]{0,39}", "must be lower-case letters, digits and dashes, at most 40")
Age = _of_the_form(r"\d+[YMDhms]", "must be a number and one of Y M D h m s, like 30D")


class _TlsTable(_Table):
    """Whom to believe at the other end of a connection that we open."""

    ca_file: Path | None = None
    """The CA that signed its certificate; by default those of the system."""
    server_name: str | None = Field(None, min_length=1)
    """The name its certificate carries, where that is not the one in url."""
    fingerprint: Annotated[str, AfterValidator(_fingerprints)] | None = None
    """Believe this certificate and no other, whoever signed it: its SHA-256, or several, separated by commas."""
    certificate_file: Path | None = None
    """Our own certificate, for those who ask for one."""
    key_file: Path | None = None
    """Its key, where that is not in the same file."""
    insecure: bool = False
    """Believe everybody. Shown by check, log and status for as long as it is on."""

    @model_validator(mode="after")
    def _tls_can_be_used(self) -> Self:
        given = [name for name in ("ca_file", "fingerprint", "insecure") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(
                f"{' and '.join(given)}: only one of them can decide whom to believe; leave out the others"
            )
        if self.key_file is not None and self.certificate_file is None:
            raise ValueError("certificate_file is missing: key_file alone proves nothing")
        _usable(lambda: client_context(self.trust))
        return self

    @property
    def trust(self) -> Trust:
        """The same, as a value."""
        pins = frozenset(map(read_fingerprint, self.fingerprint.split(","))) if self.fingerprint else frozenset[bytes]()
        return Trust(self.ca_file, self.server_name, pins, self.certificate_file, self.key_file, self.insecure)


class PaceTable(_Table):
    """How a PBX is asked, whoever of the two dialled."""

    poll_interval_seconds: float = Field(120, ge=0.1, le=3600)
    """Between the end of the list and the next question."""
    answer_timeout_seconds: float = Field(30, gt=0, le=600)
    """How long an answer may take."""
    keepalive_seconds: float = Field(40, ge=1, le=600)
    """Something is said at least so often."""
    min_spacing_seconds: float = Field(0, ge=0, le=60)
    """Between two questions, at least."""
    max_rows_per_second: float = Field(0, ge=0)
    """So that a small box is spared; 0 for no limit."""
    ask_ahead: int = Field(256, ge=1, le=10_000)
    """Rows that may be read and not yet committed."""
    max_message_bytes: int = Field(1 << 20, ge=1 << 14)
    """Larger messages end the connection."""


class RabbitMqTable(_TlsTable):
    """The broker, and what is declared there."""

    url: Annotated[SecretStr, AfterValidator(_amqp)] | None = None
    """Where the broker is: amqp://user:password@host:5672/vhost (amqps for TLS); several hosts separated by commas."""
    url_file: SecretFile | None = None
    """A file with that, read again at every login."""
    exchange: str = Field(EXCHANGE, min_length=1, max_length=127)
    """The topic exchange that gets the events."""
    declare: bool = True
    """Make exchange, log and queues; false: only look whether they are there."""
    log_stream: bool = True
    """Keep everything in the stream <exchange>.log."""
    log_max_age: Annotated[str, Age] = "30D"
    """How long the log keeps events: a number and one of Y M D h m s."""
    log_max_bytes: int = Field(5_000_000_000, ge=1_000_000)
    """How large the log may become."""
    stream_url: Annotated[SecretStr, AfterValidator(_stream)] | None = None
    """The stream port: the log is written through it, each event once. Without it the exchange feeds the log."""
    stream_url_file: SecretFile | None = None
    """A file with that, read again at every login."""
    log_partitions: int = Field(1, ge=1, le=64)
    """Into how many streams the log is split, by account; more than one needs stream_url."""
    window: int = Field(256, ge=1, le=1024)
    """Unconfirmed events at a time; as many may be delivered twice after a kill."""
    confirm_timeout_seconds: float = Field(30, gt=0)
    """Without any confirm for so long, the connection is given up."""

    @property
    def urls(self) -> Sequence[str]:
        """The broker's hosts in the order in which they are tried; read anew where they come from a file."""
        return self._hosts("url")

    @property
    def stream_urls(self) -> Sequence[str]:
        """The broker's stream ports, the same way; none where the exchange feeds the log."""
        return self._hosts("stream_url")

    @property
    def writes_log(self) -> bool:
        """Whether the bridge writes the log itself, by the stream protocol."""
        return self.log_stream and (self.stream_url is not None or self.stream_url_file is not None)

    @model_validator(mode="after")
    def _partitions_need_streams(self) -> Self:
        if self.log_partitions > 1 and not self.writes_log:
            raise ValueError("log_partitions needs stream_url (and log_stream): an exchange feeds one stream only")
        return self

    def _hosts(self, name: str) -> Sequence[str]:
        secret = self._secret(name)
        return [] if secret is None else [url.strip() for url in secret.reveal().split(",") if url.strip()]


class StoreTable(_Table):
    """Where cursor, mirror and outbox are kept."""

    url: Annotated[str, AfterValidator(_sqlite)] = "sqlite:///bridge.db"
    """The file with cursor, mirror and outbox; four slashes before an absolute path."""
    max_unsent_events: int = Field(1_000_000, ge=1)
    """With so many events waiting, the PBXs are read no further."""
    max_unsent_bytes: int = Field(2_000_000_000, ge=1)
    """The same for their size."""
    min_free_bytes: int = Field(200_000_000, ge=0)
    """The same for what the disk has left."""

    @property
    def path(self) -> Path:
        """The SQLite file."""
        return Path(self.url.removeprefix("sqlite:///"))


class ReplayTable(_Table):
    """How long published events are kept."""

    keep_days: float = Field(7, gt=0, le=3650)
    """How long published events stay in the store, for trace and replay."""


class PublishTable(_Table):
    """Which fields leave, and which changes."""

    skip_unchanged: bool = False
    """No event where no published field differs."""
    include: FieldNames = ()
    """Beside the usual fields: apps, template, hidden, devices."""
    exclude: FieldNames = ()
    """Fields that never leave."""
    mask: FieldNames = ()
    """Fields of which only a keyed hash leaves: it shows that they changed, not what they are."""

    @model_validator(mode="after")
    def _guid_stays(self) -> Self:
        _keep_guid(self.exclude, self.mask)
        return self


class StatusTable(_Table):
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
    """Names under which the page may be asked for, beside localhost and plain addresses; where there is no token."""
    max_unsent_age_seconds: float = Field(300, gt=0)
    """An event that waits for longer makes the bridge not ready."""
    max_walk_stall_seconds: float = Field(300, gt=0)
    """A full walk that reads no account for longer is stuck."""

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
        return self._secret("token")


class TracesTable(_Table):
    """Spans for OpenTelemetry; needs the extra ``otel``."""

    enabled: bool = False
    """Make spans, and send them."""
    endpoint: Annotated[str, _of_the_form(r"https?://\S+", "must look like http://collector:4318")] = (
        "http://localhost:4318"
    )
    """Where a collector takes OTLP over HTTP."""


class LogTable(_Table):
    """Logs."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """What is logged at least."""
    format: Literal["auto", "text", "json"] = "auto"
    """auto: text on a terminal, JSON otherwise."""


class WalkTable(_Table):
    """Full walks, and what they may do."""

    nightly_at: Annotated[str, TimeOrNever] = "02:00"
    """When every PBX is walked from its start once a night, or never. Local time of the machine."""
    after_outage_minutes: float = Field(10, ge=0)
    """Walk after a PBX was away for so long, too."""
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


class PbxTable(_TlsTable, PaceTable):
    """One PBX that we dial."""

    name: Annotated[SourceName, Name] = SourceName("pbx")
    """What it is called in events, routing keys and commands."""
    url: Annotated[str, AfterValidator(_websocket)]
    """Its address; the usual path is added where none is given."""
    app: str = Field(min_length=1)
    """The Name of the App object."""
    password: SecretStr | None = None
    """The Password of the App object."""
    password_file: SecretFile | None = Field(None, validate_default=True)
    """A file with that, read again at every login."""
    connect_timeout_seconds: float = Field(20, gt=0, le=600)
    """How long connecting may take."""

    include: FieldNames | None = None
    """For this PBX instead of what publish.include says."""
    exclude: FieldNames | None = None
    """For this PBX instead of what publish.exclude says."""
    mask: FieldNames | None = None
    """For this PBX instead of what publish.mask says."""
    skip_unchanged: bool | None = None
    """For this PBX instead of what publish.skip_unchanged says."""

    @field_validator("password_file")
    @classmethod
    def _password_is_there(cls, file: Path | None, others: ValidationInfo) -> Path | None:
        if file is None and others.data.get("password") is None:
            raise ValueError("is missing, and so is password (BRIDGE_PBX_PASSWORD_FILE or BRIDGE_PBX_PASSWORD)")
        return file

    @model_validator(mode="after")
    def _guid_stays(self) -> Self:
        _keep_guid(self.exclude, self.mask)
        return self

    @model_validator(mode="after")
    def _pin_goes_with_tls(self) -> Self:
        if self.url.startswith("ws:") and (self.fingerprint or self.certificate_file or self.ca_file):
            raise ValueError("url begins with ws:, so there is no TLS to secure; make it wss:")
        return self

    @property
    def full_url(self) -> str:
        """The URL with the usual path where none was given."""
        parts = urlsplit(self.url)
        return self.url if parts.path not in ("", "/") else parts._replace(path=DEFAULT_PATH).geturl()

    @property
    def secret(self) -> Secret:
        """The app password."""
        return self._secret("password") or Secret("")


class AppTable(_Table):
    """An App object whose PBXs dial us."""

    name: str = Field(min_length=1)
    """The Name of the App object."""
    domain: str | None = Field(None, min_length=1)
    """Only PBXs of this System Name, and for those no other entry of this name."""
    password: SecretStr | None = None
    """The Password of the App object."""
    password_file: SecretFile | None = Field(None, validate_default=True)
    """A file with that, read again at every login."""

    @field_validator("password_file")
    @classmethod
    def _password_is_there(cls, file: Path | None, others: ValidationInfo) -> Path | None:
        if file is None and not (others.data.get("password") or SecretStr("")).get_secret_value():
            raise ValueError("is missing, and so is password")
        return file

    @property
    def secret(self) -> Secret:
        """The password of the App object."""
        return self._secret("password") or Secret("")


class ListenTable(PaceTable):
    """Where PBXs dial us. Not there: they do not."""

    host: str = "0.0.0.0"  # noqa: S104 - PBXs are elsewhere
    """The address of this machine that they dial."""
    port: int = Field(8443, ge=0, le=65535)
    """The port."""
    path: Annotated[str, AfterValidator(_from_root)] = "/pbx"
    """The path of the URL; those below it are served as well."""
    certificate_file: Path | None = None
    """The certificate that PBXs are shown; a changed file is taken over at once."""
    key_file: Path | None = None
    """Its key, where that is not in the same file."""
    insecure: bool = False
    """Do without TLS, for a laboratory, or behind a proxy on another machine."""
    login_timeout_seconds: float = Field(10, gt=0, le=120)
    """For the TLS handshake, for the opening of the WebSocket and for the login, each."""
    max_connections: int = Field(1000, ge=1)
    """At a time."""
    max_connections_per_address: int = Field(64, ge=1)
    """At a time, from one address (of IPv6, one /64 network)."""
    max_unauthenticated: int = Field(128, ge=1)
    """At a time, not logged in; of more the oldest go."""
    forget_after_days: float = Field(30, gt=0)
    """A PBX that has not dialled for so long is not shown any more at the next start, until it dials again."""
    app: tuple[AppTable, ...] = Field((), validate_default=True)
    """One for each App object."""

    @field_validator("app")
    @classmethod
    def _each_app_has_one_password(cls, apps: tuple[AppTable, ...]) -> tuple[AppTable, ...]:
        if not apps:
            raise ValueError(
                "is missing: without the name and password of an App object ([[listen.app]]) nobody gets in"
            )
        seen = [(app.name.casefold(), (app.domain or "").casefold()) for app in apps]
        for app, key in zip(apps, seen, strict=True):
            if seen.count(key) > 1:
                raise ValueError(f"there are two entries for {app.name!r} and the same domain; one password is right")
        return apps

    @model_validator(mode="after")
    def _is_secure(self) -> Self:
        is_local = self.host in ("127.0.0.1", "::1", "localhost")
        if self.certificate_file is not None and self.insecure:
            raise ValueError("certificate_file and insecure: only one of them; leave out the other")
        if self.certificate_file is None and not (is_local or self.insecure):
            raise ValueError(
                "certificate_file is missing. Without one accounts travel in the clear: for that, say insecure = true, "
                'or listen for a TLS proxy on this machine only (host = "127.0.0.1")'
            )
        if self.certificate_file is not None:
            certificate, key = self.certificate_file, self.key_file
            _usable(lambda: ServerCertificate(certificate, key))
        return self

    @property
    def url(self) -> str:
        """What to enter in the PBX, but for the host's name."""
        scheme = "ws" if self.certificate_file is None else "wss"
        return f"{scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}{self.path}"


def _usable(try_it: Callable[[], object]) -> None:
    try:
        try_it()
    except BadConfig as problem:
        raise ValueError(str(problem)) from problem


class SubscriberTable(_Table):
    """A queue that is declared before its subscriber first connects, so that it misses nothing; one for each."""

    queue: str = Field(min_length=1, max_length=255)
    """Its name."""
    keys: tuple[str, ...] = ("*.account.*",)
    """Routing keys of the events it gets."""
    delivery_limit: int = Field(100, ge=1)
    """After so many deliveries without an acknowledgement an event goes to <queue>.dead; quorum queues only."""
    queue_type: Literal["quorum", "classic"] = "quorum"
    """quorum keeps its events through the loss of a node."""


class Settings(_Table):
    """Everything an operator may say."""

    rabbitmq: RabbitMqTable = RabbitMqTable()
    """The broker, and what is declared there."""
    store: StoreTable = StoreTable()
    """Where cursor, mirror and outbox are kept."""
    replay: ReplayTable = ReplayTable()
    """How long published events are kept."""
    publish: PublishTable = PublishTable()
    """Which fields leave, and which changes."""
    status: StatusTable = StatusTable()
    """The status page."""
    log: LogTable = LogTable()
    """Logs, on stderr."""
    traces: TracesTable = TracesTable()
    """Spans for OpenTelemetry; needs the extra otel."""
    walk: WalkTable = WalkTable()
    """Full walks, and what they may do."""
    pbx: tuple[PbxTable, ...] = ()
    """One for each PBX that is dialled."""
    listen: ListenTable | None = None
    """PBXs that dial, and need no table of their own; without this one none may."""
    subscriber: tuple[SubscriberTable, ...] = ()
    """A queue that is made before its subscriber first connects, so that it misses nothing; one for each."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [pbx.name for pbx in self.pbx]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two PBXs are called {name!r}; each needs a name of its own")
        return self

    @classmethod
    def load(
        cls,
        file: Path | None,
        environment: Mapping[str, str],
        *,
        require_pbx: bool = True,
        require_rabbitmq: bool = True,
    ) -> "Settings":
        """Return the settings in *file* and *environment*; the environment wins.

        Raises:
            BadConfig: with every mistake in one message.

        """
        text, tables = _read(file)
        mistakes: list[str] = []
        origins: dict[Key, str] = {}
        _overlay(tables, environment, mistakes, origins)
        settings = cls()
        try:
            settings = cls.model_validate(tables)
        except ValidationError as problems:
            where = Places(file, text, origins, _siblings)
            mistakes += [where.sentence(problem) for problem in problems.errors(include_url=False, include_input=False)]
        if require_pbx and not (tables.get("pbx") or tables.get("listen")):
            mistakes.append(
                "no PBX is configured: set BRIDGE_PBX_URL, BRIDGE_PBX_APP and BRIDGE_PBX_PASSWORD_FILE, or make a "
                "table [listen] for PBXs that dial"
            )
        broker = tables.get("rabbitmq")
        if require_rabbitmq and not (isinstance(broker, Mapping) and {"url", "url_file"} & set(broker)):
            mistakes.append("no broker is configured: set BRIDGE_RABBITMQ_URL_FILE (or rabbitmq.url)")
        if mistakes:
            count = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
            raise BadConfig("\n  ".join([f"the configuration has {count}:", *mistakes]))
        return settings

    def publish_of(self, pbx: SourceName) -> PublishTable:
        """Return what is published of one PBX: as ``[publish]`` says, unless its own table says something else."""
        own = next((table for table in self.pbx if table.name == pbx), None)
        told = {} if own is None else {name: getattr(own, name) for name in PublishTable.model_fields}
        return self.publish.model_copy(update={name: value for name, value in told.items() if value is not None})

    def redacted(self) -> dict[str, Any]:
        """Return the settings as shown to people."""
        shown = self.model_dump(mode="json", exclude_none=True)
        if self.rabbitmq.urls:
            shown["rabbitmq"]["url"] = ",".join(without_password(url) for url in self.rabbitmq.urls)
        if self.rabbitmq.stream_urls:
            shown["rabbitmq"]["stream_url"] = ",".join(without_password(url) for url in self.rabbitmq.stream_urls)
        for table in (*shown["pbx"], *shown.get("listen", {}).get("app", ())):
            if "password" in table:
                table["password"] = HIDDEN
        return shown

    def insecurities(self) -> Iterator[str]:
        """Yield a sentence for everything that was said to be insecure on purpose."""
        for pbx in self.pbx:
            if pbx.insecure:
                yield f"INSECURE: whoever answers at {pbx.url} is believed to be PBX {pbx.name} (pbx.insecure = true)."
            elif pbx.url.startswith("ws:") and not _is_loopback(pbx.url):
                yield f"INSECURE: PBX {pbx.name} is talked to without TLS (its url begins with ws:)."
        if self.rabbitmq.insecure:
            yield "INSECURE: whoever answers is believed to be the broker (rabbitmq.insecure = true)."
        if self.listen is not None and self.listen.insecure:
            yield f"INSECURE: PBXs dial {self.listen.url} without TLS (listen.insecure = true)."


def _is_loopback(url: str) -> bool:
    return urlsplit(url).hostname in {"127.0.0.1", "::1", "localhost"}


def origins(file: Path | None, environment: Mapping[str, str]) -> Mapping[Key, str]:
    """Return where each setting that was given comes from: a line of the file, or a variable.

    Raises:
        BadConfig: the file cannot be read.

    """
    text, tables = _read(file)
    variables: dict[Key, str] = {}
    in_file = dict.fromkeys(_leaves(tables), f"{file}")
    lines = {key: f"{file}, line {line}" for key, line in lines_of(text) if key in in_file}
    _overlay(tables, environment, [], variables)
    return in_file | lines | variables


def _leaves(tables: Any, key: Key = ()) -> Iterator[Key]:
    if isinstance(tables, Mapping):
        for name, value in tables.items():
            yield from _leaves(value, (*key, name))
    elif isinstance(tables, list) and any(isinstance(item, Mapping) for item in tables):
        for number, item in enumerate(tables):
            yield from _leaves(item, (*key, number))
    else:
        yield key


def _read(file: Path | None) -> tuple[str, dict[str, Any]]:
    if file is None:
        return "", {}
    try:
        text = file.read_text("utf-8")
        return text, tomllib.loads(text)
    except OSError as problem:
        raise BadConfig(f"the configuration {file} cannot be read: {problem.strerror}") from problem
    except UnicodeDecodeError as problem:
        raise BadConfig(f"the configuration {file} is not UTF-8 text") from problem
    except tomllib.TOMLDecodeError as problem:
        raise BadConfig(f"the configuration {file} is not TOML: {problem}") from problem


def _overlay(
    tables: dict[str, Any],
    environment: Mapping[str, str],
    mistakes: list[str],
    origins: dict[Key, str],
) -> None:
    """Put ``BRIDGE_TABLE_KEY`` variables over *tables*; ``BRIDGE_PBX_…`` is the first PBX, and so for the apps."""
    known: dict[str, Key] = {
        f"{PREFIX}{table.upper()}_{key.upper()}": (table, 0, key) if table == "pbx" else (table, key)
        for table, field in Settings.model_fields.items()
        for key in _keys_of(field.annotation)
        if table != "subscriber" and (table, key) != ("listen", "app")
    }
    known |= {f"{PREFIX}LISTEN_APP_{key.upper()}": ("listen", "app", 0, key) for key in AppTable.model_fields}
    for variable, value in environment.items():
        if not variable.startswith(PREFIX) or variable == CONFIG_VARIABLE or variable.startswith(f"{PREFIX}TEST_"):
            continue
        if variable not in known:
            mistakes.append(f"{variable}: there is no such variable{did_you_mean(variable, known)}")
            continue
        path = known[variable]
        table, key = str(path[0]), str(path[-1])
        target = _table_at(tables, path[:-1])
        if target is None:
            continue  # the file has something else under this name, which is a mistake of its own
        for other in (f"{key}_file", key.removesuffix("_file")):
            if other != key:
                target.pop(other, None)
        is_list = _is_list(table, key)
        target[key] = [part.strip() for part in value.split(",") if part.strip()] if is_list else value
        origins[path] = variable


def _table_at(tables: dict[str, Any], path: Key) -> dict[str, Any] | None:
    """Return the table at *path*, made where it is missing; ``None`` where something else is in its place."""
    found: Any = tables
    for step, following in zip(path, (*path[1:], None), strict=True):
        if isinstance(step, int):
            found = found[step] if isinstance(found, list) and found else None
        else:
            found = found.setdefault(step, [{}] if following == 0 else {}) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else None


def _keys_of(annotation: Any) -> Iterator[str]:
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, _Table):
            yield from candidate.model_fields


def _is_list(table: str, key: str) -> bool:
    if table == "status":
        return key == "hosts"
    return table in {"publish", "pbx"} and key in {"include", "exclude", "mask"}


def _siblings(path: Key) -> Sequence[str]:
    if path[:2] == ("listen", "app") and len(path) > 2:  # noqa: PLR2004 - below the table, not beside it
        return list(AppTable.model_fields)
    if len(path) == 1:
        return list(Settings.model_fields)
    field = Settings.model_fields.get(str(path[0]))
    return list(_keys_of(field.annotation)) if field is not None else []
