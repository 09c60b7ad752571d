"""What a PBX is asked so that it shows how it behaves: by reading only, one question at a time, at a gentle pace.

Nothing is judged here. What passed is in the recording, and ``evidence`` looks at that.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from bridge.errors import BridgeError
from bridge.model import Cursor, Token
from bridge.ops.observe.line import Contact, Heard, Line, Nothing, reopened
from bridge.pbx.recording.notebook import Notebook
from bridge.pbx.wire import messages as m

START: Final = Cursor()

ACTS: Final = {
    "rename": "Change the display name of a test user twice, a few seconds apart",
    "group": "Put that user into a group, or out of one",
    "create": "Create another test user",
    "delete": "Delete the user that you just created",
    "template": "Change something harmless in a config template that users have, and save it",
    "reboot": "Restart the PBX, if nobody minds right now",
}
"""What an operator is asked to do, and watched doing."""

SKIPPED: Final = "skipped"
"""Noted behind an act that was not done."""

OVER: Final = "over"
"""Noted behind the last one."""

MAX_ERRORS: Final = 3
MAX_SILENCES: Final = 2
MAX_RESTARTS: Final = 3
MAX_LOST: Final = 50
MAX_NEWS: Final = 1000
"""Rows that are read behind one act."""

SHORT_LIST: Final = 500
"""Rows that are read once more behind a deletion in any case."""

REOPEN_SECONDS: Final = 1.0
"""Before a connection that was lost is opened anew."""

KEEPALIVE_SECONDS: Final = 30.0
_HEX: Final = str.maketrans("0123456789abcdefABCDEF", "fedcba9876543210543210")

Operator = Callable[[str, str], Awaitable[bool]]
"""Asks a person for an act, by its name and in words; returns whether it was done."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How gently, how long and how far."""

    rows_per_second: float = 5.0
    max_rows: int = 0
    """So many rows of the list are read, and its end is not seen where there are more; 0 for all."""
    answer_seconds: float = 30.0
    quiet_seconds: float = 70.0
    """How long we say nothing at all; reverse proxies cut after 60."""
    watch_seconds: float = 30.0
    """How long we look for what comes of an act."""
    reboot_seconds: float = 600.0


class Observer:
    """Asks one PBX everything; *tell* gets sentences about what is under way. Stop it at any time."""

    def __init__(
        self,
        line: Line,
        notebook: Notebook,
        plan: Plan,
        *,
        tell: Callable[[str], None] = lambda _sentence: None,
        operator: Operator | None = None,
    ) -> None:
        self._line = line
        self._notebook = notebook
        self._plan = plan
        self._tell = tell
        self._operator = operator
        self._contact: Contact | None = None
        self._guid: Token | None = None
        self._places: list[Cursor] = []
        """Behind each row of the list, in its order."""
        self._is_at_end = True
        """False where only a part of the list is to be read."""
        self._lost = 0
        self._restarts = 0
        """How often the list was read anew because its guid had become another one by itself."""

    async def run(self) -> None:
        """Ask everything, in an order in which what may break the connection comes last.

        Raises:
            BridgeError: the PBX cannot be reached, or not any more.

        """
        try:
            self._contact = await self._line.open()
            await self._ask_for_guid()
            if self._guid is not None:
                await self._walk()
                await self._ask_at_end()
                await self._ask_for_old_place()
            await self._open_second()
            await self._be_quiet()
            await self._ask_with_foreign_guid()
            if self._operator is not None and self._is_at_end:
                await self._watch_acts(self._operator)
        finally:
            if self._contact is not None:
                await self._contact.close()

    # The steps

    async def _ask_for_guid(self) -> None:
        self._tell("asking for the guid of the list, twice")
        for _ in range(2):
            self._guid = _guid_of(await self._ask(START)) or self._guid

    async def _walk(self) -> None:
        """Read the list from its start to its end, or as far as is wanted."""
        self._tell("reading the list from its start")
        self._places = []
        cursor, seen = Cursor(self._guid), {Cursor(self._guid)}
        errors = silences = restarts = 0
        while not self._plan.max_rows or len(self._places) < self._plan.max_rows:
            heard = await self._ask(cursor)
            is_new = heard is Nothing.LOST and await self._probe_anew()
            guid = _guid_of(heard)
            if is_new or (guid is not None and guid != self._guid):
                self._guid = guid or self._guid
                restarts += is_new
                self._restarts += not is_new
                if max(restarts, self._restarts) > MAX_RESTARTS:
                    return
                self._places, cursor, seen = [], Cursor(self._guid), {Cursor(self._guid)}
                continue
            if heard is Nothing.LOST:
                continue
            errors = errors + 1 if isinstance(heard, m.RequestError) else 0
            silences = silences + 1 if heard is Nothing.SILENCE else 0
            if isinstance(heard, m.AccountRow):
                place = Cursor(self._guid, heard.row.cursor.usn, heard.row.cursor.ausn)
                if place in seen or heard.row.cursor.is_start:
                    return
                self._places.append(place)
                seen.add(place)
                cursor = place
                if not len(self._places) % 100:
                    self._tell(f"{len(self._places)} accounts read")
            elif isinstance(heard, m.NoAccount) or errors >= MAX_ERRORS or silences >= MAX_SILENCES:
                return
            elif errors:
                await self._line.sleep(1.0)
        self._is_at_end = False

    async def _probe_anew(self) -> bool:
        """Ask for the guid on a new connection, and return whether it is another one."""
        before = self._guid
        self._guid = _guid_of(await self._ask(START)) or before
        return self._guid != before

    async def _ask_at_end(self) -> None:
        if not self._is_at_end:
            self._tell("the end of the list was not reached, so nothing is asked there, and no change can be watched")
            return
        self._tell("asking at the end of the list, where nothing further has changed")
        for pause in (2.0, 3.0):
            await self._listen(pause)
            await self._catch_up()

    async def _ask_for_old_place(self) -> None:
        if len(self._places) > 1:
            self._tell("asking from an old place of the list")
            await self._ask(self._places[0])
            await self._ask(self._places[len(self._places) // 2])

    async def _open_second(self) -> None:
        self._tell("asking on another connection")
        try:
            second = await self._line.open()
        except BridgeError as problem:
            self._tell(f"another connection is not to be had: {problem}")
            return
        try:
            for cursor in (START, START):
                await self._pace()
                guid = _guid_of(await second.ask(cursor, self._plan.answer_seconds))
            if self._places and guid == self._guid:
                await self._pace()
                await second.ask(self._places[-1], self._plan.answer_seconds)
        finally:
            await second.close()
        await self._ask(START)

    async def _be_quiet(self) -> None:
        contact = await self._connected()
        self._tell("saying that we are here, to see whether that is answered")
        contact.keep_alive()
        await contact.listen(3.0)
        self._tell(f"saying nothing for {self._plan.quiet_seconds:g} s")
        await contact.listen(self._plan.quiet_seconds)

    async def _ask_with_foreign_guid(self) -> None:
        if self._guid is None:
            return
        self._tell("asking with a guid that this PBX never told")
        place = self._places[0] if self._places else START
        is_new = False
        for _ in range(2):
            await self._ask(Cursor(_forged(self._guid), place.usn, place.ausn))
            is_new |= await self._probe_anew()
        if is_new:
            await self._walk()

    async def _watch_acts(self, operator: Operator) -> None:
        for name, words in ACTS.items():
            await self._catch_up()
            self._notebook.act(name)
            if not await self._done(operator, name, words):
                self._notebook.act(SKIPPED)
                continue
            if name == "reboot":
                await self._watch_reboot()
                continue
            self._tell("watching what comes")
            rows = await self._watch()
            if name == "delete" and (not rows or len(self._places) <= SHORT_LIST):
                await self._walk()
        self._notebook.act(OVER)
        await self._catch_up()

    async def _done(self, operator: Operator, name: str, words: str) -> bool:
        waiting = asyncio.ensure_future(operator(name, words))
        try:
            while not (await asyncio.wait([waiting], timeout=KEEPALIVE_SECONDS))[0]:
                (await self._connected()).keep_alive()
        finally:
            waiting.cancel()
        return waiting.result()

    async def _watch(self) -> int:
        """Return how many rows came."""
        waited, rows = 0.0, 0
        while waited < self._plan.watch_seconds:
            if news := await self._catch_up():
                rows += news
            elif rows:
                break
            await self._listen(2.0)
            waited += 2.0
        return rows

    async def _watch_reboot(self) -> None:
        self._tell("waiting until the PBX is back")
        await self._listen(self._plan.watch_seconds)
        if await self._probe_anew():
            await self._walk()
        await self._catch_up()

    # What they are made of

    async def _catch_up(self) -> int:
        """Ask on from the end until there is nothing new, and return how many rows came."""
        rows = 0
        seen = set(self._places)
        while rows < MAX_NEWS:
            last = self._places[-1] if self._places else Cursor(self._guid)
            heard = await self._ask(last)
            guid = _guid_of(heard)
            if guid is not None and guid != self._guid:
                self._guid = guid
                self._restarts += 1
                if self._restarts <= MAX_RESTARTS:
                    await self._walk()
                return rows + 1
            if not isinstance(heard, m.AccountRow):
                break
            place = Cursor(self._guid, heard.row.cursor.usn, heard.row.cursor.ausn)
            if place == last or place.is_start or place in seen:
                break
            seen.add(place)
            self._places.append(place)
            rows += 1
        return rows

    async def _ask(self, cursor: Cursor) -> Heard:
        contact = await self._connected()
        await self._pace()
        return await contact.ask(cursor, self._plan.answer_seconds)

    async def _pace(self) -> None:
        if self._plan.rows_per_second:
            await self._line.sleep(1 / self._plan.rows_per_second)

    async def _listen(self, seconds: float) -> None:
        contact = self._contact
        if contact is not None and contact.is_open:
            await contact.listen(seconds)
        else:
            await self._line.sleep(seconds)

    async def _connected(self) -> Contact:
        if self._contact is None or not self._contact.is_open:
            if self._contact is not None:
                lost, self._contact = self._contact, None
                await lost.close()
            self._lost += 1
            if self._lost > MAX_LOST:
                raise BridgeError(f"the PBX has closed {MAX_LOST} connections; that is enough")
            await self._line.sleep(REOPEN_SECONDS)
            self._contact = await reopened(self._line, within_seconds=self._plan.reboot_seconds)
        return self._contact


def _guid_of(heard: Heard) -> Token | None:
    if isinstance(heard, m.AccountRow):
        return heard.row.cursor.guid
    return heard.cursor.guid if isinstance(heard, m.NoAccount) else None


def _forged(guid: Token) -> Token:
    """Return a guid of the same form that nobody has."""
    told = json.loads(guid)
    if not isinstance(told, str):
        return Token(str(int(told) + 1))
    other = told.translate(_HEX)
    return Token(json.dumps(other if other != told else f"{told}0"))
