"""The statements and migrations of the store in SQLite's SQL."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from bridge.store.tables.statements import Migration, read_migrations, read_queries


@cache
def queries() -> Mapping[str, str]:
    """Return every statement by its name."""
    return read_queries(files(__name__))


@cache
def migrations() -> tuple[Migration, ...]:
    """Return the migrations in the order in which they are applied."""
    return read_migrations(files(__name__))
