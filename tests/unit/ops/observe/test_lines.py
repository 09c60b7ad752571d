"""The way to a PBX while it is observed: what is told of others, and for how long one is waited for."""

from unittest.mock import Mock

import pytest

from bridge.errors import PbxUnreachable
from bridge.ops.observe import line as lines
from bridge.ops.observe.inbound_line import InboundLine
from bridge.ops.observe.line import Contact, reopened
from bridge.pbx.inbound.identity import Identity, Visit


async def test_another_pbx_cannot_have_a_terminal_obey_its_name() -> None:
    told: list[str] = []
    line = InboundLine(Identity("example.com", "main").source, Mock(), told.append)
    with pytest.raises(PbxUnreachable, match="is observed"):
        await line.source_for(Visit(Identity("example.com", "br\x1b[2Janch\nall is well")))
    assert len(told) == 1
    assert told[0].isprintable()
    assert "“example.com”" in told[0]


async def test_another_pbx_of_the_same_name_is_sent_away_so_that_nothing_is_said_of_two_as_if_they_were_one() -> None:
    told: list[str] = []
    main = Identity("example.com", "main")
    line = InboundLine(main.source, Mock(), told.append)
    assert await line.source_for(Visit(main, "192.0.2.1", "a" * 32)) is line
    assert await line.source_for(Visit(main, "192.0.2.9", "a" * 32)) is line
    for _ in range(2):
        with pytest.raises(PbxUnreachable, match="is observed"):
            await line.source_for(Visit(main, "192.0.2.2", "b" * 32))
    assert told == [
        f"another PBX “main” of “example.com” has dialled; it is {main.source}, too, from 192.0.2.2, and sent away"
    ]


class LineOfNobody:
    """Each attempt takes five minutes, and comes to nothing."""

    def __init__(self) -> None:
        self.now = 0.0
        self.attempts = 0

    async def open(self) -> Contact:
        self.attempts += 1
        self.now += 300.0
        raise PbxUnreachable("it has not dialled")

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


async def test_attempts_that_take_long_count_for_how_long_one_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    line = LineOfNobody()
    monkeypatch.setattr(lines, "steady", lambda: line.now)
    with pytest.raises(PbxUnreachable):
        await reopened(line, within_seconds=600.0)
    assert line.attempts == 2
    assert line.now <= 900.0
