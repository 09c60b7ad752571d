"""Everything an operator may say, and what follows from it as a whole."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import PrivateAttr, model_validator

from bridge.config.base import Table
from bridge.config.pbx_tables import ListenTable, PbxTable
from bridge.config.store_table import StoreTable
from bridge.config.tables import (
    FleetTable,
    LogTable,
    PublishTable,
    RabbitMqTable,
    ReplayTable,
    StatusTable,
    SubscriberTable,
    TracesTable,
    WalkTable,
)
from bridge.errors import FileUnusable
from bridge.events.wording import clean
from bridge.model import SourceName
from bridge.security.urls import HIDDEN, read_scheme, without_password


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
    fleet: FleetTable = FleetTable()
    """Many PBXs."""
    listen: ListenTable | None = None
    """PBXs that dial, and need no table of their own; without this one none may."""
    subscriber: tuple[SubscriberTable, ...] = ()
    """A queue that is made before its subscriber first connects, so that it misses nothing; one for each."""

    _files: dict[SourceName, Path] = PrivateAttr(default_factory=dict)
    _unusable: dict[Path, str] = PrivateAttr(default_factory=dict)

    @property
    def pbx_files(self) -> Mapping[SourceName, Path]:
        """The file in ``fleet.pbx_dir`` of each PBX that has one."""
        return self._files

    @property
    def unusable_files(self) -> Mapping[Path, str]:
        """Files in ``fleet.pbx_dir`` that are no PBX, and what is wrong with each, in a sentence."""
        return self._unusable

    @property
    def shown_unusable_files(self) -> Mapping[str, str]:
        """The same, with their names as they can be shown."""
        return {clean(str(file)): words for file, words in self._unusable.items()}

    def with_pbxs(
        self, pbxs: Sequence[PbxTable], files: Mapping[SourceName, Path], unusable: Mapping[Path, str]
    ) -> Self:
        """Return the same settings with these PBXs instead, some of which have *files*; *unusable* ones are no PBX."""
        settings = self.model_copy(update={"pbx": tuple(pbxs)})
        settings._files, settings._unusable = dict(files), dict(unusable)  # noqa: SLF001 - of its own class
        return settings

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        for name, count in Counter(pbx.name for pbx in self.pbx).items():
            if count > 1:
                raise ValueError(f"two PBXs are called {name!r}; each needs a name of its own")
        return self

    def resolve_publish(self, pbx: SourceName) -> PublishTable:
        """Return what is published of one PBX: as ``[publish]`` says, unless its own table says something else."""
        own = next((table for table in self.pbx if table.name == pbx), None)
        told = {} if own is None else {name: getattr(own, name) for name in PublishTable.model_fields}
        return self.publish.model_copy(update={name: value for name, value in told.items() if value is not None})

    def redacted(self) -> dict[str, Any]:
        """Return the settings as shown to people."""
        shown = self.model_dump(mode="json", exclude_none=True)
        for name, secret in (("url", self.rabbitmq.secret), ("stream_url", self.rabbitmq.stream_secret)):
            if secret is not None:
                with suppress(FileUnusable):  # whoever needs it will say so
                    shown["rabbitmq"][name] = secret.reveal()
        for table in (*shown["pbx"], *shown.get("listen", {}).get("app", ())):
            if "password" in table:
                table["password"] = HIDDEN
        shown = {name: _shown(table) for name, table in shown.items()}
        shown["store"]["url"] = self.store.shown
        return shown

    def troubles(self) -> Iterator[tuple[str, str]]:
        """Yield who does not work at present, as far as files say: its name, and what is wrong with which file."""
        for file, words in self._unusable.items():
            yield f"PBX of {clean(file.name)}", words
        for pbx in self.pbx:
            yield from ((f"PBX {pbx.name}", words) for words in (pbx.secret.trouble, pbx.tls.trouble) if words)
        for app in self.listen.app if self.listen is not None else ():
            if words := app.secret.trouble:
                yield f"App object {app.name}", words
        broker = self.rabbitmq
        for secret in (broker.secret, broker.stream_secret):
            if secret is not None and secret.trouble:
                yield "broker", secret.trouble
        if broker.tls.trouble:
            yield "broker", broker.tls.trouble
        if self.store.secret is not None and self.store.secret.trouble:
            yield "store", self.store.secret.trouble

    def insecurities(self) -> Iterator[str]:
        """Yield a sentence for everything that was said to be insecure on purpose."""
        for pbx in self.pbx:
            if pbx.insecure:
                where = without_password(pbx.url)
                yield f"INSECURE: whoever answers at {where} is believed to be PBX {pbx.name} (pbx.insecure = true)."
            elif pbx.url.startswith("ws:") and not _is_loopback(pbx.url):
                yield f"INSECURE: PBX {pbx.name} is talked to without TLS (its url begins with ws:)."
        if self.rabbitmq.insecure:
            yield "INSECURE: whoever answers is believed to be the broker (rabbitmq.insecure = true)."
        if words := self.store.insecurity:
            yield f"INSECURE: {words}."
        if self.listen is not None and self.listen.insecure:
            yield f"INSECURE: PBXs dial {self.listen.url} without TLS (listen.insecure = true)."


def _is_loopback(url: str) -> bool:
    return urlsplit(url).hostname in {"127.0.0.1", "::1", "localhost"}


def _shown(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shown(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_shown(inner) for inner in value]
    return without_password(value) if isinstance(value, str) and read_scheme(value) else value
