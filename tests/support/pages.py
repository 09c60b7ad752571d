"""The pages: README.md, and those beside the code it tells of.

Some of what they say is made of the code and written by ``python -m tests.support.pages``: the tables of settings, the
picture of the conversation with a PBX, the table of what a PBX may do, and the file behind the name of each test.
``tests/contract/test_pages.py`` fails where that was not run.
"""

import inspect
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bridge.config.descriptions import describe, tables_of
from bridge.config.settings import Settings
from bridge.pbx.wire.protocol import TABLE
from bridge.simulator.modes import DEFAULT

ROOT: Final = Path(__file__).parents[2]
README: Final = ROOT / "README.md"
BROKER: Final = ROOT / "bridge/broker/README.md"
CONFIG: Final = ROOT / "bridge/config/README.md"
CONSUMER: Final = ROOT / "bridge/consumer/README.md"
OPS: Final = ROOT / "bridge/ops/README.md"
PBX: Final = ROOT / "bridge/pbx/README.md"

_LIMITS: Final = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}"}


def pages() -> list[Path]:
    """Return every page, the first one first."""
    below = (page for folder in ("bridge", "tests") for page in sorted((ROOT / folder).rglob("*.md")))
    return [README, ROOT / "CHANGELOG.md", *(page for page in below if "node_modules" not in page.parts)]


def title(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """Return the blocks of code in *language*, without what they are indented by."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


def anchors(page: Path) -> set[str]:
    """Return what a link may name behind ``#``, by GitHub's rule."""
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def made(page: Path) -> str:
    """Return what the page has to say, with everything in it that is made."""
    text = re.sub(
        r"(<!-- made: (\w+) -->\n).*?(<!-- end -->)",
        lambda found: "".join((found[1], *(f"{line}\n" for line in _MADE[found[2]]()), found[3])),
        page.read_text("utf-8"),
        flags=re.DOTALL,
    )
    return re.sub(r"\[`(test_\w+(?:\.py)?)`\]\(([^)]+)\)", lambda found: _test(page, found[1], found[2]), text)


def rights() -> tuple[str, str, str]:
    """Return what the broker's user has to configure, write and read, as the page about the broker gives it."""
    (found,) = re.findall(r"set_permissions -p / bridge '(.+)' '(.+)' '(.+)'", BROKER.read_text("utf-8"))
    return (found[0], found[1], found[2])


def files_of_test(name: str) -> list[Path]:
    """Return the files that have a test of that name, or that are called so."""
    return _tests().get(name, [])


def keys() -> set[str]:
    """Return the name of every setting, whatever table it is in."""
    return {name for table in _tables() for name in _own_fields(table)}


def _test(page: Path, name: str, link: str) -> str:
    files = files_of_test(name)
    is_right = (page.parent / link).resolve() in files
    return f"[`{name}`]({link if is_right or not files else os.path.relpath(files[0], page.parent)})"


@cache
def _tests() -> Mapping[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        found.setdefault(file.name, []).append(file)
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text("utf-8"), re.MULTILINE):
            found.setdefault(name, []).append(file)
    return found


def _settings() -> Iterator[str]:
    """Yield a table for each class of settings, so that what several of them have in common is said once."""
    for table, names in sorted(_tables().items(), key=lambda each: len(each[1])):
        yield from (f"### {' and '.join(f'`{name}`' for name in names)}", "", str(table.__doc__).replace("``", "`"), "")
        yield from ("| key | default | may be | what it says |", "| --- | --- | --- | --- |")
        described = describe(table)
        for name, field in _own_fields(table).items():
            words = " ".join(described[name].split()).replace("<", "&lt;")
            yield f"| `{name}` | {_default(field)} | {_limits(field)} | {words} |"
        yield ""


def _tables() -> Mapping[type[BaseModel], list[str]]:
    """Return every class of settings, and the tables of the file that have its keys."""
    found: dict[type[BaseModel], list[str]] = {}
    _look_below(Settings, "", found)
    return found


def _look_below(table: type[BaseModel], path: str, found: dict[type[BaseModel], list[str]]) -> None:
    for name, field in table.model_fields.items():
        for inner in tables_of(field):
            is_list = getattr(field.annotation, "__origin__", None) is tuple
            for each in inner.__mro__:
                if issubclass(each, BaseModel) and _own_fields(each):
                    found.setdefault(each, []).append(f"[[{path}{name}]]" if is_list else f"[{path}{name}]")
            _look_below(inner, f"{path}{name}.", found)


def _own_fields(table: type[BaseModel]) -> Mapping[str, FieldInfo]:
    own = inspect.get_annotations(table)
    return {name: field for name, field in table.model_fields.items() if name in own and not tables_of(field)}


def _default(field: FieldInfo) -> str:
    value = field.default
    if field.is_required():
        return "has to be said"
    if value is None or value == ():
        return ""
    told = ", ".join(value) if isinstance(value, tuple) else str(value)
    return f"`{told.lower() if isinstance(value, bool) else told}`"


def _limits(field: FieldInfo) -> str:
    choice = getattr(field.annotation, "__args__", ())
    if choice and all(isinstance(each, str) for each in choice):
        return ", ".join(f"`{each}`" for each in choice)
    return ", ".join(
        words.format(getattr(rule, name))
        for rule in field.metadata
        for name, words in _LIMITS.items()
        if hasattr(rule, name)
    )


def _conversation() -> Iterator[str]:
    """Yield the table of the conversation as a diagram that GitHub draws, and everybody can read."""
    yield from ("```mermaid", "stateDiagram-v2", "    direction LR")
    for state, row in TABLE.items():
        ways: dict[str, list[str]] = {}
        for said, (who, after) in row.items():
            ways.setdefault(str(after), []).append(f"{said.__name__} ({who})")
        yield from (f"    {state} --> {after}: {'<br>'.join(words)}" for after, words in ways.items())
    yield "```"


def _modes() -> Iterator[str]:
    """Yield what a pretend PBX can do, by the question that each word answers."""
    yield from ("| what is open | how a pretend PBX can do it; the first is its habit |", "| --- | --- |")
    for usual in (getattr(DEFAULT, field.name) for field in fields(DEFAULT)):
        about = str(type(usual).__doc__).rstrip(".").replace("``", "`")
        words = (usual, *(word for word in type(usual) if word is not usual))
        yield f"| {about} | {', '.join(f'`{word}`' for word in words)} |"


_MADE: Final[Mapping[str, Callable[[], Iterator[str]]]] = {
    "settings": _settings,
    "conversation": _conversation,
    "modes": _modes,
}


def main() -> None:
    for page in pages():
        text = made(page)
        if text != page.read_text("utf-8"):
            page.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
