"""What several tables of the configuration have in common: secrets, TLS, and the forms of single values."""

import re
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from bridge.config.diagnostics import did_you_mean
from bridge.errors import BridgeError
from bridge.events.normalize import FIELDS, OPTIONAL_FIELDS
from bridge.security.secret import NotThere, Secret, read_content
from bridge.security.tls import ClientTls, Trust, read_fingerprint
from bridge.security.urls import ENCODE, Url, read_host, read_url, split_urls

_MOST: Final[Mapping[str, float]] = {
    # A year, and ten: more than anybody means, and within what clocks and calendars of this language can do.
    "seconds": 31_536_000,
    "minutes": 525_600,
    "days": 3650,
}
_MOST_OF_ALL: Final = 1 << 53
"""Of any other number: up to here they are the same in JSON, in SQLite and at the broker."""

_MAX_TEXT_CHARACTERS: Final = 4096
"""Of any text: as much as the path of a file."""

MAX_NAME_BYTES: Final = 255
"""AMQP 0-9-1, section 4.2.5.3: a short string, which every name and every key is."""

MAX_EXCHANGE_CHARACTERS: Final = 127
"""Of an exchange and of a virtual host; what the client library, by the domains of AMQP 0-9-1, lets pass."""

_AMQP_NAME: Final = r"[A-Za-z0-9_.:@#,/+ -]+"
"""Of a queue or an exchange; AMQP 0-9-1 has fewer, the client library lets these pass."""


def usable(try_it: Callable[[], object]) -> None:
    """Do *try_it*, and say what is wrong with it as pydantic wants to hear it."""
    try:
        try_it()
    except BridgeError as problem:
        raise ValueError(str(problem)) from problem


def of_the_form(pattern: str, words: str) -> AfterValidator:
    """Return what refuses a text that *pattern* does not match, with *words* about what is right."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(words)
        return value

    return AfterValidator(check)


def check_kept_back(excluded: Sequence[str] | None, masked: Sequence[str] | None) -> None:
    """Refuse to keep back the one field nobody can do without, and to mask one that no mask would hide."""
    if any("guid" in (names or ()) for names in (excluded, masked)):
        raise ValueError("guid can be neither excluded nor masked: it is what an event is about")
    if "hidden" in (masked or ()):
        raise ValueError("hidden cannot be masked: of yes and no, a mask hides neither. Exclude it")


def _names_fields(names: Sequence[str]) -> Sequence[str]:
    for name in names:
        if name not in (*FIELDS, *OPTIONAL_FIELDS):
            raise ValueError(f"{name!r} is no field of an account{did_you_mean(name, (*FIELDS, *OPTIONAL_FIELDS))}")
    return names


def _readable(file: Path) -> Path:
    usable(Secret(file=file).reveal)
    return file


def holding(check: Callable[[str], object] = lambda _content: None) -> AfterValidator:
    """Return what refuses a file whose content is no secret, or one that *check* raises a ``ValueError`` about.

    A file that is missing, empty or not to be read is none of its business: that is the trouble of whoever needs it,
    for as long as it lasts.
    """

    def look(file: Path) -> Path:
        try:
            check(read_content(file))
        except NotThere:
            pass
        except ValueError as problem:
            raise ValueError(f"the secret in {file} {problem}") from None
        return file

    return AfterValidator(look)


def parse_url(text: str, schemes: Sequence[str], words: str) -> Url:
    """Return the parts of the URL in *text*.

    Raises:
        ValueError: it is none; with *words* about what is right, and nothing of it.

    """
    try:
        return read_url(text, schemes)
    except ValueError as problem:
        hint = f". If a password is in it, {ENCODE}" if "@" in text else ""
        reason = f" (it {problem})" if text.partition("://")[0] in schemes else ""
        raise ValueError(f"{words}{reason}{hint}") from None


def parse_urls(text: str, schemes: Sequence[str], words: str) -> Sequence[Url]:
    """Return the parts of the URLs in *text*, which separates them by commas; raises as ``parse_url`` does."""
    return [parse_url(one, schemes, words) for one in split_urls(text)]


def check_name(name: str, room: int, *, most: int = MAX_NAME_BYTES, what: str) -> None:
    """Return if *name* may have what we add to it, *room* bytes for *what*, and AMQP can still carry it.

    Raises:
        ValueError: it cannot; with what is wrong.

    """
    size = len(name.encode("utf-8", "replace"))
    if size > most - room:
        raise ValueError(f"has {size} bytes; at most {most - room} are possible, since {what}")
    if not re.fullmatch(_AMQP_NAME, name):
        raise ValueError("may have letters from A to Z, digits, blanks and the signs _ . : @ # , / + - only, and one")


def short(text: str) -> None:
    """Return if AMQP can carry *text* as a key.

    Raises:
        ValueError: it cannot; with what is wrong.

    """
    size = len(text.encode("utf-8", "replace"))
    if size > MAX_NAME_BYTES:
        raise ValueError(f"has {size} bytes; AMQP carries at most {MAX_NAME_BYTES}")


def checked(check: Callable[[str], None]) -> AfterValidator:
    """Return what refuses a text that *check* raises a ``ValueError`` about."""

    def look(text: str) -> str:
        check(text)
        return text

    return AfterValidator(look)


def _fingerprints(text: str) -> str:
    for one in text.split(","):
        read_fingerprint(one)
    return text


def _one_fingerprint(text: str) -> str:
    read_fingerprint(text)
    return text


def _networks(texts: Sequence[str]) -> Sequence[str]:
    usable_as = "must be an address, or a network like 10.0.0.0/8"
    for text in texts:
        try:
            ip_network(text)
        except ValueError:
            raise ValueError(f"{text!r} {usable_as}") from None
    return texts


Networks = Annotated[tuple[str, ...], AfterValidator(_networks)]
Fingerprint = Annotated[str, AfterValidator(_one_fingerprint)]
SecretFile = Annotated[Path, AfterValidator(_readable)]
"""Nothing goes without it."""
OwnSecretFile = Annotated[Path, holding()]
"""One PBX, or one App object, does not go without it, while all others do."""
Time = of_the_form(r"([01][0-9]|2[0-3]):[0-5][0-9]", "must be a time like 02:00")
TimeOrNever = of_the_form(r"([01][0-9]|2[0-3]):[0-5][0-9]|never", "must be a time like 02:00, or never")
ReadyWhen = of_the_form(r"all|any|([1-9][0-9]?|100)%", "must be all, any, or a share like 50%")
Name = of_the_form(r"[a-z0-9][a-z0-9-]{0,39}", "must be lower-case letters, digits and dashes, at most 40")
Age = of_the_form(r"[0-9]{1,9}[YMDhms]", "must be a number and one of Y M D h m s, like 30D")
FieldNames = Annotated[tuple[str, ...], AfterValidator(_names_fields)]


class Table(BaseModel):
    """A table of the file; every key that it does not know is a mistake."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )
    _secrets: dict[str, Secret] = PrivateAttr(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _one_place_for_each_secret(cls, given: Any) -> Any:
        if isinstance(given, Mapping):
            for name in given:
                if f"{name}_file" in given:
                    raise ValueError(f"give {name} or {name}_file, not both")
        return given

    @field_validator("*")
    @classmethod
    def _is_within_reason(cls, value: Any, about: ValidationInfo) -> Any:
        name = about.field_name or ""
        if isinstance(value, int | float):
            most = _MOST.get(name.rpartition("_")[2], _MOST_OF_ALL)
            if value > most:
                raise ValueError(f"must be at most {most}")
        for text in value if isinstance(value, tuple) else (value,):
            _plain(text.get_secret_value() if isinstance(text, SecretStr) else text)
        if name == "host":
            read_host(value)
        return value

    def get_secret(self, name: str, check: Callable[[str], object] = lambda _content: None) -> Secret | None:
        """Return the secret that *name* or its file holds, always the same object; *check* as for ``Secret``."""
        value, file = getattr(self, name), getattr(self, f"{name}_file")
        if file is None and value is None:
            return None
        if name not in self._secrets:
            given = None if value is None else value.get_secret_value()
            self._secrets[name] = Secret(given, file=file, check=check)
        return self._secrets[name]


def _plain(text: Any) -> None:
    if isinstance(text, Path):
        text = str(text)
    if isinstance(text, str):
        if len(text) > _MAX_TEXT_CHARACTERS:
            raise ValueError(f"must have at most {_MAX_TEXT_CHARACTERS} characters")
        if any(ord(character) < ord(" ") or character == "\x7f" for character in text):
            raise ValueError("has control characters in it, a line end perhaps")


class TlsTable(Table):
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

    _tls: list[ClientTls] = PrivateAttr(default_factory=list)

    @model_validator(mode="after")
    def _tls_makes_sense(self) -> Self:
        given = [name for name in ("ca_file", "fingerprint", "insecure") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(
                f"{' and '.join(given)}: only one of them can decide whom to believe; leave out the others"
            )
        if self.key_file is not None and self.certificate_file is None:
            raise ValueError("certificate_file is missing: key_file alone proves nothing")
        return self

    @property
    def tls(self) -> ClientTls:
        """TLS for connections to the other end, always the same object; files are looked at when they are needed."""
        if not self._tls:
            self._tls.append(ClientTls(self.trust))
        return self._tls[0]

    @property
    def trust(self) -> Trust:
        """The same, as a value."""
        pins = frozenset(map(read_fingerprint, self.fingerprint.split(","))) if self.fingerprint else frozenset[bytes]()
        return Trust(self.ca_file, self.server_name, pins, self.certificate_file, self.key_file, self.insecure)
