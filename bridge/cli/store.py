"""``backup``, ``restore`` and ``forget``: what the store keeps."""

from pathlib import Path
from time import sleep
from typing import Final
from urllib.parse import quote

import click
import orjson

from bridge.cli.accounts import meant
from bridge.cli.common import config_option, json_option, print_json, read_settings, say
from bridge.cli.control import done_by_bridge
from bridge.clock import utc_now
from bridge.errors import BridgeError
from bridge.events.normalize import account_key
from bridge.model import AccountGuid
from bridge.observability.report import plural
from bridge.ops.trace import unfinished
from bridge.runtime.from_settings import build_store_place
from bridge.store.places import SqlitePlace
from bridge.store.sqlite.backup import back_up, put_back
from bridge.store.sqlite.erasure import AGAIN_SECONDS, READER_TRIES, still_read
from bridge.store.tables.reader import TableReader
from bridge.store.tables.store import TableStore

MAX_SUGGESTED: Final = 3


@click.command()
@config_option
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@json_option
def backup(config: Path | None, file: Path, *, as_json: bool) -> None:
    """Copy the store into a new FILE, while the bridge goes on.

    The copy holds personal data and the key of the store: only its owner may read it. Put it back with restore.
    """
    path = _file(config, "pg_dump copies it while the bridge goes on, pg_basebackup and archived WAL all of the server")
    try:
        size = back_up(path, file, utc_now())
    except FileExistsError as problem:
        raise BridgeError(f"{file} is there already; name a file that is not") from problem
    words = f"{path} is copied to {file} ({size / 1_000_000:.1f} MB), as of now"
    say(words, as_json=as_json, file=str(file), bytes=size)


@click.command()
@config_option
@click.argument("file", type=click.Path(dir_okay=False, exists=True, path_type=Path))
@click.confirmation_option(prompt="Put this copy in the place of the store? The present one is kept beside it.")
@json_option
def restore(config: Path | None, file: Path, *, as_json: bool) -> None:
    """Put a copy in the place of the store of a stopped bridge.

    The next time the store is opened, by check too, a new lineage begins, so that no number is used twice; the next
    start reads every PBX from its start, so that nothing is missed.
    """
    path = _file(config, "pg_restore, or the server's point-in-time recovery, puts it back: the next start sees that")
    kept = put_back(file, path, utc_now())
    where = f"; what was there is now {kept}" if kept is not None else ""
    words = (
        f"{path} is now the copy {file}{where}. The next time it is opened, by check too, a new lineage begins; the "
        "next start walks every PBX"
    )
    say(words, as_json=as_json, kept=str(kept) if kept is not None else None)


@click.command("forget")
@config_option
@click.argument("guid")
@click.option("--discard-unsent", is_flag=True, help="Also events not sent yet, which then never are; bridge stopped.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def forget_command(config: Path | None, guid: str, *, discard_unsent: bool, as_json: bool, yes: bool) -> None:
    """Take the personal data of an account out of the store.

    For accounts that are gone from the PBX; of one that is still there only the events of the past are cleared.
    Backups, the log at the broker and what subscribers keep have to be looked after on their own.
    """
    settings = read_settings(config, require=False, level="error")
    with build_store_place(settings.store).reader() as store:
        if not store.knows(account_key(AccountGuid(guid))):
            raise BridgeError(_no_account(store, guid))
    if not yes:  # asked once it is known that there is somebody to forget
        click.confirm("This cannot be undone. Forget what is known of the person behind this account?", abort=True)

    way_out = "Wait until that is done, or stop the bridge and add --discard-unsent"

    def forgotten(store: TableStore) -> bytes:
        nonlocal way_out
        way_out = "Run the bridge until that is done, or add --discard-unsent"
        key = account_key(AccountGuid(guid))
        done = store.forget(key, utc_now(), discard_unsent=discard_unsent)
        for _ in range(READER_TRIES):
            if store.empty_write_ahead():
                break
            sleep(AGAIN_SECONDS)
        else:
            raise still_read()
        return orjson.dumps(done)

    done = orjson.loads(done_by_bridge(config, "POST", f"/forget/{quote(guid, safe='')}", offline=forgotten))
    if done["unsent"] and not done["events"]:
        waiting = f"{plural(done['unsent'], 'event')} of the account {'is' if done['unsent'] == 1 else 'are'}"
        raise BridgeError(f"{waiting} not sent yet, so nothing was forgotten. {way_out}")
    if as_json:
        print_json(done)
        return
    click.echo(f"{done['events']} events and {done['accounts']} entries of the mirror keep nothing but numbers now")
    for name in done["present_at"]:
        click.echo(
            f"{name} still has the account, so its entry stays and its next change is published: delete it there, "
            "then forget it once more"
        )


def _no_account(store: TableReader, guid: str) -> str:
    named = [str(known.account["guid"]) for known in meant(store, guid)]
    others = [name for name in named if account_key(AccountGuid(name)) != account_key(AccountGuid(guid))]
    hint = (
        f"; did you mean {' or '.join(others[:MAX_SUGGESTED])}?" if others else ". account-bridge accounts lists them"
    )
    untold = f". {unfinished(store.sources(), store.renewed)}" if store.renewed is not None else ""
    return f"no account has the guid {guid!r}{hint}{untold}"


def _file(config: Path | None, otherwise: str) -> Path:
    """Return the file of the store; where it is none, say what there is *otherwise*."""
    place = build_store_place(read_settings(config, require=False, level="error").store)
    if not isinstance(place, SqlitePlace):
        raise BridgeError(f"the store is the database {place}, of which PostgreSQL itself makes copies: {otherwise}")
    return place.path


COMMANDS: Final = (backup, restore, forget_command)
