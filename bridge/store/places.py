"""Where a store is, whichever engine keeps it: how it is opened, looked into, and what stands beside it."""

import contextlib
import hashlib
import os
import socket
import stat
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from bridge.errors import BadConfig
from bridge.store.sqlite.files import close_to_others
from bridge.store.sqlite.reader import StoreReader
from bridge.store.sqlite.store import SqliteStore
from bridge.store.tables.reader import TableReader
from bridge.store.tables.store import TableStore

if TYPE_CHECKING:
    from bridge.store.postgres.checking import Remark
    from bridge.store.postgres.connecting import Database

BRIDGE_PATIENCE_SECONDS: Final = 10 * 365 * 86_400.0
"""How long a running bridge waits for its database."""
BRIDGE_OPENING_SECONDS: Final = 120.0
"""And when it starts, also for another bridge that was killed."""


def own_folder() -> Path:
    """Return the folder for what a bridge of this user has on this machine while it runs."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime or tempfile.gettempdir()) / f"account-bridge-{os.geteuid()}"


class StorePlace(Protocol):
    """Where a store is; as a text without any password."""

    def store(self, *, of_bridge: bool = False) -> TableStore:
        """Return the store, closed; that of a bridge is patient."""

    def reader(self) -> TableReader:
        """Return a look into it."""

    def exists(self) -> bool:
        """Tell whether there may be one; False where there is certainly none."""

    def prepare(self) -> Sequence[str]:
        """See to what stands beside it before a bridge opens it, and return what was done, in sentences."""

    def shadow(self) -> "StorePlace":
        """Return the place of a store for a bridge that only tries."""

    @property
    def socket(self) -> Path:
        """Where a running bridge listens to commands."""

    @property
    def own_socket(self) -> Path:
        """The same for the bridge that is this very process."""


@dataclass(frozen=True, slots=True)
class SqlitePlace:
    """A file."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def store(self, *, of_bridge: bool = False) -> SqliteStore:  # noqa: ARG002 - a file is there or not
        """Return the store, closed."""
        return SqliteStore(self.path)

    def reader(self) -> StoreReader:
        """Return a look into it."""
        return StoreReader(self.path)

    def exists(self) -> bool:
        """Tell whether there is one."""
        return self.path.exists()

    def prepare(self) -> Sequence[str]:
        """Close its files to other users, and return what was done, in sentences."""
        return close_to_others(self.path)

    def shadow(self) -> "SqlitePlace":
        """Return the file beside it, for a bridge that only tries."""
        return SqlitePlace(self.path.with_name(f"{self.path.name}.shadow"))

    @property
    def socket(self) -> Path:
        """The socket file beside it."""
        return self.path.with_name(f"{self.path.name}.sock")

    @property
    def own_socket(self) -> Path:
        """The same: one bridge has it at a time."""
        return self.socket


@dataclass(frozen=True, slots=True)
class PostgresPlace:
    """A database; *parameters* are asked for at every connection, as libpq wants to hear them."""

    database: "Database"
    lease_seconds: float = 15.0
    loses_nothing: bool = False
    is_shared: bool = False
    """True where several bridges work on it."""
    folder: Path = field(default_factory=own_folder)

    def __str__(self) -> str:
        return self.database.place

    def store(self, *, of_bridge: bool = False) -> TableStore:
        """Return the store, closed; that of a bridge waits until its database answers."""
        from bridge.store.postgres.store import PostgresStore, StoreOptions  # noqa: PLC0415 - needs "postgres"

        options = StoreOptions(self.lease_seconds, loses_nothing=self.loses_nothing)
        if of_bridge:
            options = replace(options, patience_seconds=BRIDGE_PATIENCE_SECONDS, opening_seconds=BRIDGE_OPENING_SECONDS)
            if self.is_shared:
                from bridge.store.postgres.shared import SharedStore  # noqa: PLC0415 - the same

                return SharedStore(self.database, options)
        return PostgresStore(self.database, options)

    def reader(self) -> TableReader:
        """Return a look into it."""
        from bridge.store.postgres.reader import PostgresReader  # noqa: PLC0415 - needs the extra "postgres"

        return PostgresReader(self.database)

    def check(self) -> "tuple[str, list[Remark]]":
        """Return which server it is on, and what is to be said about how that is set up.

        Raises:
            StoreUnreachable: it cannot be reached.
            StoreRefusedLogin: it does not let us in.

        """
        from bridge.store.postgres.checking import check_database  # noqa: PLC0415 - needs the extra "postgres"

        return check_database(self.database, loses_nothing=self.loses_nothing)

    def exists(self) -> bool:
        """Nobody can tell without asking."""
        return True

    def prepare(self) -> Sequence[str]:
        """Make the folder of the socket, and remove those of bridges that were killed.

        Raises:
            BadConfig: it is somebody else's.

        """
        self.folder.mkdir(mode=0o700, exist_ok=True)
        found = self.folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise BadConfig(f"{self.folder} is not ours alone: somebody else may have put it there. Remove it")
        for path in self.folder.glob(f"{self._name}-*.sock"):
            if not _listens(path):
                path.unlink(missing_ok=True)
        return ()

    def shadow(self) -> SqlitePlace:
        """Return a file of this machine, for a bridge that only tries."""
        self.prepare()
        return SqlitePlace(self.folder / f"{self._name}.shadow")

    @property
    def socket(self) -> Path:
        """A socket file on this machine; where several bridges run here, of one of them that listens."""
        found = sorted(self.folder.glob(f"{self._name}-*.sock")) if self.is_shared else ()
        return next((path for path in found if _listens(path)), self.folder / f"{self._name}.sock")

    @property
    def own_socket(self) -> Path:
        """The same for this process, beside which others may run here."""
        own = hashlib.sha256(f"{socket.gethostname()}/{os.getpid()}".encode()).hexdigest()[:8]  # a folder may be shared
        return self.folder / f"{self._name}-{own}.sock" if self.is_shared else self.socket

    @property
    def _name(self) -> str:
        return hashlib.sha256(self.database.place.encode()).hexdigest()[:16]


def _listens(path: Path) -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(1)
        asking.connect(os.fspath(path))
        return True
    return False


def postgres_place(  # noqa: PLR0913 - what an operator may say about it
    parameters: Callable[[], "dict[str, str]"],
    shown: str,
    *,
    is_pooled: bool,
    lease_seconds: float,
    loses_nothing: bool,
    is_shared: bool = False,
) -> PostgresPlace:
    """Return the place of a database.

    Raises:
        BadConfig: the package for it is not installed.

    """
    try:
        from bridge.store.postgres.connecting import Database  # noqa: PLC0415 - needs the extra "postgres"
    except ImportError as problem:
        raise BadConfig(
            "a store in PostgreSQL needs a package that is not installed: pip install 'pbx-account-bridge[postgres]'"
        ) from problem
    database = Database(parameters, shown, is_pooled=is_pooled)
    return PostgresPlace(database, lease_seconds, loses_nothing, is_shared)
