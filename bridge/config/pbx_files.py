"""``fleet.pbx_dir``: a folder of files, each of them one PBX; a mistake in one of them is nobody else's trouble."""

import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from bridge.config.diagnostics import Places
from bridge.config.pbx_tables import PbxTable
from bridge.config.toml_files import read_toml
from bridge.errors import BadConfig
from bridge.events.wording import clean
from bridge.model import SourceName

SUFFIX: Final = ".toml"

MAX_FILE_BYTES: Final = 1 << 16
"""Of one PBX. What is larger is another file than was meant."""


def read_pbx_files(folder: Path, taken: Collection[SourceName]) -> tuple[Mapping[Path, PbxTable], Mapping[Path, str]]:
    """Return the PBXs in *folder* by their files, and what is wrong with each file that is none; *taken* are names.

    Raises:
        BadConfig: the folder cannot be read.

    """
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix == SUFFIX and not file.name.startswith("."))
    except OSError as problem:
        raise BadConfig(f"fleet.pbx_dir: the folder {folder} cannot be read: {problem.strerror}") from problem
    pbxs: dict[Path, PbxTable] = {}
    unusable: dict[Path, str] = {}
    names: dict[SourceName, str] = dict.fromkeys(taken, "the configuration")
    for file in files:
        try:
            pbx = _read(file)
        except BadConfig as problem:
            unusable[file] = clean(str(problem))
            continue
        if pbx.name in names:
            unusable[file] = clean(
                f"{file}: {names[pbx.name]} has a PBX called {pbx.name!r}, too; each needs a name of its own"
            )
        else:
            pbxs[file], names[pbx.name] = pbx, str(file)
    return pbxs, unusable


def _read(file: Path) -> PbxTable:
    _refuse_what_is_no_file(file)
    text, table = read_toml(file)
    if "pbx" in table:
        raise BadConfig(f"{file}: leave the line [[pbx]] out: each file is one PBX, as a whole")
    given: dict[str, Any] = {"name": file.stem, **table}
    try:
        return PbxTable.model_validate(given)
    except ValidationError as problems:
        where = Places(file, text, {}, lambda _key: list(PbxTable.model_fields))
        mistakes = [where.sentence(problem) for problem in problems.errors(include_url=False, include_input=False)]
        # One that stands in no line has no place.
        told = [mistake if mistake.startswith(str(file)) else f"{file}: {mistake}" for mistake in mistakes]
        raise BadConfig("; ".join(told)) from None


def _refuse_what_is_no_file(file: Path) -> None:
    """Return if *file* can be read to its end: a pipe would be waited for, for ever, and by all PBXs."""
    try:
        found = file.stat()
    except OSError:
        return  # whoever reads it says why
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise BadConfig(f"{file} is no file that holds a PBX")
    if found.st_size > MAX_FILE_BYTES:
        raise BadConfig(f"{file} has more than {MAX_FILE_BYTES} bytes; is it the right file?")
