"""A pretend PBX that is observed in no time: the line to it has a clock of its own."""

import asyncio
from collections.abc import Awaitable, Callable

from bridge.errors import PbxRefusedLogin, PbxUnreachable
from bridge.model import Cursor
from bridge.ops.observe.line import Heard, Nothing
from bridge.ops.observe.observation import Observation, conclude_from
from bridge.ops.observe.probing import Observer, Plan
from bridge.pbx.recording.frames import Recording
from bridge.pbx.recording.notebook import Notebook
from bridge.pbx.recording.pseudonyms import Pseudonyms
from bridge.pbx.wire import messages as m
from bridge.pbx.wire.login import login_digest
from bridge.pbx.wire.protocol import Answer, Conversation, Event, Party
from bridge.simulator.pbx import Pbx
from bridge.simulator.playing import connect
from bridge.simulator.session import Close, Connection, Reply

ROUND_TRIP = 0.01
KEY = b"o" * 32


class PretendLine:
    """The way to *pbx*; time passes only where somebody waits."""

    def __init__(self, pbx: Pbx, *, connect: Callable[[Pbx], Connection] | None = None) -> None:
        self.pbx = pbx
        self.connect = connect
        self.now = 0.0
        self.notebook = Notebook(Pseudonyms(KEY), lambda: self.now)
        self.contacts: list[PretendContact] = []
        self.asked_at: list[float] = []

    async def open(self) -> "PretendContact":
        contact = PretendContact(self)
        self.contacts.append(contact)
        self.let_pass(0.0)
        contact.log_in()
        for _ in range(10):
            self.let_pass(1.0)
            if contact.is_in:
                return contact
            if not contact.is_open or contact.is_refused:
                break
        raise PbxRefusedLogin("it is not let in") if contact.is_refused else PbxUnreachable("it is closed")

    async def sleep(self, seconds: float) -> None:
        self.let_pass(seconds)

    def let_pass(self, seconds: float, *, until: Callable[[], bool] = lambda: False) -> None:
        """Let time pass on all connections, until it is enough."""
        end = self.now + seconds
        while True:
            for contact in self.contacts:
                contact.hear()
            moments = [moment for contact in self.contacts for moment in contact.moments() if moment > self.now]
            if until() or not (due := [moment for moment in moments if moment <= end]):
                break
            self.now = min(due)
        if not until():
            self.now = max(self.now, end)


class PretendContact:
    """One connection."""

    def __init__(self, line: PretendLine) -> None:
        self._line = line
        self._tap = line.notebook.connection()
        self._connection = (line.connect or connect)(line.pbx)
        self._conversation = Conversation(Party.BRIDGE, caller=Party.BRIDGE)
        self._mail: list[tuple[float, Reply | Close]] = []
        self._answer: Heard | None = None
        self.heard: list[Event] = []
        self.is_open = True
        self.is_in = self.is_refused = False
        self._post(self._connection.begin(line.now))

    def log_in(self) -> None:
        self._say(m.AppChallenge())

    def moments(self) -> list[float]:
        if not self.is_open:
            return []
        wake_at = self._connection.wake_at
        return [*(at for at, _ in self._mail), *([] if wake_at is None else [wake_at])]

    def hear(self) -> None:
        """Take what has come by now."""
        if not self.is_open:
            return
        self._post(self._connection.tick(self._line.now))
        while self.is_open and self._mail and self._mail[0][0] <= self._line.now:
            _, reply = self._mail.pop(0)
            if isinstance(reply, Close):
                self._end(reply.code, is_ours=False)
            else:
                self._tap.received(reply.text.encode())
                self._deal_with(self._conversation.receive(reply.text))

    async def ask(self, cursor: Cursor, seconds: float) -> Heard:
        if not self.is_open:
            return Nothing.LOST
        self._answer = None
        self._line.asked_at.append(self._line.now)
        self._send(self._conversation.ask(cursor))
        self._line.let_pass(seconds, until=lambda: self._answer is not None or not self.is_open)
        answer, self._answer = self._answer, None
        return answer or (Nothing.SILENCE if self.is_open else Nothing.LOST)

    async def listen(self, seconds: float) -> None:
        self._line.let_pass(seconds, until=lambda: not self.is_open)

    def keep_alive(self) -> None:
        if self.is_open:
            self._say(m.KeepAlive())

    async def close(self) -> None:
        if self.is_open:
            self._end(1000, is_ours=True)

    def _deal_with(self, event: Event) -> None:
        self.heard.append(event)
        match event:
            case m.AppChallengeResult(challenge=challenge):
                pbx = self._line.pbx
                digest = login_digest(app=pbx.app, challenge=challenge, password=pbx.password)
                self._say(m.AppLogin(pbx.app, digest))
            case m.LoginAccepted():
                self.is_in = True
            case m.LoginRefused():
                self.is_refused = True
                self._end(1000, is_ours=True)
            case m.AppInfo(app=app, src=src):
                if self.is_in:
                    self._say(m.AppInfoResult(app, src))
            case Answer(reply=reply):
                self._answer = reply

    def _say(self, message: m.Message) -> None:
        self._send(self._conversation.say(message))

    def _send(self, text: str) -> None:
        self._tap.sent(text)
        self._post(self._connection.receive(text, self._line.now))

    def _post(self, replies: list[Reply | Close]) -> None:
        self._mail += [(self._line.now + reply.delay_seconds + ROUND_TRIP, reply) for reply in replies]
        self._mail.sort(key=lambda mail: mail[0])

    def _end(self, code: int, *, is_ours: bool) -> None:
        self.is_open = False
        self._connection.closed(self._line.now)
        self._tap.ended(code, is_ours=is_ours)


async def observed(
    pbx: Pbx, *, plan: Plan | None = None, operator: Callable[[str, str], Awaitable[bool]] | None = None
) -> tuple[Observation, Recording]:
    """Return what an observation of *pbx* finds out, and its recording."""
    line = PretendLine(pbx)
    await Observer(line, line.notebook, plan or Plan(), operator=operator).run()
    observation = conclude_from(line.notebook.frames)
    return observation, Recording(line.notebook.header, line.notebook.frames)


def doing(pbx: Pbx) -> Callable[[str, str], Awaitable[bool]]:
    """Return an operator who does at once what he is asked to."""
    whom = pbx.pick()
    created: list[str] = []

    async def act(name: str, _words: str) -> bool:
        await asyncio.sleep(0)
        match name:
            case "rename":
                pbx.change_display_name(whom, "first")
                pbx.change_display_name(whom, "second")
            case "group":
                pbx.toggle_group(whom)
            case "create":
                created.append(pbx.create())
            case "delete":
                pbx.delete(created.pop())
            case "template":
                pbx.template_edit()
            case "reboot":
                pbx.reboot()
        return True

    return act
