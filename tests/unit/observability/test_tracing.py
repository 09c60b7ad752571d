from collections.abc import Iterator
from datetime import timedelta

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from bridge.errors import BadConfig
from bridge.events.cloudevents import event_id
from bridge.events.trace_context import derive_trace
from bridge.model import AccountChange, Certificate, ChangeKind, Cursor, OutboxRow, Token
from bridge.observability.tracing import Tracer, tracing
from tests.support.boards import NOW
from tests.support.events import LINEAGE
from tests.support.rows import HQ

BEFORE = NOW - timedelta(seconds=2)
CHANGE = AccountChange(HQ, ChangeKind.CREATED, {"guid": "g"}, (), {}, 1, Cursor(Token('"e"'), Token("1")))
ID = event_id(LINEAGE, HQ, 1)


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exporter: InMemorySpanExporter) -> Iterator[Tracer]:
    made = Tracer(exporter, clock=lambda: NOW, version="0")
    yield made
    made.close()


def spans(tracer: Tracer, exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    tracer.close()
    return {span.name: span for span in exporter.get_finished_spans()}


def row(event_type: str = "pbx.account.changed") -> OutboxRow:
    return OutboxRow(1, HQ, 1, ID, event_type, "hq.account.created", b"{}", BEFORE)


def test_the_header_of_a_message_names_the_span_of_its_change(tracer: Tracer, exporter: InMemorySpanExporter) -> None:
    tracer.ingested(HQ, [(ID, CHANGE)], BEFORE)
    found = spans(tracer, exporter)
    context = found["account changed"].get_span_context()
    assert context is not None
    assert f"00-{context.trace_id:032x}-{context.span_id:016x}-01" == derive_trace(ID).traceparent
    assert found["account changed"].parent is None
    assert found["account changed"].links[0].context == found["ingest"].get_span_context()
    assert found["ingest"].links[0].context.trace_id == context.trace_id


def test_publishing_hangs_below_the_change_and_lasts_until_the_confirm(
    tracer: Tracer, exporter: InMemorySpanExporter
) -> None:
    tracer.published([row(), row("pbx.source.verified")])
    publish = spans(tracer, exporter)["publish"]
    assert publish.parent is not None
    assert (publish.parent.trace_id, publish.parent.span_id) == derive_trace(ID)
    assert publish.start_time is not None
    assert publish.end_time is not None
    assert publish.end_time - publish.start_time == 2_000_000_000
    assert len(exporter.get_finished_spans()) == 1, "a certificate is no change"


def test_a_walk_is_a_span(tracer: Tracer, exporter: InMemorySpanExporter) -> None:
    tracer.walked(Certificate(HQ, 3, BEFORE, NOW, 412, 0, 0, 0, 0, 1234))
    walk = spans(tracer, exporter)["walk"]
    assert walk.attributes is not None
    assert (walk.attributes["pbx"], walk.attributes["accounts"]) == ("hq", 412)


def test_where_the_extra_is_missing_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(BadConfig, match="otel"), tracing("http://127.0.0.1:1", clock=lambda: NOW, version="0"):
        pass
