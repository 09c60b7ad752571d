"""What passes between a bridge and a PBX in a ``World``, recorded; and what a recorded PBX has in the end."""

import random
from collections.abc import Sequence
from typing import Any

from bridge.pbx.recording.exchanges import transcribe
from bridge.pbx.recording.frames import Recording
from bridge.pbx.recording.notebook import Notebook
from bridge.pbx.recording.pseudonyms import Pseudonyms
from bridge.pbx.wire import messages as m
from bridge.simulator.pbx import Pbx
from bridge.simulator.recorded import prepare
from bridge.simulator.session import Close, Reply
from bridge.store.tables.store import TableStore
from tests.support.world import World


class RecordedWorld(World):
    """A world in which somebody hears along."""

    def __init__(self, store: TableStore, name: str, pbx: Pbx, chance: random.Random, pseudonyms: Pseudonyms) -> None:
        self.now = 1000.0
        self.notebook = Notebook(pseudonyms, lambda: self.now)
        super().__init__(store, name, pbx, chance)

    @property
    def recording(self) -> Recording:
        return Recording(self.notebook.header, tuple(self.notebook.frames))

    def _connect(self) -> None:
        self._tap = self.notebook.connection()
        super()._connect()

    def _send(self, text: str) -> None:
        self._tap.sent(text)
        super()._send(text)

    def _arrive(self, reply: Reply | Close) -> None:
        if isinstance(reply, Close):
            self._tap.ended(reply.code, is_ours=False)
        else:
            self._tap.received(reply.text.encode())
        super()._arrive(reply)


class EnemyWorld(RecordedWorld):
    """One whose PBX tells nobody the truth."""

    def note_truth(self) -> None:
        """Remember nothing."""


def accounts_at_the_end(recording: Recording) -> tuple[set[str], set[str]]:
    """Return whom the list of a recorded PBX has in the end, and of whom nobody knows; read in the plainest way."""
    transcript = transcribe(recording.frames)
    takes_any_guid = prepare(recording).is_guid_of_connection
    told = [(each.question.cursor, each.answer.message) for each in transcript.exchanges if each.answer is not None]
    guids = [message.cursor.guid for _, message in told if isinstance(message, m.NoAccount) and message.cursor.guid]
    newest: dict[Any, m.AccountRow] = {}
    for cursor, message in told:
        is_ours = cursor.guid is not None and (takes_any_guid or cursor.guid == guids[-1])
        if is_ours and isinstance(message, m.AccountRow):
            newest[cursor.usn, cursor.ausn] = message
    present, uncertain, passed = set[str](), set[str](), set[Any]()
    place: tuple[Any, Any] = (None, None)
    while place in newest and place not in passed:
        passed.add(place)
        row = newest[place].row
        (present.discard if row.is_deleted else present.add)(row.account_guid)
        if row.h323 is None and row.info is None:
            uncertain.add(row.account_guid)
        place = row.cursor.usn, row.cursor.ausn
    return present, uncertain


def told(world: World) -> Sequence[tuple[str, str, Sequence[str]]]:
    """Return what was published, account by account."""
    return [(event.account_guid, event.kind.value, event.changed) for event in world.events()]
