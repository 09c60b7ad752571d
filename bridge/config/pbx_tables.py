"""The tables about PBXs, whoever of the two dials."""

import socket
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator, model_validator

from bridge.config.base import (
    FieldNames,
    Fingerprint,
    Name,
    Networks,
    OwnSecretFile,
    Table,
    TlsTable,
    check_kept_back,
    checked,
    parse_url,
    usable,
)
from bridge.model import SourceName
from bridge.security.names import without_case
from bridge.security.secret import Secret
from bridge.security.tls import ServerCertificate, read_fingerprint

DEFAULT_PATH: Final = "/PBX0/APPS/websocket"


WEBSOCKET_SCHEMES: Final = ("ws", "wss")


def check_websocket(url: str) -> None:
    """Return if *url* is that of a WebSocket.

    Raises:
        ValueError: it is not; in words that do not show it.

    """
    parse_url(url, WEBSOCKET_SCHEMES, f"must look like wss://pbx.example.com{DEFAULT_PATH}")


def _from_root(path: str) -> str:
    if not path.startswith("/") or "?" in path or "#" in path:
        raise ValueError("must be the path of a URL, like /pbx")
    return path.rstrip("/")


class PaceTable(Table):
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


class PbxTable(TlsTable, PaceTable):
    """One PBX that we dial."""

    name: Annotated[SourceName, Name] = SourceName("pbx")
    """What it is called in events, routing keys and commands."""
    url: Annotated[str, checked(check_websocket)]
    """Its address; the usual path is added where none is given."""
    app: str = Field(min_length=1)
    """The Name of the App object."""
    password: SecretStr | None = None
    """The Password of the App object."""
    password_file: OwnSecretFile | None = Field(None, validate_default=True)
    """A file with that, read again at every login."""
    connect_timeout_seconds: float = Field(20, gt=0, le=600)
    """How long connecting may take."""
    record_frames: int = Field(0, ge=0, le=100_000)
    """So many of the last messages are kept for account-bridge support-bundle, under pseudonyms when they leave."""

    observation_file: Path | None = None
    """What account-bridge observe --json wrote about it. What it does otherwise is a warning, and nothing else."""

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
    def _keeps_back_what_it_can(self) -> Self:
        check_kept_back(self.exclude, self.mask)
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
        return self.get_secret("password") or Secret("")


class AppTable(Table):
    """An App object whose PBXs dial us."""

    name: str = Field(min_length=1)
    """The Name of the App object, capitals and all."""
    domain: str | None = Field(None, min_length=1)
    """Only PBXs of this System Name, and for those no other entry of this name."""
    password: SecretStr | None = None
    """The Password of the App object."""
    password_file: OwnSecretFile | None = Field(None, validate_default=True)
    """A file with that, read again at every login."""
    pbxs: tuple[str, ...] = ()
    """Only PBXs of these names, so that whoever has this password cannot speak for others; by default any."""
    client_fingerprint: Fingerprint | None = None
    """Only with this client certificate (its SHA-256); needs listen.client_ca_file."""

    @property
    def pin(self) -> bytes | None:
        """The fingerprint of the client's certificate, where one is asked for."""
        return None if self.client_fingerprint is None else read_fingerprint(self.client_fingerprint)

    @field_validator("password_file")
    @classmethod
    def _password_is_there(cls, file: Path | None, others: ValidationInfo) -> Path | None:
        if file is None and not (others.data.get("password") or SecretStr("")).get_secret_value():
            raise ValueError("is missing, and so is password")
        return file

    @property
    def secret(self) -> Secret:
        """The password of the App object."""
        return self.get_secret("password") or Secret("")


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
    client_ca_file: Path | None = None
    """Ask PBXs for a certificate of their own, and believe those that these sign, or that stand in it themselves."""
    insecure: bool = False
    """Do without TLS, for a laboratory, or behind a proxy on another machine."""
    proxies: Networks = ()
    """Addresses of proxies that say from where a PBX dials, by Forwarded or X-Forwarded-For. Only they are believed."""
    proxy_protocol: bool = False
    """They say it by the PROXY protocol, at the start of each connection, instead."""
    login_timeout_seconds: float = Field(10, gt=0, le=120)
    """For the TLS handshake, for the opening of the WebSocket and for the login, each."""
    max_connections: int = Field(1000, ge=1)
    """At a time."""
    max_connections_per_address: int = Field(64, ge=1)
    """At a time, from one address (of IPv6, one /64 network)."""
    max_unauthenticated: int = Field(128, ge=1)
    """At a time, not logged in; of more the oldest go."""
    new_pbxs: Literal["admit", "ask"] = "admit"
    """ask: a PBX that never dialled before is let in once you say so, by account-bridge admit."""
    max_new_pbxs_per_hour: int = Field(100, ge=1)
    """Of PBXs that never dialled before."""
    max_pbxs: int = Field(1000, ge=1)
    """PBXs that dialled in the last forget_after_days; with so many, no new one is let in."""
    record_frames: int = Field(0, ge=0, le=100_000)
    """As in [[pbx]], so many of each PBX, each with memory of its own."""
    observation_dir: Path | None = None
    """A folder of what account-bridge observe --json wrote about PBXs that dial: hq-0123456789.json for that source."""
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
        seen = [(app.name, without_case(app.domain or "")) for app in apps]
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
            certificate, key, clients = self.certificate_file, self.key_file, self.client_ca_file
            usable(lambda: ServerCertificate(certificate, key, clients))
        return self

    @model_validator(mode="after")
    def _client_certificates_can_be_seen(self) -> Self:
        if self.client_ca_file is not None and self.certificate_file is None:
            raise ValueError("client_ca_file needs certificate_file: without TLS no certificate is shown")
        if self.client_ca_file is None and any(app.client_fingerprint is not None for app in self.app):
            raise ValueError(
                "client_ca_file is missing: an app has a client_fingerprint, so PBXs have to be asked for a certificate"
            )
        return self

    @model_validator(mode="after")
    def _proxies_are_known(self) -> Self:
        if self.proxy_protocol and not self.proxies:
            raise ValueError("proxies is missing: whose PROXY protocol is to be believed?")
        if self.proxy_protocol and not hasattr(socket, "TCP_DEFER_ACCEPT"):
            raise ValueError("proxy_protocol needs Linux; let the proxy send Forwarded instead")
        return self

    @property
    def url(self) -> str:
        """What to enter in the PBX, but for the host's name."""
        scheme = "ws" if self.certificate_file is None else "wss"
        return f"{scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}{self.path}"
