"""The command line: exit codes that a script can act on, and a sentence where something goes wrong.

0: done. 1: something failed, and a sentence on stderr says what. 2: wrong usage or configuration. 3: hung, and
ended the hard way. 130: stopped by a person, who pressed Ctrl-C or did not say yes. 143: ended by SIGTERM before it
was done; a bridge that runs stops in good order by either signal, with 0, and at once by a second one.
"""

import io
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from bridge import __version__
from bridge.cli import (
    accounts,
    config,
    control,
    migrate_store,
    observe,
    rename,
    replay,
    retire,
    run,
    schema,
    simulate,
    store,
    support_bundle,
    tail,
)
from bridge.cli.common import CONFIG_FILE, CONFIG_HELP, FAILED, MISUSED, stand_for
from bridge.errors import BadConfig, BridgeError
from bridge.security.secret import scrub

STOPPED: Final = 130


class _Commands(click.Group):
    """Lists every command with its whole first sentence."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, self.commands[name].get_short_help_str(limit=200)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="account-bridge")
@click.option("--config", type=CONFIG_FILE, help=f"{CONFIG_HELP} Behind a command it counts as well, and more.")
@click.pass_context
def commands(context: click.Context, config: Path | None) -> None:
    """Publish every account change of innovaphone PBXs to RabbitMQ, each change once."""
    if config is not None:
        stand_for(context, config)


for command in (
    *run.COMMANDS,
    *control.COMMANDS,
    *accounts.COMMANDS,
    *store.COMMANDS,
    *rename.COMMANDS,
    *migrate_store.COMMANDS,
    *retire.COMMANDS,
    *support_bundle.COMMANDS,
    *config.COMMANDS,
    *replay.COMMANDS,
    *tail.COMMANDS,
    *schema.COMMANDS,
    *simulate.COMMANDS,
    *observe.COMMANDS,
):
    commands.add_command(command)


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
