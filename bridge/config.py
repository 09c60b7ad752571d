"""Settings from one TOML file and the environment; read once, at the edge.

Every mistake is reported at once, each with its key and line. Every secret may also be a file (``…_file``).
"""

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
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
from pydantic_core import ErrorDetails

from bridge.errors import BadConfig
from bridge.model import SourceName
from bridge.normalize import FIELDS, OPTIONAL_FIELDS
from bridge.secret import HIDDEN, Secret, without_password

PREFIX: Final = "BRIDGE_"
CONFIG_VARIABLE: Final = "BRIDGE_CONFIG"
DEFAULT_PATH: Final = "/PBX0/APPS/websocket"
EXCHANGE: Final = "pbx.accounts"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

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
            raise ValueError(f"{name!r} is no field of an account{_did_you_mean(name, (*FIELDS, *OPTIONAL_FIELDS))}")
    return names


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


SecretFile = Annotated[Path, AfterValidator(_readable)]
FieldNames = Annotated[tuple[str, ...], AfterValidator(_names_fields)]
Time = _of_the_form(r"([01]\d|2[0-3]):[0-5]\d", "must be a time like 02:00")
TimeOrNever = _of_the_form(r"([01]\d|2[0-3]):[0-5]\d|never", "must be a time like 02:00, or never")
Name = _of_the_form(r"[a-z0-9][a-z0-9-]{0,39}", "must be lower-case letters, digits and dashes, at most 40")
Age = _of_the_form(r"\d+[YMDhms]", "must be a number and one of Y M D h m s, like 30D")


class RabbitMqTable(_Table):
    """The broker, and what is declared there."""

    url: Annotated[SecretStr, AfterValidator(_amqp)] | None = None
    url_file: SecretFile | None = None
    exchange: str = Field(EXCHANGE, min_length=1, max_length=127)
    declare: bool = True
    log_stream: bool = True
    log_max_age: Annotated[str, Age] = "30D"
    log_max_bytes: int = Field(5_000_000_000, ge=1_000_000)
    window: int = Field(256, ge=1, le=1024)
    confirm_timeout_seconds: float = Field(30, gt=0)
    ca_file: Path | None = None

    @property
    def urls(self) -> Sequence[str]:
        """The broker's hosts in the order in which they are tried; read anew where they come from a file."""
        secret = self._secret("url")
        return [] if secret is None else [url.strip() for url in secret.reveal().split(",") if url.strip()]


class StoreTable(_Table):
    """Where cursor, mirror and outbox are kept."""

    url: Annotated[str, AfterValidator(_sqlite)] = "sqlite:///bridge.db"
    max_unsent_events: int = Field(1_000_000, ge=1)
    max_unsent_bytes: int = Field(2_000_000_000, ge=1)
    min_free_bytes: int = Field(200_000_000, ge=0)

    @property
    def path(self) -> Path:
        """The SQLite file."""
        return Path(self.url.removeprefix("sqlite:///"))


class ReplayTable(_Table):
    """How long published events are kept."""

    keep_days: float = Field(7, gt=0, le=3650)


class PublishTable(_Table):
    """Which fields leave, and which changes."""

    skip_unchanged: bool = False
    include: FieldNames = ()
    exclude: FieldNames = ()
    mask: FieldNames = ()

    @model_validator(mode="after")
    def _guid_stays(self) -> Self:
        if "guid" in (*self.exclude, *self.mask):
            raise ValueError("guid can be neither excluded nor masked: it is what an event is about")
        return self


class StatusTable(_Table):
    """The status page."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    token: SecretStr | None = None
    token_file: SecretFile | None = None
    hosts: tuple[str, ...] = ()
    """Names under which the page may be asked for, beside localhost and plain addresses; where there is no token."""
    max_unsent_age_seconds: float = Field(300, gt=0)
    max_walk_stall_seconds: float = Field(300, gt=0)

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
    endpoint: Annotated[str, _of_the_form(r"https?://\S+", "must look like http://collector:4318")] = (
        "http://localhost:4318"
    )


class LogTable(_Table):
    """Logs."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json"] = "auto"


class WalkTable(_Table):
    """Full walks, and what they may do."""

    nightly_at: Annotated[str, TimeOrNever] = "02:00"
    """Local time of the machine."""
    after_outage_minutes: float = Field(10, ge=0)
    quiet_from: Annotated[str, Time] | None = None
    quiet_until: Annotated[str, Time] | None = None
    deletion_walks: int = Field(2, ge=1, le=10)
    max_deleted_accounts: int = Field(20, ge=0)
    max_deleted_percent: float = Field(5, ge=0, le=100)


class PbxTable(_Table):
    """One PBX."""

    name: Annotated[SourceName, Name] = SourceName("pbx")
    url: Annotated[str, AfterValidator(_websocket)]
    app: str = Field(min_length=1)
    password: SecretStr | None = None
    password_file: SecretFile | None = Field(None, validate_default=True)
    poll_interval_seconds: float = Field(120, ge=0.1, le=3600)
    answer_timeout_seconds: float = Field(30, gt=0, le=600)
    connect_timeout_seconds: float = Field(20, gt=0, le=600)
    keepalive_seconds: float = Field(40, ge=1, le=600)
    min_spacing_seconds: float = Field(0, ge=0, le=60)
    max_rows_per_second: float = Field(0, ge=0)
    ask_ahead: int = Field(256, ge=1, le=10_000)
    max_message_bytes: int = Field(1 << 20, ge=1 << 14)
    ca_file: Path | None = None
    server_name: str | None = None

    @field_validator("password_file")
    @classmethod
    def _password_is_there(cls, file: Path | None, others: ValidationInfo) -> Path | None:
        if file is None and others.data.get("password") is None:
            raise ValueError("is missing, and so is password (BRIDGE_PBX_PASSWORD_FILE or BRIDGE_PBX_PASSWORD)")
        return file

    @property
    def full_url(self) -> str:
        """The URL with the usual path where none was given."""
        parts = urlsplit(self.url)
        return self.url if parts.path not in ("", "/") else parts._replace(path=DEFAULT_PATH).geturl()

    @property
    def secret(self) -> Secret:
        """The app password."""
        return self._secret("password") or Secret("")


class SubscriberTable(_Table):
    """A queue that is declared before its subscriber first connects, so that it misses nothing."""

    queue: str = Field(min_length=1, max_length=255)
    keys: tuple[str, ...] = ("*.account.*",)
    delivery_limit: int = Field(100, ge=1)
    queue_type: Literal["quorum", "classic"] = "quorum"


class Settings(_Table):
    """Everything an operator may say."""

    rabbitmq: RabbitMqTable = RabbitMqTable()
    store: StoreTable = StoreTable()
    replay: ReplayTable = ReplayTable()
    publish: PublishTable = PublishTable()
    status: StatusTable = StatusTable()
    log: LogTable = LogTable()
    traces: TracesTable = TracesTable()
    walk: WalkTable = WalkTable()
    pbx: tuple[PbxTable, ...] = ()
    subscriber: tuple[SubscriberTable, ...] = ()

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
        origins: dict[tuple[str | int, ...], str] = {}
        _overlay(tables, environment, mistakes, origins)
        settings = cls()
        try:
            settings = cls.model_validate(tables)
        except ValidationError as problems:
            where = _Where(file, text, origins)
            mistakes += [where.sentence(problem) for problem in problems.errors(include_url=False, include_input=False)]
        if require_pbx and not tables.get("pbx"):
            mistakes.append("no PBX is configured: set BRIDGE_PBX_URL, BRIDGE_PBX_APP and BRIDGE_PBX_PASSWORD_FILE")
        broker = tables.get("rabbitmq")
        if require_rabbitmq and not (isinstance(broker, Mapping) and {"url", "url_file"} & set(broker)):
            mistakes.append("no broker is configured: set BRIDGE_RABBITMQ_URL_FILE (or rabbitmq.url)")
        if mistakes:
            count = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
            raise BadConfig("\n  ".join([f"the configuration has {count}:", *mistakes]))
        return settings

    def secrets(self) -> Iterator[str]:
        """Yield every secret value, for the logs to hide."""
        for pbx in self.pbx:
            yield pbx.secret.reveal()
        for url in self.rabbitmq.urls:
            yield urlsplit(url).password or ""
        if self.status.secret is not None:
            yield self.status.secret.reveal()

    def redacted(self) -> dict[str, Any]:
        """Return the settings as shown to people."""
        shown = self.model_dump(mode="json", exclude_none=True)
        if self.rabbitmq.urls:
            shown["rabbitmq"]["url"] = ",".join(without_password(url) for url in self.rabbitmq.urls)
        for pbx in shown["pbx"]:
            if "password" in pbx:
                pbx["password"] = HIDDEN
        return shown


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
    origins: dict[tuple[str | int, ...], str],
) -> None:
    """Put ``BRIDGE_TABLE_KEY`` variables over *tables*; ``BRIDGE_PBX_…`` is the first PBX."""
    known = {
        f"{PREFIX}{table.upper()}_{key.upper()}": (table, key)
        for table, field in Settings.model_fields.items()
        for key in _keys_of(field.annotation)
        if table != "subscriber"
    }
    for variable, value in environment.items():
        if not variable.startswith(PREFIX) or variable == CONFIG_VARIABLE or variable.startswith(f"{PREFIX}TEST_"):
            continue
        if variable not in known:
            mistakes.append(f"{variable}: there is no such variable{_did_you_mean(variable, known)}")
            continue
        table, key = known[variable]
        path: tuple[str | int, ...] = (table, 0, key) if table == "pbx" else (table, key)
        target = tables.setdefault(table, [{}] if table == "pbx" else {})
        if isinstance(target, list):
            target = target[0] if target else None
        if not isinstance(target, dict):
            continue  # the file has something else under this name, which is a mistake of its own
        for other in (f"{key}_file", key.removesuffix("_file")):
            if other != key:
                target.pop(other, None)
        is_list = _is_list(table, key)
        target[key] = [part.strip() for part in value.split(",") if part.strip()] if is_list else value
        origins[path] = variable


def _keys_of(annotation: Any) -> Iterator[str]:
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, _Table):
            yield from candidate.model_fields


def _is_list(table: str, key: str) -> bool:
    return key in {"publish": {"include", "exclude", "mask"}, "status": {"hosts"}}.get(table, ())


class _Where:
    """Finds the place of a mistake: a variable, or a line of the file."""

    def __init__(self, file: Path | None, text: str, origins: Mapping[tuple[str | int, ...], str]) -> None:
        self._file = file
        self._origins = origins
        self._lines = dict(_lines(text))

    def sentence(self, problem: ErrorDetails) -> str:
        path = tuple(problem["loc"])
        key = ".".join(str(part) for part in path).replace(".0.", "[0].") or "settings"
        key = re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", key)
        return f"{self._place(path)}{key}: {_words(problem, path)}"

    def _place(self, path: tuple[str | int, ...]) -> str:
        if path in self._origins:
            return f"{self._origins[path]}: "
        while path and path not in self._lines:
            path = path[:-1]
        return f"{self._file}, line {self._lines[path]}: " if path else ""


def _lines(text: str) -> Iterator[tuple[tuple[str | int, ...], int]]:
    table: tuple[str | int, ...] = ()
    counts: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[\[\s*([\w.-]+)\s*\]\]", line):
            name = header[1]
            counts[name] = counts.get(name, -1) + 1
            table = (name, counts[name])
            yield table, number
        elif header := re.match(r"\s*\[\s*([\w.-]+)\s*\]", line):
            table = tuple(header[1].split("."))
            yield table, number
        elif key := re.match(r"\s*\"?([\w-]+)\"?\s*=", line):
            yield (*table, key[1]), number


_WORDS: Final = {
    "missing": "is missing",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "string_type": "must be a text in quotes",
    "tuple_type": "must be a list",
    "model_type": "must be a table",
    "path_type": "must be a path in quotes",
    "finite_number": "must be a number",
}


def _words(problem: ErrorDetails, path: tuple[str | int, ...]) -> str:
    kind, limits = problem["type"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        return f"there is no such key{_did_you_mean(str(path[-1]), _siblings(path))}"
    if kind == "value_error":
        return str(limits["error"])
    if kind in _WORDS:
        return _WORDS[kind]
    told = {
        "greater_than_equal": "must be at least {ge}",
        "less_than_equal": "must be at most {le}",
        "greater_than": "must be more than {gt}",
        "literal_error": "must be {expected}",
        "string_pattern_mismatch": "does not have the form {pattern}",
        "string_too_short": "must not be empty",
        "string_too_long": "must have at most {max_length} characters",
    }
    return told[kind].format(**limits) if kind in told else problem["msg"]


def _siblings(path: tuple[str | int, ...]) -> Sequence[str]:
    if len(path) == 1:
        return list(Settings.model_fields)
    field = Settings.model_fields.get(str(path[0]))
    return list(_keys_of(field.annotation)) if field is not None else []


def _did_you_mean(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
