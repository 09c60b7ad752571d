"""Everything an operator may say, and what follows from it as a whole."""

from collections.abc import Iterator
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import model_validator

from bridge.config.pbx_tables import ListenTable, PbxTable
from bridge.config.table import Table
from bridge.config.tables import (
    LogTable,
    PublishTable,
    RabbitMqTable,
    ReplayTable,
    StatusTable,
    StoreTable,
    SubscriberTable,
    TracesTable,
    WalkTable,
)
from bridge.model import SourceName
from bridge.secret import HIDDEN, without_password


class Settings(Table):
    """Everything an operator may say."""

    rabbitmq: RabbitMqTable = RabbitMqTable()
    """The broker, and what is declared there."""
    store: StoreTable = StoreTable()
    """Where cursor, mirror and outbox are kept."""
    replay: ReplayTable = ReplayTable()
    """How long published events are kept."""
    publish: PublishTable = PublishTable()
    """Which fields leave, and which changes."""
    status: StatusTable = StatusTable()
    """The status page."""
    log: LogTable = LogTable()
    """Logs, on stderr."""
    traces: TracesTable = TracesTable()
    """Spans for OpenTelemetry; needs the extra otel."""
    walk: WalkTable = WalkTable()
    """Full walks, and what they may do."""
    pbx: tuple[PbxTable, ...] = ()
    """One for each PBX that is dialled."""
    listen: ListenTable | None = None
    """PBXs that dial, and need no table of their own; without this one none may."""
    subscriber: tuple[SubscriberTable, ...] = ()
    """A queue that is made before its subscriber first connects, so that it misses nothing; one for each."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [pbx.name for pbx in self.pbx]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two PBXs are called {name!r}; each needs a name of its own")
        return self

    def publish_of(self, pbx: SourceName) -> PublishTable:
        """Return what is published of one PBX: as ``[publish]`` says, unless its own table says something else."""
        own = next((table for table in self.pbx if table.name == pbx), None)
        told = {} if own is None else {name: getattr(own, name) for name in PublishTable.model_fields}
        return self.publish.model_copy(update={name: value for name, value in told.items() if value is not None})

    def redacted(self) -> dict[str, Any]:
        """Return the settings as shown to people."""
        shown = self.model_dump(mode="json", exclude_none=True)
        if self.rabbitmq.urls:
            shown["rabbitmq"]["url"] = ",".join(without_password(url) for url in self.rabbitmq.urls)
        if self.rabbitmq.stream_urls:
            shown["rabbitmq"]["stream_url"] = ",".join(without_password(url) for url in self.rabbitmq.stream_urls)
        for table in (*shown["pbx"], *shown.get("listen", {}).get("app", ())):
            if "password" in table:
                table["password"] = HIDDEN
        return shown

    def insecurities(self) -> Iterator[str]:
        """Yield a sentence for everything that was said to be insecure on purpose."""
        for pbx in self.pbx:
            if pbx.insecure:
                yield f"INSECURE: whoever answers at {pbx.url} is believed to be PBX {pbx.name} (pbx.insecure = true)."
            elif pbx.url.startswith("ws:") and not _is_loopback(pbx.url):
                yield f"INSECURE: PBX {pbx.name} is talked to without TLS (its url begins with ws:)."
        if self.rabbitmq.insecure:
            yield "INSECURE: whoever answers is believed to be the broker (rabbitmq.insecure = true)."
        if self.listen is not None and self.listen.insecure:
            yield f"INSECURE: PBXs dial {self.listen.url} without TLS (listen.insecure = true)."


def _is_loopback(url: str) -> bool:
    return urlsplit(url).hostname in {"127.0.0.1", "::1", "localhost"}
