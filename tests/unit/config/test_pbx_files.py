import os
from pathlib import Path

import orjson
import pytest

from bridge.config.loading import load_settings, origins
from bridge.config.pbx_files import MAX_FILE_BYTES
from bridge.config.settings import Settings
from bridge.errors import BadConfig

GOOD = 'url = "wss://pbx"\napp = "a"\npassword = "pl4nted-s3cret"\n'
HEAD = '[rabbitmq]\nurl = "amqp://bridge:br0ker-s3cret@broker/"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "pbxs"
    made.mkdir()
    return made


def load(folder: Path, more: str = "") -> Settings:
    file = folder.parent / "bridge.toml"
    file.write_text(f'{HEAD}{more}\n[fleet]\npbx_dir = "{folder}"\n')
    return load_settings(file, {})


def test_each_file_is_a_pbx_called_as_the_file_unless_it_says_another_name(folder: Path) -> None:
    (folder / "berlin.toml").write_text(GOOD)
    (folder / "x.toml").write_text(f'{GOOD}name = "hamburg"\n')
    (folder / "notes.txt").write_text("nothing")
    (folder / ".hidden.toml").write_text("nothing")
    settings = load(folder, f'[[pbx]]\nname = "hq"\n{GOOD}')
    assert [pbx.name for pbx in settings.pbx] == ["hq", "berlin", "hamburg"]
    assert dict(settings.unusable_files) == {}
    assert "pl4nted-s3cret" not in str(settings.redacted())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD + "ask_ahed = 1\n", "line 4: ask_ahed: there is no such key; did you mean 'ask_ahead'?"),
        (GOOD + "ask_ahead = 0\n", "line 4: ask_ahead: must be at least 1"),
        ('app = "a"\npassword = "pl4nted-s3cret"\n', "bad.toml: url: is missing"),
        ("url = \n", "is not TOML: Invalid value (at line 1"),
        (f'{GOOD}name = "berlin"\n', "berlin.toml has a PBX called 'berlin', too; each needs a name of its own"),
        (f'{GOOD}name = "hq"\n', "the configuration has a PBX called 'hq', too"),
        (f"[[pbx]]\n{GOOD}", "bad.toml: leave the line [[pbx]] out"),
        (GOOD + "ask_ahead = 0\npoll_interval_seconds = 0\n", "; "),
    ],
)
def test_a_mistake_in_one_file_is_told_with_its_line_and_concerns_no_other(folder: Path, text: str, words: str) -> None:
    (folder / "berlin.toml").write_text(GOOD)
    (folder / "bad.toml").write_text(text)
    (folder / "zurich.toml").write_text(GOOD)
    if "berlin" in text:
        (folder / "bad.toml").rename(folder / "c.toml")
    settings = load(folder, f'[[pbx]]\nname = "hq"\n{GOOD}')
    assert [pbx.name for pbx in settings.pbx] == ["hq", "berlin", "zurich"]
    ((file, told),) = settings.unusable_files.items()
    assert words in told
    assert str(file) in told
    assert "pl4nted-s3cret" not in told
    assert (f"PBX of {file.name}", told) in list(settings.troubles())


def test_a_file_that_cannot_be_read_is_one_mistake_and_a_folder_that_cannot_is_one_of_all(folder: Path) -> None:
    (folder / "bad.toml").mkdir()
    assert "cannot be read" in next(iter(load(folder).unusable_files.values()))
    with pytest.raises(BadConfig, match=r"fleet.pbx_dir: the folder .* cannot be read: No such file"):
        load(folder / "gone")


def test_what_is_no_file_of_a_pbx_is_not_waited_for_and_not_read_to_its_end(folder: Path) -> None:
    (folder / "berlin.toml").write_text(GOOD)
    os.mkfifo(folder / "pipe.toml")
    (folder / "huge.toml").write_text(GOOD + "#" * MAX_FILE_BYTES)
    (folder / "loop.toml").symlink_to("loop.toml")
    (folder / "void.toml").symlink_to("/dev/zero")
    settings = load(folder)
    assert [pbx.name for pbx in settings.pbx] == ["berlin"]
    told = {file.stem: words for file, words in settings.unusable_files.items()}
    assert "is no file that holds a PBX" in told["pipe"]
    assert "is no file that holds a PBX" in told["void"]
    assert "has more than 65536 bytes; is it the right file?" in told["huge"]
    assert "cannot be read" in told["loop"]


@pytest.mark.parametrize("name", [b"\xff.toml", b"a\nb.toml"])
def test_whatever_a_file_is_called_what_is_wrong_with_it_can_be_shown(folder: Path, name: bytes) -> None:
    """Or nobody could see the state of any PBX: JSON carries no name that is not UTF-8."""
    Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_text(GOOD)
    settings = load(folder)
    assert orjson.dumps(settings.shown_unusable_files).count(b"\xef\xbf\xbd") == 2
    assert all(words.isprintable() for told in settings.troubles() for words in told)


def test_a_folder_without_files_is_no_mistake(folder: Path) -> None:
    assert load(folder).pbx == ()


def test_it_is_told_where_each_value_comes_from(folder: Path) -> None:
    (folder / "berlin.toml").write_text(GOOD)
    load(folder, f'[[pbx]]\nname = "hq"\n{GOOD}')
    told = origins(folder.parent / "bridge.toml", {})
    assert told["pbx", 1, "url"] == f"{folder / 'berlin.toml'}, line 1"
    assert told["pbx", 1, "name"] == f"{folder / 'berlin.toml'}"
    assert told["pbx", 0, "url"].endswith("bridge.toml, line 5")
