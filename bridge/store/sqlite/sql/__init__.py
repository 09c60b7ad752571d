"""The statements and migrations of the store, as SQL files that have names and a history."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

_NAME: Final = re.compile(r"^-- (\w+): ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Migration:
    """One step in the history of the tables."""

    number: int
    name: str
    statements: str


@cache
def queries() -> Mapping[str, str]:
    """Return every statement of ``queries.sql`` by its name."""
    text = (files(__name__) / "queries.sql").read_text("utf-8")
    parts = _NAME.split(text)[1:]
    return {
        name: body.split("\n", 1)[1].strip().rstrip(";") for name, body in zip(parts[::2], parts[1::2], strict=True)
    }


@cache
def migrations() -> tuple[Migration, ...]:
    """Return the migrations in the order in which they are applied."""
    found = []
    for file in (files(__name__) / "migrations").iterdir():
        number, _, name = file.name.removesuffix(".sql").partition("_")
        if number.isdigit():
            found.append(Migration(int(number), name, file.read_text("utf-8")))
    return tuple(sorted(found, key=lambda migration: migration.number))
