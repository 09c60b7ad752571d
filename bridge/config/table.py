"""What several tables of the configuration have in common: secrets, TLS, and the forms of single values."""

import re
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from bridge.errors import BadConfig
from bridge.mistakes import did_you_mean
from bridge.normalize import FIELDS, OPTIONAL_FIELDS
from bridge.secret import Secret
from bridge.tls import Trust, client_context, read_fingerprint


def usable(try_it: Callable[[], object]) -> None:
    """Do *try_it*, and say what is wrong with it as pydantic wants to hear it."""
    try:
        try_it()
    except BadConfig as problem:
        raise ValueError(str(problem)) from problem


def of_the_form(pattern: str, words: str) -> AfterValidator:
    """Return what refuses a text that *pattern* does not match, with *words* about what is right."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(words)
        return value

    return AfterValidator(check)


def keep_guid(*lists: Sequence[str] | None) -> None:
    """Refuse *lists* of fields to be kept back that have the one field nobody can do without."""
    if any("guid" in (names or ()) for names in lists):
        raise ValueError("guid can be neither excluded nor masked: it is what an event is about")


def _names_fields(names: Sequence[str]) -> Sequence[str]:
    for name in names:
        if name not in (*FIELDS, *OPTIONAL_FIELDS):
            raise ValueError(f"{name!r} is no field of an account{did_you_mean(name, (*FIELDS, *OPTIONAL_FIELDS))}")
    return names


def _readable(file: Path) -> Path:
    usable(Secret(file=file).reveal)
    return file


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
Time = of_the_form(r"([01]\d|2[0-3]):[0-5]\d", "must be a time like 02:00")
TimeOrNever = of_the_form(r"([01]\d|2[0-3]):[0-5]\d|never", "must be a time like 02:00, or never")
Name = of_the_form(r"[a-z0-9][a-z0-9-]{0,39}", "must be lower-case letters, digits and dashes, at most 40")
Age = of_the_form(r"\d+[YMDhms]", "must be a number and one of Y M D h m s, like 30D")
FieldNames = Annotated[tuple[str, ...], AfterValidator(_names_fields)]


class Table(BaseModel):
    """A table of the file; every key that it does not know is a mistake."""

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

    @model_validator(mode="after")
    def _tls_can_be_used(self) -> Self:
        given = [name for name in ("ca_file", "fingerprint", "insecure") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(
                f"{' and '.join(given)}: only one of them can decide whom to believe; leave out the others"
            )
        if self.key_file is not None and self.certificate_file is None:
            raise ValueError("certificate_file is missing: key_file alone proves nothing")
        usable(lambda: client_context(self.trust))
        return self

    @property
    def trust(self) -> Trust:
        """The same, as a value."""
        pins = frozenset(map(read_fingerprint, self.fingerprint.split(","))) if self.fingerprint else frozenset[bytes]()
        return Trust(self.ca_file, self.server_name, pins, self.certificate_file, self.key_file, self.insecure)
