"""Node and what runs on it, fetched once into a folder beside this file that git ignores."""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CACHE = HERE / ".cache"
AMQPLIB = ("amqplib@2.3.1",)
NODE_RED = ("node-red@4.1.15", "node-red-contrib-amqp@0.4.5")
PATIENCE_SECONDS = 600


class NodeMissingError(Exception):
    """The Node side cannot run here; the message says what is missing."""


def prepare(packages: Sequence[str]) -> None:
    """Make sure that these are there.

    Raises:
        NodeMissingError: no node, no npm, or no way to fetch them.

    """
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise NodeMissingError(f"{program} is not installed (on Debian: apt-get install nodejs npm)")
    if all((CACHE / "node_modules" / package.split("@")[0] / "package.json").exists() for package in packages):
        return
    CACHE.mkdir(exist_ok=True)
    if not (CACHE / "package.json").exists():
        (CACHE / "package.json").write_text("{}")
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(CACHE), *packages]
    names = " and ".join(packages)
    try:
        done = subprocess.run(install, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise NodeMissingError(f"npm did not fetch {names} within {PATIENCE_SECONDS} s") from None
    if done.returncode:
        raise NodeMissingError(f"npm cannot fetch {names}: {' '.join((done.stderr or done.stdout).split())[:200]}")


def run(script: str, **wanted: Any) -> dict[str, Any]:
    """Return what *script* measured."""
    with measured(script, **wanted) as found:
        return found


@contextmanager
def measured(script: str, **wanted: Any) -> Iterator[dict[str, Any]]:
    """Yield what *script* measured as soon as it has; it may go on until its stdin is closed."""
    command = ["node", str(HERE / script), json.dumps(wanted)]
    environment = {**os.environ, "BENCHMARK_MODULES": str(CACHE)}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        late = threading.Timer(PATIENCE_SECONDS, process.kill)
        late.start()
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"{script} ended without a result:\n{process.communicate()[1]}")
            yield json.loads(line)
            process.communicate()
        finally:
            late.cancel()
            process.kill()
