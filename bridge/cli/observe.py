"""``observe``: how one PBX behaves where the vendor's page says nothing."""

import asyncio
import errno
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from secrets import token_bytes
from threading import Thread
from typing import Final, Self, TextIO

import click

from bridge.cli.common import Number, config_option, json_option, print_json, read_settings, run_now, stop_signals
from bridge.clock import steady, utc_now
from bridge.config.pbx_tables import ListenTable, PbxTable
from bridge.config.settings import Settings
from bridge.errors import BadConfig, BridgeError
from bridge.events.wording import clean
from bridge.model import SourceName
from bridge.observability.source_status import SourceStatus
from bridge.ops.observe.inbound_line import InboundLine
from bridge.ops.observe.line import Line, SourceLine
from bridge.ops.observe.observation import Observation, conclude_from
from bridge.ops.observe.probing import Observer, Operator, Plan
from bridge.ops.observe.report import as_html, as_text
from bridge.pbx.inbound.admission import ConnectionLimiter
from bridge.pbx.recording.notebook import Notebook
from bridge.pbx.recording.pseudonyms import KEY_BYTES, Pseudonyms
from bridge.runtime.listening import build_bounds, build_listener
from bridge.runtime.wiring import build_dialler
from bridge.security.secret import scrub

_FILE: Final = click.Path(dir_okay=False, path_type=Path)


@click.command()
@config_option
@click.argument("source")
@click.option("--with-me", is_flag=True, help="Ask you for six acts in the PBX, and watch what comes of each.")
@click.option(
    "--rows-per-second",
    default=5.0,
    show_default=True,
    type=Number(0.01, 1000),
    help="So many questions at most, one at a time.",
)
@click.option(
    "--max-rows",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Read so many accounts of the list, and so perhaps not its end; 0 reads all.",
)
@click.option(
    "--quiet-seconds",
    default=70.0,
    show_default=True,
    type=Number(0, 3600),
    help="Say nothing for so long, to see whether the PBX or something before it hangs up.",
)
@click.option(
    "--answer-seconds", type=Number(0.1, 600), help="How long an answer may take; by default as the bridge waits."
)
@click.option("--record", type=_FILE, help="Write what passed into this file, under pseudonyms.")
@click.option("--html", type=_FILE, help="Write the table into this file as a page, too.")
@json_option
def observe(  # noqa: PLR0913, PLR0917 - the options of a command, which are passed by name
    config: Path | None,
    source: str,
    rows_per_second: float,
    max_rows: int,
    quiet_seconds: float,
    answer_seconds: float | None,
    record: Path | None,
    html: Path | None,
    *,
    with_me: bool,
    as_json: bool,
) -> None:
    """Find out how the PBX named SOURCE behaves where the vendor's page says nothing, by reading only.

    Beside a running bridge or without one; nothing is published, and the store is not touched. One that dials the
    bridge is waited for, in place of the bridge, which has to be stopped for that. A list of 1000 accounts takes five
    minutes. Ctrl-C ends it at any time and shows what was learnt. What is recorded and shown has no person
    in it: names, numbers and addresses are replaced by keyed hashes, and secrets are dropped.
    """
    settings = read_settings(config, require=False, level="error")
    table = _find(settings, source)
    plan = Plan(
        rows_per_second=rows_per_second,
        max_rows=max_rows,
        answer_seconds=answer_seconds or table.answer_timeout_seconds,
        quiet_seconds=quiet_seconds,
    )
    with _NewFile(record) as recording, _NewFile(html) as page:
        notebook = Notebook(Pseudonyms(token_bytes(KEY_BYTES)), steady, recording.write)
        trouble = run_now(_observed(table, source, plan, notebook, _asked if with_me else None))
        if not notebook.has_asked:
            raise trouble or BridgeError("it was stopped before the PBX was asked anything, so nothing was learnt")
        observation = conclude_from(notebook.frames)
        try:
            recording.write("".join(notebook.lines(observation.words)), is_all=True)
            page.write(as_html(observation, source))
        except BridgeError as problem:  # what was learnt is shown all the same
            trouble = trouble or problem
    _show(observation, source, as_json=as_json)
    if trouble is not None:
        raise trouble


def _find(settings: Settings, name: str) -> PbxTable | ListenTable:
    """Return what is configured for the PBX called *name*; for one that dials, where it does that."""
    pbx = next((pbx for pbx in settings.pbx if pbx.name == name), None)
    if pbx is not None:
        return pbx
    if settings.listen is not None:
        return settings.listen
    named = ", ".join(pbx.name for pbx in settings.pbx) or "none"
    raise BadConfig(f"there is no [[pbx]] named {name!r} (there is: {named}), and no [listen] for one that dials")


@asynccontextmanager
async def _line_to(table: PbxTable | ListenTable, name: str, notebook: Notebook) -> AsyncIterator[Line]:
    """Yield the way to the PBX called *name*, whoever of the two dials.

    Raises:
        BadConfig: the address cannot be listened on.

    """
    if isinstance(table, PbxTable):
        yield SourceLine(build_dialler(table, SourceStatus(since=utc_now()), notebook.connection), table.tls.refresh)
        return
    line = InboundLine(SourceName(name), lambda at: notebook.connection(at=at), _tell)
    listener = build_listener(table, ConnectionLimiter(build_bounds(table)), line.source_for)
    async with listener.listening():
        url = table.model_copy(update={"port": listener.port}).url
        _tell(f"no [[pbx]] is named {name}: listening on {url} for one that dials, in place of the bridge")
        try:
            yield line
        finally:
            for reason, times in listener.record.refusals.items():
                _tell(f"refused at the door: {clean(reason)} ({times})")


async def _observed(
    table: PbxTable | ListenTable, name: str, plan: Plan, notebook: Notebook, operator: Operator | None
) -> BridgeError | None:
    """Observe until all is asked, somebody stops it, or the PBX is of no more use; return why it is not."""
    async with _line_to(table, name, notebook) as line:
        observer = Observer(line, notebook, plan, tell=_tell, operator=operator)
        with stop_signals() as stop:
            observing = asyncio.create_task(observer.run())
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait([observing, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not observing.done():
                _tell("stopped" + ("; this is what was learnt" if notebook.has_asked else ""))
            for task in (observing, stopping):
                task.cancel()
            await asyncio.wait([observing, stopping])
    if observing.cancelled():
        return None
    failure = observing.exception()
    if failure is None or isinstance(failure, BridgeError):
        return failure
    raise failure


async def _asked(name: str, words: str) -> bool:
    """Ask the operator for an act; a line read tells that it is done, and one that says ``skip`` that it is not."""
    click.echo(f"\n[{name}] {words}. Then press Enter; or type skip.", err=True)
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[str] = loop.create_future()

    def settle(line: str) -> None:
        if not answered.done():
            answered.set_result(line)

    def read() -> None:
        line = sys.stdin.readline()
        loop.call_soon_threadsafe(settle, line or "skip")

    Thread(target=read, daemon=True).start()  # a thread of the loop's own would keep the process from ending
    return (await answered).strip().lower() != "skip"


def _tell(sentence: str) -> None:
    click.echo(scrub(sentence), err=True)


class _NewFile:
    """A file, if one is named, that is not there before something is written: whatever ends earlier leaves none.

    That it can be made is looked at first, since what it is for takes minutes.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._opened: TextIO | None = None
        if path is None:
            return
        if os.path.lexists(path):
            raise self._unusable(errno.EEXIST)
        if not path.parent.is_dir():
            raise self._unusable(errno.ENOENT)
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise self._unusable(errno.EACCES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._opened is not None:
            with suppress(OSError):
                self._opened.close()

    def write(self, text: str, *, is_all: bool = False) -> None:
        """Write *text* at once, so that it is there whatever happens next; in place of what is there if it *is_all*.

        Raises:
            BridgeError: that is not possible.

        """
        if self._path is None:
            return
        try:
            if self._opened is None:
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
                self._opened = os.fdopen(descriptor, "w", encoding="utf-8")
            if is_all:
                self._opened.seek(0)
                self._opened.truncate()
            self._opened.write(text)
            self._opened.flush()
        except OSError as problem:
            raise self._unusable(problem.errno) from problem

    def _unusable(self, number: int | None) -> BridgeError:
        return BridgeError(f"{self._path} cannot be written: {os.strerror(number or errno.EIO)}. Name another one")


def _show(observation: Observation, name: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"source": name, **observation.as_json()})
    else:
        click.echo(scrub("\n".join(as_text(observation, name))))


COMMANDS: Final = (observe,)
