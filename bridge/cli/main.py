"""The command line: exit codes that a script can act on, and a sentence where something goes wrong.

0: done. 1: something failed, and a sentence on stderr says what. 2: wrong usage or configuration. 3: hung, and
ended the hard way. 130: stopped by a person, who pressed Ctrl-C or did not say yes. 143: ended by SIGTERM before it
was done; a bridge that runs stops in good order by either signal, with 0, and at once by a second one.
"""

import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Final

import click

from bridge import __version__
from bridge.cli.common import CONFIG_FILE, CONFIG_HELP, FAILED, MISUSED, stand_for
from bridge.errors import BadConfig, BridgeError
from bridge.security.secret import scrub

STOPPED: Final = 130


_MODULES: Final = {
    **dict.fromkeys(("run", "check"), "run"),
    **dict.fromkeys(("status", "reload", "resync", "pause", "resume", "admit", "parked"), "control"),
    **dict.fromkeys(("trace", "accounts"), "accounts"),
    **dict.fromkeys(("backup", "restore", "forget"), "store"),
    "rename": "rename",
    "migrate-store": "migrate_store",
    "retire": "retire",
    "support-bundle": "support_bundle",
    "config": "config",
    **dict.fromkeys(("replay", "snapshot"), "replay"),
    "tail": "tail",
    "schema": "schema",
    **dict.fromkeys(("simulate", "demo"), "simulate"),
    "observe": "observe",
}
"""Where each command is. What others need is not loaded: all together it takes a second."""


class _Commands(click.Group):
    """Loads the command that is called, and lists every one with its whole first sentence."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return sorted(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _MODULES:
            return None
        return next(command for command in _loaded(_MODULES[cmd_name]) if command.name == cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        names = self.list_commands(ctx)
        found = [(name, command) for name in names if (command := self.get_command(ctx, name)) is not None]
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(limit=200)) for name, command in found])


def _loaded(module: str) -> Sequence[click.Command]:
    # A KeyboardInterrupt in the middle of an import comes out as any other error, so Ctrl-C ends the process that long.
    before = signal.signal(signal.SIGINT, lambda _number, _frame: os._exit(STOPPED))
    try:
        commands: Sequence[click.Command] = import_module(f"bridge.cli.{module}").COMMANDS
    finally:
        signal.signal(signal.SIGINT, before)
    return commands


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="account-bridge")
@click.option("--config", type=CONFIG_FILE, help=f"{CONFIG_HELP} Behind a command it counts as well, and more.")
@click.pass_context
def commands(context: click.Context, config: Path | None) -> None:
    """Publish every account change of innovaphone PBXs to RabbitMQ, each change once."""
    if config is not None:
        stand_for(context, config)


def main() -> None:
    """Run the command line; what goes wrong ends with a sentence and an exit code, not with a traceback."""
    _print_what_the_terminal_can_show()
    try:
        _look_at(sys.argv)
        commands(standalone_mode=False)
    except BadConfig as problem:
        _end(str(problem), MISUSED)
    except BridgeError as problem:
        _end(str(problem), FAILED)
    except click.ClickException as problem:
        told = io.StringIO()
        problem.show(file=told)
        click.echo(scrub(told.getvalue()), nl=False, err=True)
        sys.exit(MISUSED)
    except click.Abort as stopped:
        if isinstance(stopped.__cause__, KeyboardInterrupt):  # Ctrl-C in the middle of something
            sys.exit(STOPPED)
        _end("nothing was done", STOPPED)  # a question comes before anything is done
    except KeyboardInterrupt:
        sys.exit(STOPPED)
    except BrokenPipeError:
        # Whoever read our output has gone, which is how `… | head` ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception:  # noqa: BLE001 - the last line of defence: a mistake of ours, told in full and without secrets
        click.echo(scrub(traceback.format_exc()), err=True)
        _end("this is a mistake in the program; please report the lines above. Nothing durable is damaged", FAILED)


def _print_what_the_terminal_can_show() -> None:
    """Have what a terminal of another encoding cannot show come as a question mark, and not end a command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _look_at(arguments: Sequence[str]) -> None:
    for argument in arguments:
        if not argument.isascii() and any("\ud800" <= character <= "\udfff" for character in argument):
            raise click.UsageError(f"{argument!r} is no valid UTF-8 text")


def _end(sentence: str, code: int) -> None:
    click.echo(f"account-bridge: {scrub(sentence)}", err=True)
    sys.exit(code)
