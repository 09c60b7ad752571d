"""Where the CPU of one change goes, stage by stage, each on its own in one thread."""

import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

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

Result = TypeVar("Result")

STAGES = {
    "wire": "reading an answer, deciding, writing the next question",
    "normalize": "comparing with what was known",
    "store": "cursor, mirror and outbox; reading it; recording the confirm",
    "encode": "making id and event",
    "publish": "making the frames",
}


def measured(*, accounts: int) -> dict[str, Any]:
    """Take *accounts* through every stage; CPU seconds of each."""
    rules = Rules(key=b"k" * 32)
    now = datetime.now(UTC)
    rows, wire = _wire(accounts)
    judged, normalize = _timed(lambda: [compare(row, None, source=HQ, rules=rules) for row in rows])
    changes = [judgement.change for judgement in judged if judgement.change is not None]

    def told() -> list[bytes]:
        bodies = []
        for sequence, change in enumerate(changes, start=1):
            identity = event_id(LINEAGE, HQ, sequence)
            routing_key(change)
            bodies.append(encode(change, identity=identity, sequence=sequence, lineage=LINEAGE, time=now))
        return bodies

    _, encoding = _timed(told)
    outbox, keeping = _store(rows, now)
    _, framing = _timed(
        lambda: [publish_frames(row, channel=1, exchange="pbx.accounts", frame_max=131072) for row in outbox]
    )
    return {
        "wire": wire,
        "normalize": normalize,
        "store": keeping - normalize - encoding,
        "encode": encoding,
        "publish": framing,
    }


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    busy = time.process_time()
    result = work()
    return result, time.process_time() - busy


def _wire(accounts: int) -> tuple[list[Row], float]:
    """Walk a pretend PBX without sockets; the rows, and the seconds that our end of the conversation took."""
    pbx = Pbx(accounts=accounts, app=APP, password=PASSWORD, remember=1)
    connection = Connection(pbx)
    conversation = Conversation(Party.BRIDGE, caller=Party.BRIDGE)
    connection.begin(0.0)

    def exchange(text: str) -> str:
        return next(reply.text for reply in connection.receive(text, 0.0) if isinstance(reply, Reply))

    challenge = conversation.receive(exchange(conversation.say(m.AppChallenge())))
    assert isinstance(challenge, m.AppChallengeResult)
    digest = login_digest(app=APP, challenge=challenge.challenge, password=PASSWORD)
    conversation.receive(exchange(conversation.say(m.AppLogin(APP, digest))))
    walker = Walker(Cursor(), Pace(), chance=lambda: 0.5)
    actions = walker.begin(0.0)
    rows: list[Row] = []
    took = 0.0
    while asks := [action for action in actions if isinstance(action, Ask)]:
        began = time.perf_counter()
        question = conversation.ask(asks[0].cursor)
        took += time.perf_counter() - began
        answer = exchange(question)
        began = time.perf_counter()
        actions = walker.heard(conversation.receive(answer), 0.0)
        took += time.perf_counter() - began
        rows += [action.row for action in actions if isinstance(action, RowRead)]
    assert len(rows) == accounts
    return rows, took


def _store(rows: Sequence[Row], now: datetime) -> tuple[list[OutboxRow], float]:
    outbox: list[OutboxRow] = []
    with tempfile.TemporaryDirectory() as folder, SqliteStore(Path(folder) / "bridge.db") as store:
        busy = time.process_time()
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
        took = time.process_time() - busy
    return outbox, took


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
