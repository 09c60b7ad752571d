"""``support-bundle``: what somebody who helps needs to know, in one file that may be sent to them."""

import os
import platform
import sqlite3
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import click
import orjson

from bridge import __version__, logs
from bridge.cli.common import config_option, json_option, read_settings, run_now, say
from bridge.clock import utc_now
from bridge.config.settings import Settings
from bridge.errors import BridgeError
from bridge.observability.report import without_people
from bridge.ops.control_socket import ask
from bridge.ops.impersonal import impersonal
from bridge.runtime.from_settings import build_store_place
from bridge.store.places import SqlitePlace

PACKAGES: Final = ("aio-pika", "aiormq", "aiohttp", "websockets", "orjson", "pydantic", "structlog", "tenacity")


@click.command("support-bundle")
@config_option
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="The file; by default one in here.")
@json_option
def support_bundle(config: Path | None, output: Path | None, *, as_json: bool) -> None:
    """Write a zip file for a ticket: versions, settings, status, store statistics, recent log lines, recordings.

    No password, no token and nothing about any person is in it; it is plain text, look for yourself.
    """
    settings = read_settings(config, require=False, level="error")
    file = output or Path(f"account-bridge-support-{utc_now():%Y%m%dT%H%M%SZ}.zip")
    parts = {
        "about.json": _json(_about()),
        "settings.json": _json(settings.redacted()),
        "store.json": _json(_told(lambda: _store(settings))),
        "status.json": _json(impersonal(_told(lambda: without_people(orjson.loads(_bridge(settings, "/status")))))),
        "log.jsonl": _lines(settings),
        **_recordings(settings),
    }
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as problem:
        raise BridgeError(f"{file} cannot be written: {problem.strerror}. Name another one with --output") from problem
    with os.fdopen(descriptor, "wb") as written, zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in parts.items():
            bundle.writestr(name, content)
    say(f"{file}: {', '.join(parts)}", as_json=as_json, file=str(file))


def _about() -> Mapping[str, Any]:
    return {
        "made_at": utc_now(),
        "account-bridge": __version__,
        "python": sys.version,
        "sqlite": sqlite3.sqlite_version,
        "system": platform.platform(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def _store(settings: Settings) -> Mapping[str, Any]:
    place = build_store_place(settings.store)
    with place.reader() as store:
        return {
            "files": _sizes(place.path) if isinstance(place, SqlitePlace) else {},
            "renewed": store.renewed,
            "sources": [asdict(source) for source in store.sources()],
            "outbox": store.outbox(),
            "waiting_or_held": [
                {
                    "position": event.position,
                    "routing_key": event.routing_key,
                    "bytes": len(event.body),
                    "created_at": event.created_at,
                    "in_doubt": event.is_in_doubt,
                    "held": event.is_held,
                    "parked": event.parked_reason,
                }
                for event in store.unsent()
            ],
        }


def _sizes(path: Path) -> Mapping[str, int]:
    return {file.name: file.stat().st_size for file in sorted(path.parent.glob(f"{path.name}*")) if file.is_file()}


def _lines(settings: Settings) -> bytes:
    try:
        lines = _bridge(settings, "/logs").splitlines()
    except BridgeError as problem:
        return _json({"problem": str(problem)}, indent=False)
    return b"\n".join(_json(impersonal(orjson.loads(line)), indent=False) for line in lines)


def _recordings(settings: Settings) -> Mapping[str, bytes]:
    """Return what passed last between the bridge and each PBX that has ``record_frames``, under pseudonyms."""
    if not any(table is not None and table.record_frames for table in (*settings.pbx, settings.listen)):
        return {}
    try:
        names = orjson.loads(_bridge(settings, "/recordings"))
    except BridgeError as problem:
        return {"recordings.json": _json({"problem": str(problem)})}
    return {f"recording-{name}.jsonl": _recording(settings, name) for name in names}


def _recording(settings: Settings, name: str) -> bytes:
    try:
        return _bridge(settings, f"/recordings/{name}")
    except BridgeError as problem:
        return _json({"problem": str(problem)})


def _bridge(settings: Settings, target: str) -> bytes:
    return run_now(ask(build_store_place(settings.store).socket, "GET", target))


def _told(part: Callable[[], Any]) -> Any:
    """Return what *part* returns, or why it cannot: a bundle of half the truth is better than none."""
    try:
        return part()
    except BridgeError as problem:
        return {"problem": str(problem)}


def _json(content: Any, *, indent: bool = True) -> bytes:
    plain = orjson.loads(orjson.dumps(content, option=orjson.OPT_UTC_Z))
    return orjson.dumps(logs.scrub_all(plain), option=orjson.OPT_INDENT_2 if indent else 0)


COMMANDS: Final = (support_bundle,)
