"""The configuration, read again while the bridge runs: PBXs come, go and change, and what needs a restart is named.

What is read either counts as a whole or not at all: a mistake changes nothing, but for one in a file of
``fleet.pbx_dir``, which leaves that PBX as it was. A PBX that was taken out is read no more, what was read of it is
sent, and its rows stay. One that was changed is connected anew, and goes on where it was.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from bridge.clock import utc_now
from bridge.config.pbx_tables import PbxTable
from bridge.config.settings import Settings
from bridge.errors import BadConfig, BridgeError
from bridge.events.wording import clean
from bridge.logs import get_logger
from bridge.observability.source_status import SourceStatus
from bridge.runtime.bridge import Bridge
from bridge.runtime.reloaded import Reloaded
from bridge.runtime.source_worker import SourceSpec

_PBXS: Final = "pbx"
"""The one table that is taken over while the bridge runs."""

Build = Callable[[PbxTable, SourceStatus, Settings], SourceSpec]
"""Returns what is followed of a PBX, which tells its place what it does."""

log = get_logger(__name__)


def compare(before: Settings, after: Settings) -> Reloaded:
    """Return what is to be done about *after* by a bridge that runs with *before*."""
    known, wanted = ({pbx.name: pbx.model_dump() for pbx in each.pbx} for each in (before, after))
    return Reloaded(
        added=[name for name in wanted if name not in known],
        removed=[name for name in known if name not in wanted],
        changed=[name for name, table in wanted.items() if name in known and table != known[name]],
        unusable=list(after.unusable_files.values()),
        needs_restart=list(_differing(_others(before), _others(after))),
    )


def _others(settings: Settings) -> dict[str, Any]:
    return {name: table for name, table in settings.model_dump().items() if name != _PBXS}


def _differing(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """Yield the keys below *path* that say something else, without what they say."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in before:
            yield from _differing(before[name], after[name], f"{path}.{name}" if path else name)
    elif before != after:
        yield path


class Reloader:
    """Takes over what *load* returns; *settings* are those that *bridge* was made of, *build* makes what is followed.

    One time after the other, however often it is asked for meanwhile.
    """

    def __init__(self, bridge: Bridge, settings: Settings, load: Callable[[], Settings], build: Build) -> None:
        self._bridge = bridge
        self._settings = settings
        self._load = load
        self._build = build
        self._alone = asyncio.Lock()
        self._wanted = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Reloader of {len(self._settings.pbx)} PBXs>"

    def request(self) -> None:
        """Have it done soon by ``keep_reloading``."""
        self._wanted.set()

    async def keep_reloading(self) -> None:
        """Do it whenever it is requested, for ever; what is wrong is logged and shown."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await self.reload()
            except BridgeError as problem:
                log.error("reload.refused", problem=str(problem))  # noqa: TRY400 - whose mistake it is stands in it

    async def reload(self) -> Reloaded:
        """Read the configuration again, and take over what can be.

        Raises:
            BadConfig: there is a mistake in it, and nothing is changed.
            BridgeError: the bridge is stopping.

        """
        async with self._alone:
            try:
                # In a thread: a thousand files took 0.2 s, in which every PBX would wait.
                wanted = self._kept(await asyncio.to_thread(self._load))
                done = await asyncio.to_thread(compare, self._settings, wanted)
                self._refuse_taken_names(wanted)
            except BadConfig as problem:
                self._bridge.board.config_trouble = clean(" ".join(str(problem).split()))
                raise
            if self._bridge.is_stopping:
                raise BridgeError("the bridge is stopping")
            self._settings = self._settings.with_pbxs(wanted.pbx, wanted.pbx_files, wanted.unusable_files)
            await self._take_over(done)
            board = self._bridge.board
            board.unusable_files = wanted.shown_unusable_files
            board.config_trouble = ""
            board.insecurities = list(self._settings.insecurities())
            for who, words in self._settings.troubles():
                log.error("file.unusable", of=who, problem=words)
            log.info(
                "reload.done",
                added=done.added,
                removed=done.removed,
                changed=done.changed,
                needs_restart=done.needs_restart,
            )
            return done

    def _kept(self, wanted: Settings) -> Settings:
        """Return *wanted* with those PBXs as they were whose file is unusable now."""
        tables, names = {pbx.name: pbx for pbx in self._settings.pbx}, {pbx.name for pbx in wanted.pbx}
        kept = {
            name: file
            for name, file in self._settings.pbx_files.items()
            if file in wanted.unusable_files and name not in names
        }
        pbxs = (*wanted.pbx, *(tables[name] for name in kept))
        return wanted.with_pbxs(pbxs, {**wanted.pbx_files, **kept}, wanted.unusable_files)

    def _refuse_taken_names(self, wanted: Settings) -> None:
        dialling = self._bridge.board.sources.keys() - set(self._bridge.dialled)
        for pbx in wanted.pbx:
            if pbx.name in dialling:
                raise BadConfig(
                    f"a PBX that dials us is called {pbx.name}, too; give the one that we dial another name"
                )

    async def _take_over(self, done: Reloaded) -> None:
        tables = {pbx.name: pbx for pbx in self._settings.pbx}
        names = {str(name): name for name in (*tables, *self._bridge.dialled)}
        # Nobody else may take the name of one that comes, nor that of one before all that was read of it is durable.
        self._bridge.dialled = names.values()
        if self._bridge.sharing is not None:
            settings = self._settings
            await self._bridge.sharing.configure(
                list(tables), done.changed, lambda name, part: self._build(tables[name], part, settings)
            )
            self._bridge.dialled = tables.keys()
            return
        async with asyncio.TaskGroup() as group:
            leaving = {
                name: group.create_task(self._bridge.unfollow(names[name])) for name in (*done.removed, *done.changed)
            }
        for name in (*done.added, *done.changed):
            part = leaving[name].result() if name in leaving else SourceStatus(since=utc_now())
            spec = self._build(tables[names[name]], part, self._settings)
            self._bridge.follow(spec, part, is_added=name not in leaving)
        self._bridge.dialled = tables.keys()
        await self._bridge.show_left()
