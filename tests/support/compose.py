"""compose.yaml, taken apart: its services as text, and what its ``setup`` makes."""

import json
import os
import re
import stat
import textwrap
from pathlib import Path
from typing import Any

TEXT = (Path(__file__).parents[2] / "compose.yaml").read_text("utf-8")


def services() -> dict[str, str]:
    """Return the lines of each service."""
    part = TEXT.partition("\nservices:\n")[2].partition("\nvolumes:\n")[0]
    return dict(re.findall(r"^  (\w+):\n((?:    .*\n|\n)+)", f"{part}\n", re.MULTILINE))


def setup_script() -> str:
    """Return the program that ``setup`` runs, as compose hands it over."""
    program = re.search(r"      - \|\n((?:        .*\n|\n)+)", services()["setup"])
    assert program is not None
    return textwrap.dedent(program[1]).replace("$$", "$")


class Made:
    """What ``setup`` made in *folder*, which stands for the roots of its volumes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.owners: dict[str, int] = {}
        for name in ("broker", "bridge", "subscriber", "scrape", "database"):
            (folder / name).mkdir(exist_ok=True)

    def run(self) -> None:
        """Run it once more; nobody is given anything, only who would be is noted."""
        mask = os.umask(0o077)
        change, os.chown = os.chown, self._note  # type: ignore[assignment]
        try:
            program = setup_script().replace('Path("/', f'Path("{self.folder}/')
            exec(compile(program, "setup.py", "exec"), {"__name__": "__main__"})  # noqa: S102 - that is the point
        finally:
            os.chown = change
            os.umask(mask)

    def _note(self, path: Path, owner: int, group: int) -> None:
        assert owner == group
        self.owners[str(path.relative_to(self.folder)).removesuffix(".new")] = owner

    @property
    def files(self) -> dict[str, tuple[int, int]]:
        """Owner and mode of each."""
        found = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {
            (name := str(path.relative_to(self.folder))): (
                self.owners.get(name, -1),
                stat.S_IMODE(path.stat().st_mode),
            )
            for path in found
        }

    def read(self, name: str) -> str:
        return (self.folder / name).read_text()

    @property
    def definitions(self) -> dict[str, Any]:
        return dict(json.loads(self.read("broker/definitions.json")))

    def rights(self, user: str) -> tuple[str, str, str]:
        """What *user* may configure, write and read at the broker."""
        (found,) = (each for each in self.definitions["permissions"] if each["user"] == user)
        return found["configure"], found["write"], found["read"]
