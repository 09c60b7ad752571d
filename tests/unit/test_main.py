import sys
from collections.abc import Sequence
from types import ModuleType

import pytest

from bridge.__main__ import main


class Pressed:
    """Ctrl-C at the moment when the command line is loaded."""

    @staticmethod
    def find_spec(name: str, _path: Sequence[str] | None, _target: ModuleType | None = None) -> None:
        if name == "bridge.cli.main":
            raise KeyboardInterrupt


def test_ctrl_c_while_it_is_being_loaded_ends_it_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "bridge.cli.main", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Pressed, *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
