"""Rows as both engines give them: by number, by name, and one after the other."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from psycopg import Cursor


class Row(tuple[Any, ...]):
    """One row; a class for each list of names is made by ``row_class``."""

    __slots__ = ()
    _places: dict[str, int] = {}  # noqa: RUF012 - each class has its own

    def __getitem__(self, which: Any) -> Any:
        """Return a value by its name, or by its number."""
        return tuple.__getitem__(self, self._places[which] if isinstance(which, str) else which)

    def keys(self) -> Iterator[str]:
        """Return the names, so that a row can be made a dictionary."""
        return iter(self._places)


@lru_cache(maxsize=256)
def row_class(names: tuple[str, ...]) -> type[Row]:
    """Return the class of rows that have these names."""
    return type("Row", (Row,), {"__slots__": (), "_places": {name: place for place, name in enumerate(names)}})


def named_rows(cursor: Cursor[Any]) -> Callable[[Sequence[Any]], Row]:
    """Make the rows of a cursor; psycopg's row factory."""
    described = cursor.description
    return row_class(tuple(column.name for column in described)) if described else Row
