import asyncio
from collections.abc import Callable
from typing import NoReturn

import pytest

from bridge.errors import FileUnusable, PbxUnreachable
from bridge.model import Cursor
from bridge.observability.component_status import Level
from bridge.observability.report import problems, sentences
from bridge.observability.source_status import SourceStatus
from bridge.pbx.reader import Deliver, TryDeliver
from bridge.runtime import secret_files as module
from bridge.runtime.secret_files import FileReadingSource, Files, looking
from tests.support.boards import NOW, board


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():
            await asyncio.sleep(0.001)


async def test_what_is_wrong_with_a_file_is_told_until_it_is_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is read from it meanwhile: a connection may last for weeks."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    wrong = "the secret in /run/secrets/hq is empty"
    part = SourceStatus(since=NOW)
    use = looking(Files("hq", part, [lambda: "", lambda: wrong]), lambda: "former")
    assert use() == "former"
    assert part.file_trouble == "the secret in /run/secrets/hq is empty. The former content is used meanwhile"
    wrong = ""
    await until(lambda: not part.file_trouble)


def test_who_cannot_be_asked_at_all_says_so_and_nothing_former_is_in_use() -> None:
    part = SourceStatus(since=NOW)

    def use() -> str:
        raise FileUnusable("gone")

    with pytest.raises(FileUnusable):
        looking(Files("hq", part, [lambda: "gone"]), use)()
    assert not part.file_trouble


def test_a_file_that_is_wrong_is_a_warning_of_its_end_and_of_nobody_else() -> None:
    shown = board(NOW, "hq", "branch")
    shown.sources["hq"].file_trouble = "the secret in /a is empty"
    assert [(problem.where, problem.cause, problem.level) for problem in problems(shown, NOW)] == [
        ("hq", "file_unusable", Level.WARN)
    ]
    assert "the secret in /a is empty." in sentences(shown, NOW)
    assert shown.assess(shown.sources["branch"], NOW) is Level.OK
    assert (shown.level(NOW), shown.is_ready(NOW)) == (Level.WARN, True)
    shown.sources["hq"].file_trouble = ""
    shown.broker.file_trouble = "the secret in /b is empty"
    assert (problems(shown, NOW)[0].where, shown.level(NOW)) == ("broker", Level.WARN)


class Asked:
    """A source that is asked only."""

    def __init__(self) -> None:
        self.walks, self.reads = 0, 0

    def request_walk(self) -> None:
        self.walks += 1

    async def read(self, since: Cursor, deliver: Deliver, try_deliver: TryDeliver | None = None) -> NoReturn:  # noqa: ARG002
        self.reads += 1
        raise PbxUnreachable("nobody")


async def test_a_source_is_not_read_without_its_certificates() -> None:
    asked, is_there = Asked(), False

    def refresh() -> None:
        if not is_there:
            raise FileUnusable("ca_file: gone")

    async def deliver(_heard: object) -> None:
        raise AssertionError("nothing is heard")

    source = FileReadingSource(asked, refresh, Files("hq", SourceStatus(since=NOW), []))
    source.request_walk()
    with pytest.raises(FileUnusable):
        await source.read(Cursor(), deliver)
    assert (asked.walks, asked.reads) == (1, 0)
    is_there = True
    with pytest.raises(PbxUnreachable):
        await source.read(Cursor(), deliver)


class Silent(Asked):
    """Is read, and tells nothing."""

    async def read(self, since: Cursor, deliver: Deliver, try_deliver: TryDeliver | None = None) -> NoReturn:  # noqa: ARG002
        self.reads += 1
        while True:
            await asyncio.sleep(60)


async def test_files_of_a_source_that_is_read_no_more_are_looked_at_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    part, silent = SourceStatus(since=NOW), Silent()
    files = Files("hq", part, [lambda: "gone"])
    source = FileReadingSource(silent, lambda: None, files)

    async def deliver(_heard: object) -> None:
        raise AssertionError("nothing is heard")

    reading = asyncio.create_task(source.read(Cursor(), deliver))
    await until(lambda: silent.reads == 1)
    files.look()
    assert part.file_trouble
    reading.cancel()
    await asyncio.wait([reading])
    assert part.file_trouble == ""
    await asyncio.sleep(0.1)
    assert part.file_trouble == ""
