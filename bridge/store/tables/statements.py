"""Statements and migrations as SQL files, which have names and a history."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import Final

_NAME: Final = re.compile(r"^-- (\w+): ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Migration:
    """One step in the history of the tables."""

    number: int
    name: str
    statements: str


def read_queries(folder: Traversable) -> Mapping[str, str]:
    """Return every statement of the files in *folder* by its name."""
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    parts = [part for file in files for part in _NAME.split(file.read_text("utf-8"))[1:]]
    return {
        name: body.split("\n", 1)[1].strip().rstrip(";") for name, body in zip(parts[::2], parts[1::2], strict=True)
    }


def read_migrations(folder: Traversable) -> tuple[Migration, ...]:
    """Return the migrations in the order in which they are applied."""
    found = []
    for file in (folder / "migrations").iterdir():
        number, _, name = file.name.removesuffix(".sql").partition("_")
        if number.isdigit():
            found.append(Migration(int(number), name, file.read_text("utf-8")))
    return tuple(sorted(found, key=lambda migration: migration.number))
