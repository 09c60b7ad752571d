"""The table about the store."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, Field, SecretStr

from bridge.config.base import Table, holding
from bridge.errors import FileUnusable
from bridge.security.database_url import SCHEMES, read_database_url
from bridge.security.secret import Secret
from bridge.security.urls import ENCODE, read_scheme

SQLITE: Final = "sqlite:///"
DEFAULT: Final = "sqlite:///bridge.db"


def is_postgres(url: str) -> bool:
    """Tell whether *url* names a database of PostgreSQL."""
    return read_scheme(url) in SCHEMES


def check_store(text: str) -> None:
    """Return if *text* is the URL of a store.

    Raises:
        ValueError: it is none, in words that do not show it.

    """
    if is_postgres(text):
        try:
            read_database_url(text)
        except ValueError as problem:
            words = f"must look like postgresql://user:password@host:5432/database (it {problem})"
            raise ValueError(f"{words}. If a password is in it, {ENCODE}") from None
    elif not text.startswith(SQLITE) or not text.removeprefix(SQLITE):
        raise ValueError(
            "must look like sqlite:///bridge.db, sqlite:////var/lib/bridge.db (four slashes), or "
            "postgresql://user:password@host:5432/database"
        )


def _checked(url: SecretStr) -> SecretStr:
    check_store(url.get_secret_value())
    return url


class StoreTable(Table):
    """Where cursor, mirror and outbox are kept."""

    url: Annotated[SecretStr, AfterValidator(_checked)] | None = None
    """sqlite:///bridge.db (the default; four slashes before an absolute path), or postgresql://user:password@host/db."""
    url_file: Annotated[Path, holding(check_store)] | None = None
    """A file with that, read again at every connection."""
    max_unsent_events: int = Field(1_000_000, ge=1)
    """With so many events waiting, the PBXs are read no further."""
    max_unsent_bytes: int = Field(2_000_000_000, ge=1)
    """The same for their size."""
    min_free_bytes: int = Field(200_000_000, ge=0)
    """The same for what the disk has left; of PostgreSQL nobody can see that."""
    lease_seconds: float = Field(15, ge=5, le=120)
    """PostgreSQL: a bridge that was not heard of for so long has lost the store to the next one."""
    shared: bool = False
    """PostgreSQL: several bridges work on it. Each has some of the PBXs, and takes over those of one that ends."""
    through_pooler: bool = False
    """PostgreSQL: it is reached through pgbouncer, or another that gives each transaction a session of its own."""
    failover_loses_nothing: bool = False
    """PostgreSQL: standbys are synchronous, so a failover is no reason to tell everything anew."""

    @property
    def secret(self) -> Secret | None:
        """What the URL is read of; ``None`` for the default."""
        return self.get_secret("url", check_store)

    def read_url(self) -> str:
        """Return the URL; read anew where it comes from a file.

        Raises:
            FileUnusable: the file holds none, and never did since the start.

        """
        secret = self.secret
        return DEFAULT if secret is None else secret.reveal()

    @property
    def insecurity(self) -> str:
        """What is insecure about the way to it, as a sentence without its end; empty where nothing is."""
        with suppress(FileUnusable):  # whoever needs it will say so
            url = self.read_url()
            return read_database_url(url).insecurity if is_postgres(url) else ""
        return ""

    @property
    def shown(self) -> str:
        """The URL without its password; a word about its file where that cannot be read."""
        try:
            url = self.read_url()
        except FileUnusable as problem:
            return str(problem)
        return str(read_database_url(url)) if is_postgres(url) else url
