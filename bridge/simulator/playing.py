"""One connection of a PBX that plays a recording: the login is made anew, everything behind it is as recorded."""

import json
from typing import Any

from bridge.model import Cursor, Token
from bridge.pbx.wire import messages as m
from bridge.pbx.wire.parser import read_message
from bridge.simulator.pbx import Pbx
from bridge.simulator.recorded import FOREIGN, OWN, RecordedPbx, Told
from bridge.simulator.session import Close, Connection, Reply


class PlayedConnection(Connection):
    """A connection of *pbx*; it is used as any of a pretend PBX is."""

    def __init__(self, pbx: RecordedPbx, *, calls: bool = False, round_trip_seconds: float = 0.0) -> None:
        super().__init__(pbx, calls=calls, round_trip_seconds=round_trip_seconds)
        self._recorded = pbx
        self._guid: Token | None = None
        """What is valid here, where each connection or question has a guid of its own."""

    @property
    def wake_at(self) -> float | None:
        """When the next push is due."""
        pushes = self._recorded.script.pushes
        if not self.is_in or self._recorded.pushed >= len(pushes):
            return None
        return self._recorded.played_time(pushes[self._recorded.pushed].at)

    def receive(self, text: str | bytes, now: float) -> list[Reply | Close]:
        """Take a message, and return what the PBX answered when it was recorded."""
        message = read_message(text)
        if not (self.is_in and isinstance(message, m.AccountInfo | m.KeepAlive)):
            return super().receive(text, now)
        self._now = now
        if isinstance(message, m.AccountInfo):
            self._asked(message, now)
        return self._taken()

    def tick(self, now: float) -> list[Reply | Close]:
        """Return what the PBX said unasked by now."""
        pbx = self._recorded
        while (due := self.wake_at) is not None and due <= now:
            self.send(pbx.script.pushes[pbx.pushed].text, 0.0)
            pbx.pushed += 1
        return self._taken()

    def came_in(self) -> None:
        """Say what was said behind a login."""
        pbx = self._recorded
        pbx.recorded_time(self._now)
        introductions = pbx.script.introductions
        if introductions:
            for delay, text in introductions[min(self.number, len(introductions)) - 1]:
                self.send(text, delay / pbx.speed)
        self.on_wake()

    def _asked(self, question: m.AccountInfo, now: float) -> None:
        pbx = self._recorded
        at = pbx.recorded_time(now)
        told = pbx.script.find(self._key(question.cursor), at, pbx.given)
        if told is None:
            pbx.unknown_questions.append(question.cursor)
            return
        if told.is_passing:
            pbx.given.add(id(told))
        self._answer(told, question, at)

    def _key(self, cursor: Cursor) -> Cursor:
        script = self._recorded.script
        if not script.is_guid_of_connection or cursor.guid is None:
            return script.key(cursor)
        return Cursor(OWN if cursor.guid == self._guid else FOREIGN, cursor.usn, cursor.ausn)

    def _answer(self, told: Told, question: m.AccountInfo, at: float) -> None:
        exchange, pbx = told.exchange, self._recorded
        if question.cursor.guid is None and pbx.script.is_guid_of_connection:
            self._guid = self._next_guid()
        delay = max(0.0, exchange.asked_at + exchange.delay - at) if told.is_held else exchange.delay
        for said in exchange.beside:
            text = self._text(said.content, exchange.question.src, question) if said.content else said.text
            self.send(text, (said.at - exchange.asked_at) / pbx.speed)
        if exchange.closed_with is not None and exchange.answer is None:
            self._out.append(Close(exchange.closed_with, min(delay, 1.0) / pbx.speed))
            return
        for said in ([exchange.answer] if exchange.answer is not None else []) + exchange.again:
            later = 0.0 if exchange.answer is None else said.at - exchange.answer.at
            self.send(self._text(said.content, exchange.question.src, question), (delay + later) / pbx.speed)

    def _next_guid(self) -> Token:
        script = self._recorded.script
        if script.is_guid_of_question or self._guid is None:
            return Token(json.dumps(self._recorded.new_guid()))
        return self._guid

    def _text(self, content: dict[str, Any], recorded_src: str, question: m.AccountInfo) -> str:
        """Return what was said, as the answer to *question*."""
        told: dict[str, Any] = {}
        for name, value in content.items():
            if name == "src" and value == recorded_src:
                told[name] = question.src
            elif name == "guid" and value and self._guid is not None:
                told[name] = json.loads(self._guid)
            else:
                told[name] = value
        return json.dumps(told, separators=(",", ":"))  # numbers may be of any size


def connect(pbx: Pbx, *, calls: bool = False, round_trip_seconds: float = 0.0) -> Connection:
    """Return the end of *pbx* of a new connection."""
    if isinstance(pbx, RecordedPbx):
        return PlayedConnection(pbx, calls=calls, round_trip_seconds=round_trip_seconds)
    return Connection(pbx, calls=calls, round_trip_seconds=round_trip_seconds)
