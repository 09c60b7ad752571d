"""The image is made of what was locked; the lock must be what pyproject asks for."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
LOCKED = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / ".docker/requirements.txt").read_text(), re.MULTILINE))
WANTED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]


@pytest.mark.parametrize("wanted", WANTED)
def test_every_dependency_is_locked_to_a_version_that_fits(wanted: str) -> None:
    """Where this fails: .docker/lock writes the lock anew."""
    requirement = Requirement(wanted)
    assert requirement.specifier.contains(LOCKED[requirement.name])
