import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from bridge.errors import RecordingUnusable
from bridge.pbx.recording.frames import Frame, Header, read, write
from bridge.pbx.recording.pseudonyms import Pseudonyms
from bridge.pbx.recording.ring import MAX_CHARACTERS, FrameRing

PSEUDONYMS = Pseudonyms(b"k" * 32)
SCHEMA = json.loads((Path(__file__).parents[4] / "schemas/recording.v1.schema.json").read_text("utf-8"))
FRAMES = [
    Frame(0.0, 1, "opened"),
    Frame(0.25, 1, "message", "bridge", '{"mt":"AccountInfo"}'),
    Frame(0.5, 1, "message", "pbx", '{"mt":"AccountInfoResult"}'),
    Frame(1.0, 0, "act", text="rename"),
    Frame(9.0, 1, "closed", "pbx", code=1006),
]


def recorded() -> list[str]:
    return list(write(Header("observe", PSEUDONYMS.key_id, modes=("idle-bare",)), FRAMES, PSEUDONYMS))


def test_what_was_written_is_read_again() -> None:
    recording = read(recorded())
    assert list(recording.frames) == FRAMES
    assert recording.header.modes == ("idle-bare",)


def test_every_line_fits_the_schema() -> None:
    for line in recorded():
        Draft202012Validator(SCHEMA).validate(json.loads(line))


def test_a_last_line_that_is_cut_off_is_left_out() -> None:
    """As it is where the program was killed in the midst of it."""
    *lines, last = recorded()
    assert list(read([*lines, last[:20]]).frames) == FRAMES[:-1]


@pytest.mark.parametrize("text", ["", "x", "{}", '{"format":"something else"}', '[1]\n{"at":1}'])
def test_what_is_no_recording_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(RecordingUnusable, match="it"):
        read(text.splitlines(keepends=True))


@pytest.mark.parametrize("line", ["{}", '{"at":"x"}', '{"at":1,"by":"somebody","text":""}', "nothing"])
def test_a_line_that_means_nothing_is_named(line: str) -> None:
    first, *rest = recorded()
    with pytest.raises(RecordingUnusable, match="line 2"):
        read([first, f"{line}\n", *rest])


def test_a_later_version_is_refused() -> None:
    with pytest.raises(RecordingUnusable, match="version 2"):
        read([recorded()[0].replace('"version":1', '"version":2')])


def ring(size: int) -> FrameRing:
    return FrameRing(size, b"k" * 32, lambda: 5.0)


def test_a_ring_keeps_the_last_frames() -> None:
    kept = ring(3)
    tap = kept.connection()
    for number in range(5):
        tap.received(b'{"mt":"AccountInfoResult","usn":%d}' % number)
    frames = read(kept.lines()).frames
    assert [json.loads(frame.text)["usn"] for frame in frames] == [2, 3, 4]


def test_what_passed_before_there_was_a_ring_is_where_its_recording_begins() -> None:
    """A PBX that dials has said something before anybody knows which one it is."""
    kept = ring(9)
    kept.connection(at=2.0).sent('{"mt":"AppLoginResult"}', at=2.5)
    kept.connection(at=1.5)
    lines = list(kept.lines())
    assert [frame.at for frame in read(lines).frames] == [0.5, 1.0, 0.0]
    for line in lines:
        Draft202012Validator(SCHEMA).validate(json.loads(line))


def test_what_a_ring_gives_out_is_what_it_had_when_it_was_asked() -> None:
    """Somebody writes it down beside the event loop, in which more comes."""
    kept = ring(9)
    tap = kept.connection()
    lines = kept.lines()
    tap.sent('{"mt":"KeepAlive"}')
    assert len(read(lines).frames) == 1


def test_a_ring_gives_out_pseudonyms_only() -> None:
    kept = ring(9)
    tap = kept.connection()
    tap.sent('{"mt":"AppLogin","digest":"s3cret"}')
    tap.received(b'{"mt":"AccountInfoResult","account-h323":"erika"}')
    tap.ended(1000, is_ours=True)
    text = "".join(kept.lines())
    assert "erika" not in text
    assert "s3cret" not in text
    assert [frame.what for frame in read(text.splitlines(keepends=True)).frames] == [
        "opened",
        "message",
        "message",
        "closed",
    ]


def test_a_ring_is_bounded_by_what_its_frames_hold_too() -> None:
    kept = ring(100)
    tap = kept.connection()
    for _ in range(9):
        tap.received(b"x" * (MAX_CHARACTERS // 4))
    assert len(read(kept.lines()).frames) == 4
