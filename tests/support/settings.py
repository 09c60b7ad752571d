"""Settings for tests, read as an operator's are: from a text and an environment."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from bridge.config.loading import load_settings
from bridge.config.settings import Settings
from bridge.errors import BadConfig

MINIMUM = {
    "BRIDGE_PBX_URL": "wss://pbx.example.com",
    "BRIDGE_PBX_APP": "acct-bridge",
    "BRIDGE_PBX_PASSWORD": "pl4nted-s3cret",
    "BRIDGE_RABBITMQ_URL": "amqp://bridge:br0ker-s3cret@broker/",
}


def load(environment: Mapping[str, str], text: str = "", tmp_path: Path | None = None) -> Settings:
    file = None
    if tmp_path is not None:
        file = tmp_path / "bridge.toml"
        file.write_text(text, "utf-8")
    return load_settings(file, environment)


def without_broker(tmp_path: Path, text: str, **environment: str) -> Settings:
    """Return the settings of what publishes nothing."""
    file = tmp_path / "bridge.toml"
    file.write_text(text)
    return load_settings(file, environment, require_rabbitmq=False)


def mistakes(text: str, tmp_path: Path, environment: Mapping[str, str] | None = None) -> list[str]:
    """Return the sentences about what is wrong in *text*."""
    with pytest.raises(BadConfig) as problem:
        load(environment or {}, text, tmp_path)
    return [line.strip().replace(str(tmp_path), "") for line in str(problem.value).splitlines()[1:]]
