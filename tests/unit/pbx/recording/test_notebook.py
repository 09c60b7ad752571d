from bridge.model import Cursor
from bridge.pbx.recording.frames import read
from bridge.pbx.recording.notebook import Notebook
from bridge.pbx.recording.pseudonyms import Pseudonyms
from bridge.pbx.wire import messages as m


def test_nothing_is_written_before_something_is_asked_and_then_all_of_it() -> None:
    """Whatever ends an observation earlier, at whatever moment, has no file to remove."""
    lines: list[str] = []
    notebook = Notebook(Pseudonyms(b"k" * 32), lambda: 0.0, lines.append)
    notebook.keep(1, "message", "bridge", m.AppChallenge().to_json())
    notebook.keep(1, "message", "pbx", m.AppChallengeResult("4711").to_json())
    assert (lines, notebook.has_asked) == ([], False)
    notebook.keep(1, "message", "bridge", m.AccountInfo("s", Cursor()).to_json())
    assert notebook.has_asked
    notebook.keep(1, "message", "pbx", m.KeepAlive().to_json())
    assert lines == list(notebook.lines(()))
    assert len(read(lines).frames) == 4
