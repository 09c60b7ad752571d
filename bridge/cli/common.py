"""What several commands share: the settings, the event loop, and how a person ends it."""

import asyncio
import codecs
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any, Final, TypeVar, cast

import click
import orjson
from rich.console import Console

from bridge import logs
from bridge.config.base import Name
from bridge.config.base import short as check_key
from bridge.config.loading import CONFIG_VARIABLE, load_settings
from bridge.config.settings import Settings
from bridge.config.tables import check_amqp, check_exchange, check_queue
from bridge.model import SourceName
from bridge.security.secret import scrub
from bridge.store.records import SourceRecord

FAILED: Final = 1
MISUSED: Final = 2

IN_PROCESS_LIST: Final = (
    "Everybody on this machine sees a password in it in the list of processes; better set BRIDGE_RABBITMQ_URL_FILE."
)
"""What the help says of an option that may have a password in it."""

Result = TypeVar("Result")

CONFIG_FILE: Final = click.Path(dir_okay=False, path_type=Path)
CONFIG_HELP: Final = "The TOML file with the settings. BRIDGE_… variables win over it."

config_option = click.option("--config", "config", type=CONFIG_FILE, envvar=CONFIG_VARIABLE, help=CONFIG_HELP)
own_config_option = click.option("--config", "own_config", type=CONFIG_FILE, help=CONFIG_HELP)
"""For a subcommand, beside that of its group, which reads the variable and counts where this one is not given."""


def stand_for(context: click.Context, config: Path) -> None:
    """Have *config*, given in front of a command, count for all behind it that are given none themselves."""
    before = os.environ.get(CONFIG_VARIABLE)

    def put_back() -> None:
        os.environ.pop(CONFIG_VARIABLE)
        if before is not None:
            os.environ[CONFIG_VARIABLE] = before

    os.environ[CONFIG_VARIABLE] = str(config)
    context.call_on_close(put_back)


YEARS: Final = range(1970, 9999)
"""Of times that brokers and databases can be asked about."""

LARGEST: Final = (1 << 63) - 1
"""Of the numbers that SQLite keeps."""


def time_option(_context: click.Context, _option: click.Parameter, text: str) -> datetime:
    """Return the time an option names; without a zone it is that of this machine."""
    try:
        told = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        told = None
    if told is None or told.year not in YEARS:
        raise click.BadParameter(f"must be a time like 2026-11-23T20:00, not {text!r}")
    return told


def checked(check: Callable[[str], object]) -> Callable[[str], str]:
    """Return the type of an option whose text *check* has nothing against; it raises a ``ValueError`` otherwise."""

    def text(given: str) -> str:
        try:
            check(given)
        except ValueError as problem:
            raise click.BadParameter(str(problem)) from problem
        return given

    return text


class Number(click.FloatRange):
    """A number from *min* to *max*, which ``nan`` is not."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return *value*, or fail with what is wrong."""
        number = super().convert(value, param, ctx)
        if number != number:  # noqa: PLR0124 - which is what tells it
            self.fail("is no number", param, ctx)
        return number


QUEUE: Final = checked(check_queue)
EXCHANGE: Final = checked(check_exchange)
KEY: Final = checked(check_key)
NAME: Final = checked(cast("Callable[[str], object]", Name.func))
BROKER: Final = checked(check_amqp)
PORT: Final = click.IntRange(0, 65535)


def read_settings(config: Path | None, *, require: bool = True, level: str | None = None) -> Settings:
    """Return the settings, with the logs set up as they say; *require*: a PBX and a broker must be among them.

    Raises:
        BadConfig: with every mistake in one message.

    """
    settings = load_settings(config, os.environ, require_pbx=require, require_rabbitmq=require)
    logs.configure(level or settings.log.level, settings.log.format)
    return settings


def followed_in(settings: Settings, known: Sequence[SourceRecord]) -> frozenset[SourceName]:
    """Return which PBXs of a store are followed by a bridge with *settings*; all, where these name none."""
    if not settings.pbx and settings.listen is None:
        return frozenset(source.name for source in known)
    configured = {pbx.name for pbx in settings.pbx}
    return frozenset(
        source.name for source in known if source.name in configured or (source.dials and settings.listen is not None)
    )


def not_followed(name: str) -> str:
    """Return what is to be said where a PBX is asked about that is in the store and not followed."""
    return (
        f"{name} is not configured any more. What the store has of it is as old as that; account-bridge retire {name} "
        "lets it go"
    )


def run_now(work: Coroutine[Any, Any, Result]) -> Result:
    """Return what *work* returns."""
    try:
        return asyncio.run(work)
    finally:
        work.close()  # which Ctrl-C may have kept from beginning


json_option = click.option("--json", "as_json", is_flag=True, help="As JSON.")


def terminal() -> Console:
    """Return what prints for people: in a terminal words are kept whole, and what reads a pipe gets whole lines."""
    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def say(sentence: str, *, as_json: bool, **fields: Any) -> None:
    """Print what was done: for a person, or as JSON with *fields* beside the sentence."""
    if as_json:
        print_json({"message": sentence, **fields})
    else:
        click.echo(scrub(sentence))


def print_json(content: Any, *, indent: bool = True) -> None:
    """Print *content* as JSON on stdout, on one line without *indent*; see ``safe_json``."""
    option = orjson.OPT_UTC_Z | (orjson.OPT_INDENT_2 if indent else 0)
    click.echo(safe_json(orjson.dumps(content, option=option)))


def safe_json(text: bytes) -> str:
    """Return the same JSON with everything escaped that a terminal might obey, not only what JSON itself escapes."""
    told = text.decode()
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    if not told.isascii() and codecs.lookup(encoding).name != "utf-8":
        return "".join(
            character if character.isascii() and character.isprintable() else _unit(character) for character in told
        )
    return told if told.isprintable() else "".join(_escaped(character) for character in told)


def _escaped(character: str) -> str:
    return character if character.isprintable() else _unit(character)


def _unit(character: str) -> str:
    if character == "\n":
        return character
    return "".join(f"\\u{unit:04x}" for unit in memoryview(character.encode("utf-16-le")).cast("H"))


@contextlib.contextmanager
def ended_alike() -> Iterator[Event]:
    """Have Ctrl-C end the process as SIGTERM does, until a stop is looked for.

    An exception in the midst of an import or of opening the store would come out as another one, or wait for a lock.
    Yields what SIGHUP sets meanwhile: the configuration may have been read already in which somebody changed something.
    """
    hung_up = Event()
    before = signal.signal(signal.SIGINT, signal.getsignal(signal.SIGTERM))
    before_hangup = signal.signal(signal.SIGHUP, lambda _number, _frame: hung_up.set())
    try:
        yield hung_up
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGHUP, before_hangup)


@contextlib.contextmanager
def stop_signals() -> Iterator[asyncio.Event]:
    """Yield an event that SIGTERM and SIGINT set; a second signal ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    came = count()

    def stopped(number: int, _frame: object) -> None:
        # Not in the loop, which may be busy: the second signal would be taken for the first. And not the default of
        # the system, which lets the first process of a container live. Counted in one step: a second signal may come
        # in the midst of this.
        if next(came):
            _end_at_once(number)
        loop.call_soon_threadsafe(stop.set)

    for each in before:
        signal.signal(each, stopped)
    try:
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextlib.contextmanager
def reload_signal(wanted: Callable[[], None], hung_up: Event) -> Iterator[None]:
    """Have SIGHUP call *wanted* in the event loop, while inside; at once where it came before, says *hung_up*."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, wanted)
    if hung_up.is_set():
        wanted()
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _end_at_once(number: int) -> None:
    words = "account-bridge: ended at once by a second signal; what was not confirmed is sent again after the restart"
    os.write(sys.stderr.fileno(), f"{words}\n".encode())
    os._exit(128 + number)
