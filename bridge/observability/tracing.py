"""Spans for OpenTelemetry, where ``traces.enabled`` is set; else nothing of it is even imported.

Spans are made from what is known when something is over: ``walk`` for a full walk, ``ingest`` for what became durable
together, and for every event ``account changed`` and below it ``publish``, from then to the broker's confirm.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

from bridge.errors import BadConfig
from bridge.events.cloudevents import ACCOUNT_CHANGED
from bridge.events.trace_context import EventTrace, derive_trace
from bridge.model import AccountChange, Certificate, OutboxRow, SourceName

SERVICE: Final = "pbx-account-bridge"
MAX_LINKS: Final = 128
"""From one span to the changes that came of it: what the SDK keeps of them by default."""


class Tracer:
    """Turns what happened into spans for *exporter*, a ``SpanExporter`` of the SDK."""

    def __init__(self, exporter: Any, *, clock: Callable[[], datetime], version: str) -> None:
        from opentelemetry import trace  # noqa: PLC0415 - only with the extra
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - the same
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - the same
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - the same
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON  # noqa: PLC0415 - the same

        self._api = trace
        self._clock = clock
        self._ids = _ids()
        resource = Resource.create({"service.name": SERVICE, "service.version": version})
        # The header of every message says "sampled"; whoever wants fewer drops them in the collector.
        self._provider = TracerProvider(ALWAYS_ON, resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(SERVICE, version)

    def walked(self, certificate: Certificate) -> None:
        """Record a full walk that was proven."""
        span = self._tracer.start_span(
            "walk",
            context=self._api.set_span_in_context(self._api.INVALID_SPAN),
            start_time=_nanoseconds(certificate.started_at),
            attributes={
                "pbx": certificate.source,
                "accounts": certificate.accounts,
                "repaired": certificate.repaired,
                "deleted": certificate.deleted,
                "held": certificate.held,
            },
        )
        span.end(_nanoseconds(certificate.verified_at))

    def ingested(self, source: SourceName, changes: Sequence[tuple[str, AccountChange]], began_at: datetime) -> None:
        """Record changes, with the ids of their events, that became durable together, since *began_at*."""
        start, end = _nanoseconds(began_at), _nanoseconds(self._clock())
        traces = [derive_trace(event_id) for event_id, _ in changes]
        ingest = self._tracer.start_span(
            "ingest",
            context=self._api.set_span_in_context(self._api.INVALID_SPAN),
            start_time=start,
            attributes={"pbx": source, "changes": len(changes)},
            links=[self._api.Link(self._context(trace)) for trace in traces[:MAX_LINKS]],
        )
        ingest.end(end)
        cause = [self._api.Link(ingest.get_span_context())]
        for trace, (_, change) in zip(traces, changes, strict=True):
            self._ids.next = trace
            span = self._tracer.start_span(
                "account changed",
                context=self._api.set_span_in_context(self._api.INVALID_SPAN),
                kind=self._api.SpanKind.PRODUCER,
                start_time=start,
                attributes={"pbx": source, "change": change.kind.value, "account.guid": change.account["guid"]},
                links=cause,
            )
            span.end(end)

    def published(self, rows: Sequence[OutboxRow]) -> None:
        """Record rows that the broker has just confirmed."""
        end = _nanoseconds(self._clock())
        for row in rows:
            if row.event_type != ACCOUNT_CHANGED:
                continue
            above = self._api.NonRecordingSpan(self._context(derive_trace(row.event_id)))
            span = self._tracer.start_span(
                "publish",
                context=self._api.set_span_in_context(above),
                kind=self._api.SpanKind.PRODUCER,
                start_time=_nanoseconds(row.created_at),
                attributes={
                    "messaging.system": "rabbitmq",
                    "messaging.rabbitmq.destination.routing_key": row.routing_key,
                    "messaging.message.id": row.event_id,
                    "messaging.message.body.size": len(row.body),
                    "in_doubt": row.is_in_doubt,
                },
            )
            span.end(end)

    def close(self) -> None:
        """Send what is left; waits for the collector no longer than the exporter's own time-out."""
        self._provider.shutdown()

    def _context(self, trace: EventTrace) -> Any:
        flags = self._api.TraceFlags(self._api.TraceFlags.SAMPLED)
        return self._api.SpanContext(trace.trace_id, trace.span_id, is_remote=True, trace_flags=flags)


@contextmanager
def tracing(endpoint: str, *, clock: Callable[[], datetime], version: str) -> Iterator[Tracer]:
    """Send spans by OTLP over HTTP to *endpoint* (like ``http://collector:4318``) while inside.

    Raises:
        BadConfig: the extra is not installed.

    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - the extra
    except ImportError as problem:
        raise BadConfig(
            "traces need OpenTelemetry: pip install 'pbx-account-bridge[otel]', or set traces.enabled = false"
        ) from problem
    tracer = Tracer(OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=5), clock=clock, version=version)
    try:
        yield tracer
    finally:
        tracer.close()


def _ids() -> Any:
    """Return a generator of ids that can be told the next ones: of a change they follow from its event."""
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator  # noqa: PLC0415 - only with the extra

    class EventIds(RandomIdGenerator):
        next: EventTrace | None = None

        def generate_trace_id(self) -> int:
            return self.next.trace_id if self.next is not None else super().generate_trace_id()

        def generate_span_id(self) -> int:
            told, self.next = self.next, None
            return told.span_id if told is not None else super().generate_span_id()

    return EventIds()


def _nanoseconds(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000) * 1000
