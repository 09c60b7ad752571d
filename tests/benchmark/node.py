"""Node and its ``amqplib``, fetched once into a folder beside this file that git ignores."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CACHE = HERE / ".cache"
PACKAGE = "amqplib@2.3.1"
PATIENCE_SECONDS = 600


class NodeMissingError(Exception):
    """The Node side cannot run here; the message says what is missing."""


def prepare() -> None:
    """Make sure that ``publish`` below can run.

    Raises:
        NodeMissingError: no node, no npm, or no way to fetch the package.

    """
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise NodeMissingError(f"{program} is not installed (on Debian: apt-get install nodejs npm)")
    if (CACHE / "node_modules" / "amqplib" / "package.json").exists():
        return
    CACHE.mkdir(exist_ok=True)
    (CACHE / "package.json").write_text("{}")
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(CACHE), PACKAGE]
    try:
        done = subprocess.run(install, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise NodeMissingError(f"npm did not fetch {PACKAGE} within {PATIENCE_SECONDS} s") from None
    if done.returncode:
        raise NodeMissingError(f"npm cannot fetch {PACKAGE}: {' '.join((done.stderr or done.stdout).split())[:200]}")


def publish(**wanted: Any) -> dict[str, Any]:
    """Return what ``amqplib.mjs`` measured."""
    done = subprocess.run(
        ["node", str(HERE / "amqplib.mjs"), json.dumps(wanted)],
        env={**os.environ, "BENCHMARK_MODULES": str(CACHE)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"amqplib.mjs failed:\n{done.stderr}")
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured
