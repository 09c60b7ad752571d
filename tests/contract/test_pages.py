"""The pages are true: what they link to and name is there, and what is made of the code is as that makes it."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from bridge.cli.main import commands
from tests.support.commands import commands_in
from tests.support.pages import CONFIG, OPS, README, ROOT, anchors, blocks, files_of_test, keys, made, pages, title

PAGES = pages()
MOST_LINES = 240
"""Of the first page: it is read in two minutes, and the depth stands beside the code."""

on_every_page = pytest.mark.parametrize("page", PAGES, ids=title)


def links(page: Path) -> list[str]:
    """Return what the page links to, other pages of the web not among it."""
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]


@on_every_page
def test_every_link_leads_somewhere(page: Path) -> None:
    assert [link for link in links(page) if not leads_somewhere(page, link)] == []


def leads_somewhere(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    return target.exists() and (not anchor or anchor in anchors(target))


@on_every_page
def test_every_test_it_names_is_where_it_says(page: Path) -> None:
    """Where a test has moved with its module, ``python -m tests.support.pages`` finds it."""
    text = page.read_text("utf-8")
    pointed_to = re.findall(r"\[`(test_\w+)`\]\(([^)]+)\)", text)
    assert len(pointed_to) == len(re.findall(r"`test_\w+`", text)), "each with a link to its file"
    assert [name for name, link in pointed_to if (page.parent / link).resolve() not in files_of_test(name)] == []
    named = re.findall(r"\b(tests/[\w/]+\.py)::(test_\w+)", text)
    assert [name for path, name in named if ROOT / path not in files_of_test(name)] == []


@on_every_page
def test_every_file_it_names_is_there(page: Path) -> None:
    named = re.findall(r"`((?:bridge|tests|schemas|\.docker|\.ci)/[\w./-]+)`", page.read_text("utf-8"))
    assert [path for path in named if not (ROOT / path).exists()] == []


@on_every_page
def test_what_is_made_of_the_code_is_up_to_date(page: Path) -> None:
    """Where this fails: ``python -m tests.support.pages`` writes it anew."""
    assert page.read_text("utf-8") == made(page)


def test_every_setting_is_on_the_page_about_settings() -> None:
    told = re.findall(r"^\| `(\w+)` \| .* \| .* \| .+ \|$", CONFIG.read_text("utf-8"), re.MULTILINE)
    assert set(told) == keys()


def rows(page: Path) -> dict[str, str]:
    """Return the commands in the tables of a page, and what is said of each."""
    return dict(re.findall(r"^\| `account-bridge ([\w-]+)` \| (.*) \|$", page.read_text("utf-8"), re.MULTILINE))


def test_every_command_is_on_the_page_for_operators_and_the_other_way_round() -> None:
    assert rows(OPS).keys() == commands_in(commands).keys()


@pytest.mark.parametrize("page", [README, OPS], ids=title)
def test_every_option_that_is_named_of_a_command_is_one(page: Path) -> None:
    for name, words in rows(page).items():
        assert name in commands_in(commands)
        assert set(re.findall(r"`(--[\w-]+)", words)) <= options(commands_in(commands)[name]), name


@on_every_page
def test_every_command_line_is_one(page: Path) -> None:
    assert [line for line in command_lines(page) if not can_be_typed(line)] == []


def can_be_typed(line: str) -> bool:
    """Tell whether its words are commands, and options of them; what stands for an argument is not looked at."""
    command: click.Command = commands
    for word in shlex.split(line.replace("…", ""), comments=True):
        if word.startswith("--"):
            if word.partition("=")[0] not in options(command):
                return False
        elif isinstance(command, click.Group) and word.islower():
            if word not in commands_in(command):
                return False
            command = commands_in(command)[word]
    return True


def command_lines(page: Path) -> Iterator[str]:
    """Yield what stands behind ``account-bridge`` in spans and blocks of code."""
    text = page.read_text("utf-8")
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for line in (*spans, *"\n".join(blocks(page, "sh")).splitlines()):
        for part in re.split(r"&&|\|", line):
            found = re.search(r"(?:^|\s|/)account-bridge ((?!:)\S.*)$", part.strip())
            if found is not None:
                yield found[1]


def options(command: click.Command) -> set[str]:
    return {"--help", *(option for parameter in command.params for option in parameter.opts)}


def test_the_first_page_can_be_read_in_two_minutes() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= MOST_LINES


def test_the_tree_on_the_first_page_is_that_of_the_package() -> None:
    tree = next(block for block in blocks(README, "text") if block.startswith("cli/"))
    named = re.findall(r"^(\w+/)", tree, re.MULTILINE) + re.findall(r"\b(\w+\.py)\b", tree)
    there = {
        f"{path.name}/" if path.is_dir() else path.name
        for path in (ROOT / "bridge").iterdir()
        if (path.is_dir() or path.suffix == ".py") and not path.name.startswith("__")
    }
    assert set(named) == there


def test_every_folder_of_tests_is_on_their_page() -> None:
    text = (ROOT / "tests/README.md").read_text("utf-8")
    folders = [
        path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and not path.name.startswith(("_", "."))
    ]
    assert [name for name in folders if f"[`{name}`]({name}" not in text] == []
