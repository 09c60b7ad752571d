"""The statements and migrations of the store in PostgreSQL's SQL."""

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Final

from bridge.store.tables.statements import Migration, read_migrations, read_queries

_PARAMETER: Final = re.compile(r"(?<!:):([a-z]\w*)")
"""As SQLite writes it; two colons are a cast."""
_WORKS_FOR: Final = re.compile(r"^-- works for: (\d+)$", re.MULTILINE)


@cache
def queries() -> Mapping[str, bytes]:
    """Return every statement by its name, with parameters as psycopg writes them."""
    found = read_queries(files(__name__))
    return {name: _PARAMETER.sub(r"%(\1)s", statement).encode() for name, statement in found.items()}


@cache
def migrations() -> tuple[Migration, ...]:
    """Return the migrations in the order in which they are applied."""
    return read_migrations(files(__name__))


def works_for(migration: Migration) -> int:
    """Return the oldest tables whose bridges can still work with what comes of *migration*."""
    found = _WORKS_FOR.search(migration.statements)
    return migration.number if found is None else int(found[1])
