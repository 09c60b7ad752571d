"""Things that happen to a pretend PBX in a fixed order: a small TOML file, played by whoever has a clock.

    about = "What it shows."
    modes = ["idle-hold"]          # optional; the PBX behaves like this from the start

    [[step]]
    at = 2.0                       # seconds after the step before
    do = "rename"                  # a method of Pbx; where it takes an account, some account
    times = 10                     # optional

    [[step]]
    after_rows = 50                # once so many accounts were handed out since the step before
    do = "modes"
    words = ["slow"]

``at`` and ``after_rows`` may stand together: then whichever comes first.
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from bridge.simulator.modes import Modes, UnknownMode
from bridge.simulator.pbx import Pbx, SavedState


class BadScenario(ValueError):  # noqa: N818 - reads as what it says
    """A scenario that cannot be played; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class ScenarioStep:
    """One thing that happens, and when."""

    do: str
    at_seconds: float | None = None
    after_rows: int | None = None
    times: int = 1
    words: tuple[str, ...] = ()
    value: str = ""


@dataclass(frozen=True, slots=True)
class Scenario:
    """Steps, one after the other."""

    name: str
    about: str
    steps: tuple[ScenarioStep, ...]
    modes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Stage:
    """A PBX and what a scenario remembers of it."""

    pbx: Pbx
    snapshot: SavedState | None = field(default=None)

    def remembered(self) -> SavedState:
        if self.snapshot is None:
            raise BadScenario("there is no snapshot to go back to: take_snapshot comes first")
        return self.snapshot

    def remember(self) -> None:
        self.snapshot = self.pbx.take_snapshot()


_DEEDS: Final[Mapping[str, Callable[[_Stage, ScenarioStep], object]]] = {
    "rename": lambda stage, _: stage.pbx.rename(stage.pbx.pick()),
    "change_display_name": lambda stage, _: stage.pbx.change_display_name(stage.pbx.pick()),
    "change_extension": lambda stage, _: stage.pbx.change_extension(stage.pbx.pick()),
    "toggle_group": lambda stage, _: stage.pbx.toggle_group(stage.pbx.pick()),
    "touch": lambda stage, _: stage.pbx.touch(stage.pbx.pick()),
    "change_secret": lambda stage, _: stage.pbx.change_secret(stage.pbx.pick()),
    "delete": lambda stage, _: stage.pbx.delete(stage.pbx.pick()),
    "recreate": lambda stage, _: stage.pbx.recreate(stage.pbx.pick()),
    "create": lambda stage, _: stage.pbx.create(),
    "move": lambda stage, step: stage.pbx.move(stage.pbx.pick(), step.value or "branch"),
    "random_mutation": lambda stage, _: stage.pbx.random_mutation(),
    "template_edit": lambda stage, _: stage.pbx.template_edit(),
    "reboot": lambda stage, _: stage.pbx.reboot(),
    "take_snapshot": lambda stage, _: stage.remember(),
    "config_restore": lambda stage, _: stage.pbx.config_restore(stage.remembered()),
    "vm_rollback": lambda stage, _: stage.pbx.vm_rollback(stage.remembered()),
    "failover_to_standby": lambda stage, _: stage.pbx.failover_to_standby(),
    "fail_back": lambda stage, _: stage.pbx.fail_back(),
    "slave_resync": lambda stage, _: stage.pbx.slave_resync(),
    "forget_history": lambda stage, _: stage.pbx.forget_history(),
    "new_epoch": lambda stage, _: stage.pbx.new_epoch(),
    "password_change": lambda stage, step: stage.pbx.password_change(step.value),
    "api_removed": lambda stage, _: stage.pbx.api_removed(),
    "api_restored": lambda stage, _: stage.pbx.api_restored(),
    "drop_connections": lambda stage, _: stage.pbx.drop_connections(),
    "modes": lambda stage, step: setattr(stage.pbx, "modes", stage.pbx.modes.with_words(step.words)),
    "wait": lambda _stage, _step: None,
}


class Player:
    """Plays *scenario* on *pbx*, begun at *now* seconds of whatever clock.

    Call ``advance`` when ``wake_at`` has come and after accounts were handed out (``Pbx.on_rows``).
    """

    def __init__(self, scenario: Scenario, pbx: Pbx, now: float) -> None:
        self._steps = list(scenario.steps)
        self._stage = _Stage(pbx)
        self._since = now
        self._rows_before = pbx.oracle.load.rows
        if scenario.modes:
            pbx.modes = pbx.modes.with_words(scenario.modes)

    @property
    def is_over(self) -> bool:
        """True when every step was taken."""
        return not self._steps

    @property
    def wake_at(self) -> float | None:
        """When the next step is due by the clock; ``None`` where it waits for accounts alone."""
        step = self._steps[0] if self._steps else None
        return None if step is None or step.at_seconds is None else self._since + step.at_seconds

    def advance(self, now: float) -> Sequence[ScenarioStep]:
        """Take every step that is due, and return those."""
        taken = []
        while self._steps and self._is_due(self._steps[0], now):
            step = self._steps.pop(0)
            for _ in range(step.times):
                _DEEDS[step.do](self._stage, step)
            taken.append(step)
            self._since, self._rows_before = now, self._stage.pbx.oracle.load.rows
        return taken

    def _is_due(self, step: ScenarioStep, now: float) -> bool:
        rows = self._stage.pbx.oracle.load.rows - self._rows_before
        by_clock = step.at_seconds is not None and now >= self._since + step.at_seconds
        return by_clock or (step.after_rows is not None and rows >= step.after_rows)


def names() -> list[str]:
    """Return the names of the scenarios that come with the simulator."""
    return sorted(path.name.removesuffix(".toml") for path in _SHIPPED.iterdir() if path.name.endswith(".toml"))


def load(name_or_path: str) -> Scenario:
    """Return the scenario of that name, or in that file.

    Raises:
        BadScenario: there is none, or it cannot be played.

    """
    if name_or_path in names():
        return parse(name_or_path, (_SHIPPED / f"{name_or_path}.toml").read_text(encoding="utf-8"))
    path = Path(name_or_path)
    try:
        return parse(path.stem, path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise BadScenario(
            f"there is no scenario {name_or_path!r} (there are {', '.join(names())}) and no such file either"
        ) from problem


def parse(name: str, text: str) -> Scenario:
    """Return the scenario in the TOML *text*.

    Raises:
        BadScenario: it cannot be played.

    """
    try:
        content = tomllib.loads(text)
        modes = tuple(content.get("modes", ()))
        Modes.parse(modes)
    except (tomllib.TOMLDecodeError, UnknownMode) as problem:
        raise BadScenario(f"scenario {name}: {problem}") from problem
    steps = tuple(_step(name, number, step) for number, step in enumerate(content.get("step", ()), 1))
    return Scenario(name, str(content.get("about", "")), steps, modes)


def _step(scenario: str, number: int, told: Mapping[str, Any]) -> ScenarioStep:
    where = f"scenario {scenario}, step {number}"
    unknown = told.keys() - {"do", "at", "after_rows", "times", "words", "value"}
    if unknown:
        raise BadScenario(f"{where}: unknown {', '.join(sorted(unknown))}")
    if told.get("do") not in _DEEDS:
        raise BadScenario(f"{where}: do must be one of {', '.join(_DEEDS)}")
    words = tuple(told.get("words", ()))
    try:
        Modes.parse(words)
    except UnknownMode as problem:
        raise BadScenario(f"{where}: {problem}") from problem
    rows = told.get("after_rows")
    at = told.get("at", 0.0 if rows is None else None)
    times = told.get("times", 1)
    if not all(isinstance(value, int | float) and value >= 0 for value in (at, rows, times) if value is not None):
        raise BadScenario(f"{where}: at, after_rows and times are numbers from 0")
    return ScenarioStep(told["do"], at, rows, times, words, str(told.get("value", "")))


_SHIPPED: Final = files("bridge.simulator") / "scenarios"
