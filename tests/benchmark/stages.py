"""Where the CPU of one change goes, stage by stage, each on its own in one thread."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bridge.broker.frames import publish_frames
from bridge.delivery.ingest import ingest
from bridge.events.cloudevents import encode, event_id, routing_key
from bridge.events.diff import compare
from bridge.events.normalize import Rules
from bridge.model import Batch, Cursor, OutboxRow, Row
from bridge.pbx.walk.actions import Ask, Pace, RowRead
from bridge.pbx.walk.walker import Walker
from bridge.pbx.wire import messages as m
from bridge.pbx.wire.login import login_digest
from bridge.pbx.wire.protocol import Conversation, Party
from bridge.simulator.pbx import Pbx
from bridge.simulator.session import Connection, Reply
from bridge.store.sqlite.store import SqliteStore
from tests.benchmark import sides
from tests.benchmark.bare import APP, PASSWORD
from tests.benchmark.figures import Figure
from tests.benchmark.growth import GROUP, WINDOW
from tests.benchmark.running import Benchmark, Run
from tests.support.events import LINEAGE
from tests.support.rows import HQ

STAGES: Final = {
    "wire": "reading an answer, deciding, writing the next question",
    "normalize": "comparing with what was known",
    "store": "cursor, mirror and outbox; reading it; recording the confirm",
    "encode": "making id and event",
    "publish": "making the frames",
}


Stage = tuple[str, Callable[[], Any]]
"""Its name, and the work of it; to be done once, and before the next stage is asked for."""


def stages(accounts: int) -> Iterator[Stage]:
    """Yield every stage with its work: what each of so many *accounts* needs of it. ``keep`` is more than ``store``."""
    rules, now = Rules(key=b"k" * 32), datetime(2026, 11, 29, tzinfo=UTC)
    answers = _answers(accounts)
    rows: list[Row] = []
    yield "wire", lambda: rows.extend(_walk(answers))
    changes = []

    def normalize() -> None:
        for row in rows:
            diff = compare(row, None, source=HQ, rules=rules)
            assert diff.change is not None
            changes.append(diff.change)

    yield "normalize", normalize

    def told() -> None:
        for sequence, change in enumerate(changes, start=1):
            identity = event_id(LINEAGE, HQ, sequence)
            routing_key(change)
            encode(change, identity=identity, sequence=sequence, lineage=LINEAGE, time=now)

    yield "encode", told
    outbox: list[OutboxRow] = []
    with tempfile.TemporaryDirectory() as folder, SqliteStore(Path(folder) / "bridge.db") as store:
        yield "keep", lambda: outbox.extend(_kept(store, rows, now))
    yield (
        "publish",
        lambda: [publish_frames(row, channel=1, exchange="pbx.accounts", frame_max=1 << 17) for row in outbox],
    )


def by_stage(took: Mapping[str, float]) -> dict[str, float]:
    """Return what each of ``STAGES`` took: keeping rows begins with normalizing them and making their events."""
    store = took["keep"] - took["normalize"] - took["encode"]
    return {stage: took.get(stage, store) for stage in STAGES}


def measured(*, accounts: int) -> dict[str, float]:
    """Take *accounts* through every stage; CPU seconds of each."""
    took = {}
    for stage, work in stages(accounts):
        busy = time.process_time()
        work()
        took[stage] = time.process_time() - busy
    return by_stage(took)


def _answers(accounts: int) -> Sequence[str]:
    """Return what a pretend PBX answers on a walk, from the challenge to the end of its list."""
    connection = Connection(Pbx(accounts=accounts, app=APP, password=PASSWORD, remember=1, seed=1))
    connection.begin(0.0)
    answers: list[str] = []

    def exchange(text: str) -> str:
        answers.append(next(reply.text for reply in connection.receive(text, 0.0) if isinstance(reply, Reply)))
        return answers[-1]

    assert len(_walked(exchange)) == accounts
    return answers


def _walk(answers: Sequence[str]) -> Sequence[Row]:
    """Walk once more to the same answers: our end of the conversation, and nothing else."""
    known = iter(answers)
    return _walked(lambda _question: next(known))


def _walked(exchange: Callable[[str], str]) -> Sequence[Row]:
    conversation = Conversation(Party.BRIDGE, caller=Party.BRIDGE)
    challenge = conversation.receive(exchange(conversation.say(m.AppChallenge())))
    assert isinstance(challenge, m.AppChallengeResult)
    digest = login_digest(app=APP, challenge=challenge.challenge, password=PASSWORD)
    conversation.receive(exchange(conversation.say(m.AppLogin(APP, digest))))
    walker = Walker(Cursor(), Pace(), chance=lambda: 0.5)
    actions = walker.begin(0.0)
    rows: list[Row] = []
    while asks := [action for action in actions if isinstance(action, Ask)]:
        actions = walker.heard(conversation.receive(exchange(conversation.ask(asks[0].cursor))), 0.0)
        rows += [action.row for action in actions if isinstance(action, RowRead)]
    return rows


def _kept(store: SqliteStore, rows: Sequence[Row], now: datetime) -> Sequence[OutboxRow]:
    outbox: list[OutboxRow] = []
    since = Cursor()
    for start in range(0, len(rows), GROUP):
        group = rows[start : start + GROUP]
        batch = Batch(HQ, since, group[-1].cursor, group)
        ingest(store, batch, rules=Rules(key=store.key), now=now)
        since = batch.until
        position = outbox[-1].position if outbox else 0
        while page := store.exchange.unpublished({HQ: position}, WINDOW, WINDOW):
            position = page[-1].position
            outbox += page
            store.exchange.mark_published(page, now)
    return outbox


def _stages(run: Run) -> list[Figure]:
    count = run.pick(10_000, 2000)
    figures = {
        stage: Figure(f"cpu_us_{stage}", f"CPU per change, {stage}: {what}", "µs") for stage, what in STAGES.items()
    }
    for _ in run.rounds(5):
        for stage, seconds in sides.run("stages", "measured", accounts=count).items():
            figures[stage].add(seconds / count * 1e6, 0.0, seconds / count * 1e6)
    return list(figures.values())


BENCHMARKS = (Benchmark("stages", tuple(f"cpu_us_{stage}" for stage in STAGES), _stages),)
