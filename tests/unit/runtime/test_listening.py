"""The door, made of the settings."""

from pathlib import Path

from bridge.clock import utc_now
from bridge.config.pbx_tables import ListenTable
from bridge.model import SourceName
from bridge.observability.source_status import SourceStatus
from bridge.runtime.listening import build_hearing


def unobserved(folder: Path) -> str:
    part = SourceStatus(since=utc_now())
    listen = ListenTable.model_construct(record_frames=0, observation_dir=folder)
    build_hearing(listen, SourceName("hq-0123456789"), part)
    return part.unobserved


def test_where_observations_cannot_be_looked_at_that_is_told_and_the_pbx_is_read(tmp_path: Path) -> None:
    assert not unobserved(tmp_path)
    assert not unobserved(tmp_path / "missing")
    assert "cannot be read" in unobserved(tmp_path / ("x" * 300))
