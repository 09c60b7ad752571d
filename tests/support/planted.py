"""Secrets that tests plant, and the search for them in everything that is written or printed.

Every password in a test contains ``s3cret``; every secret of a pretend PBX's account begins with the simulator's mark.
Both may stand in the files that a test makes to hold them, and nowhere else.
"""

from collections.abc import Iterator
from pathlib import Path

from bridge.simulator.people import MARK

MARKS = (b"s3cret", MARK.encode())
HOLDERS = (".toml", ".secret")
"""Endings of the files that hold secrets because a test put them there."""


def planted_in(data: bytes | str) -> str:
    """Return a planted secret in *data* with what stands around it; empty where there is none."""
    text = data.encode() if isinstance(data, str) else data
    for mark in MARKS:
        at = text.find(mark)
        if at >= 0:
            return text[max(0, at - 60) : at + 20].decode(errors="replace")
    return ""


def leaks(folder: Path) -> Iterator[str]:
    """Yield every file below *folder* that has a planted secret and is not meant to."""
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink() and file.suffix not in HOLDERS:
            found = planted_in(file.read_bytes())
            if found:
                yield f"{file}: …{found}…"
