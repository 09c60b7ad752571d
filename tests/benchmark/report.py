"""Figures for people (a table) and for machines (one JSON object)."""

import json
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from tests.benchmark.figures import Figure, middle, rounded, spread

MARKS = {True: "[green]met[/]", False: "[red]not met[/]", None: ""}


def write_json(figures: Sequence[Figure]) -> None:
    """Write one object, figures by name, on one line."""
    sys.stdout.write(json.dumps({figure.name: figure.as_json() for figure in figures}, ensure_ascii=False) + "\n")


def write_table(figures: Sequence[Figure]) -> None:
    """Write a table; what could not be measured says why."""
    table = Table("figure", "value", "goal", "", "ours", "reference", "spread", title="median of the rounds")
    for figure in figures:
        unit = f" {figure.unit}" if figure.unit else ""
        if figure.missing:
            table.add_row(f"{figure.name}\n[dim]{figure.what}[/]", "missing", str(figure.goal or ""), figure.missing)
            continue
        note = f" ({figure.note})" if figure.note else ""
        table.add_row(
            f"{figure.name}\n[dim]{figure.what}{note}[/]",
            f"{_number(figure.value)}{unit}",
            str(figure.goal or ""),
            MARKS[figure.is_met],
            _side(figure, figure.ours),
            _side(figure, figure.reference),
            f"{(spread(figure.values) or 0) * 100:.0f} %",
        )
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)


def _side(figure: Figure, values: Sequence[float]) -> str:
    value = middle(values)
    return f"{_number(value)} {figure.side_unit}".strip() if value else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{rounded(value):,.10g}".replace(",", " ")
