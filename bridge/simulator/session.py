"""The PBX's end of one connection: text and the time in, replies out. Opens nothing and waits for nothing.

Who uses it sends each ``Reply`` after its delay, closes where it says ``Close``, and calls ``tick`` whenever
``on_wake`` was called or ``wake_at`` has come.
"""

from dataclasses import dataclass
from typing import Final

import orjson

from bridge.pbx.wire import messages as m
from bridge.simulator import writing
from bridge.simulator.answers import Answers
from bridge.simulator.directory import Call
from bridge.simulator.login import Login
from bridge.simulator.modes import AppInfoMode, KeepAliveMode, Modes, PbxInfoMode
from bridge.simulator.pbx import CUT, Pbx

NOT_ALLOWED: Final = 1008

KEEPALIVE_SECONDS: Final = 60.0
LATE_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True)
class Reply:
    """A message to send."""

    text: str
    delay_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Close:
    """The connection is to be closed with this WebSocket code, without a goodbye where it is ``CUT``."""

    code: int
    delay_seconds: float = 0.0


class Connection:
    """One connection of *pbx*, seen from its end. If it *calls*, the PBX logs in, otherwise the other end does.

    Its behaviour is that of the PBX unless it was given *modes* of its own (order and numbers are always the PBX's).
    *round_trip_seconds* only serves to see which questions overlap.
    """

    on_wake: Call
    """Called when ``tick`` has something to say."""

    def __init__(
        self, pbx: Pbx, *, modes: Modes | None = None, calls: bool = False, round_trip_seconds: float = 0.0
    ) -> None:
        self.number = pbx.connected(self)
        self.guid = pbx.new_guid()
        """Of this session, for those who take the guid for that."""
        self.modes = modes or pbx.modes
        """How the PBX behaves on this connection; see ``behave``."""
        self._own_modes = modes
        self.on_wake = _do_nothing
        self._pbx = pbx
        self._login = Login(pbx, self, calls=calls)
        self._answers = Answers(pbx, self, round_trip_seconds=round_trip_seconds)
        self._out: list[Reply | Close] = []
        self._now = 0.0
        self._last_heard = 0.0
        self._last_said = 0.0
        self._is_woken = False

    def __repr__(self) -> str:
        return f"<Connection {self.number} of {self._pbx.name}: {'in' if self.is_in else 'not in'}>"

    @property
    def is_in(self) -> bool:
        """True after a login."""
        return self._login.is_done

    @property
    def wake_at(self) -> float | None:
        """When ``tick`` is due if nothing happens before."""
        match self.modes.keepalive:
            case KeepAliveMode.SENT:
                return self._last_said + KEEPALIVE_SECONDS
            case KeepAliveMode.REQUIRED:
                return self._last_heard + KEEPALIVE_SECONDS
        return None

    def begin(self, now: float) -> list[Reply | Close]:
        """Take note that the connection is open, and return what the PBX says unasked."""
        self._now = self._last_heard = self._last_said = now
        self._login.begin()
        return self._taken()

    def receive(self, text: str | bytes, now: float) -> list[Reply | Close]:
        """Take a message, and return what the PBX answers."""
        self._now = self._last_heard = now
        try:
            content = orjson.loads(text)
        except orjson.JSONDecodeError:
            self.blame("sent something that is no JSON")
            return self._taken()
        mt = content.get("mt") if isinstance(content, dict) else None
        if mt == "AccountInfo":
            if self._login.is_done:
                if writing.needs_care(self.modes):
                    content = writing.careful_loads(text)
                self._answers.asked(content, now)
            else:
                self.blame("asked for accounts before the login")
                self.hang_up(NOT_ALLOWED)
        elif mt == "KeepAlive":
            if self.modes.keepalive is KeepAliveMode.ANSWERED:
                self.say(m.KeepAlive())
        elif mt == "CheckBuild":
            self.say(m.CheckBuildResult())
        elif isinstance(mt, str):
            self._login.heard(mt, content)
        else:
            self.blame("sent a message without a type")
        return self._taken()

    def tick(self, now: float) -> list[Reply | Close]:
        """Return what there is to say by now without having been asked."""
        self._now = now
        wake_at = self.wake_at
        if wake_at is not None and now >= wake_at:
            if self.modes.keepalive is KeepAliveMode.SENT:
                self.say(m.KeepAlive())
            else:
                self.hang_up(CUT)
        if self._is_woken:
            self._is_woken = False
            if self.is_in:
                self._answers.changed(now)
        return self._taken()

    def closed(self, now: float) -> None:
        """Take note that the connection is over."""
        self._now = now
        self._answers.end()
        self._pbx.disconnected(self)

    def behave(self, modes: Modes | None) -> None:
        """Behave as *modes* say on this connection; ``None`` does as the PBX does elsewhere."""
        self._own_modes = modes
        self.wake()

    def wake(self) -> None:
        """Take note that the PBX changed."""
        self._is_woken = True
        self.modes = self._own_modes or self._pbx.modes
        if self._out or self._answers.wants_changes:
            self.on_wake()

    # What the other parts of a connection use

    def hang_up(self, code: int) -> None:
        """Close the connection with a WebSocket code, with the next of ``receive`` and ``tick``."""
        self._out.append(Close(code))
        self.on_wake()

    def say(self, message: m.Message, delay_seconds: float = 0.0) -> None:
        """Say *message*."""
        self.say_text(message.to_json(), delay_seconds)

    def say_text(self, text: str, delay_seconds: float = 0.0) -> None:
        """Say *text*, a whole message."""
        self.send(writing.styled(text, self.modes), delay_seconds)

    def send(self, text: str, delay_seconds: float) -> None:
        """Send *text* as it is."""
        self._out.append(Reply(text, delay_seconds))

    def blame(self, mistake: str) -> None:
        """Note what the other end did that no bridge should."""
        self._pbx.oracle.mistakes.append(f"connection {self.number} {mistake}")

    def came_in(self) -> None:
        """Do what follows a login."""
        self._answers.begin()
        self._introduce()

    def _introduce(self) -> None:
        modes, calls = self.modes, self._login.calls
        kind = PbxInfoMode.AFTER if modes.pbx_info is PbxInfoMode.NONE and calls else modes.pbx_info
        asks = AppInfoMode.AFTER if modes.app_info is AppInfoMode.NONE and calls else modes.app_info
        info = writing.pbx_info(self._pbx.name, self._pbx.domain, kind)
        app_info = orjson.dumps({"mt": "AppInfo", "app": self._pbx.app, "src": "app-info-1"}).decode()
        if asks is AppInfoMode.BEFORE:
            self.say_text(app_info)
        if kind not in {PbxInfoMode.NONE, PbxInfoMode.EARLY}:
            self.say_text(info, LATE_SECONDS if kind is PbxInfoMode.LATE else 0.0)
        if kind is PbxInfoMode.REPEATED:
            self.say_text(info, LATE_SECONDS)
        if asks is AppInfoMode.AFTER:
            self.say_text(app_info)

    def _taken(self) -> list[Reply | Close]:
        out, self._out = self._out, []
        if out:
            self._last_said = self._now
        return out


def _do_nothing() -> None:
    """Stand in for whoever wants to be woken."""
