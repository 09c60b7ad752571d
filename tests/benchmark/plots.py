"""Lines and bars as SVG, readable on light and on dark pages; a few rules instead of a library.

A plot has one or more named lines over a logarithmic x axis; y starts at zero, so that flat looks flat.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 44, 46
COLOURS = ("#1f77b4", "#d9772b", "#2f9e56", "#8a63b5")
INK = "#777777"


@dataclass(frozen=True, slots=True)
class Line:
    """One quantity at several sizes."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Plot:
    """What one SVG file shows."""

    file: str
    title: str
    x_name: str
    y_name: str
    lines: Sequence[Line]


def svg(plot: Plot) -> str:
    """Return *plot* as the text of an SVG file."""
    xs = sorted({x for line in plot.lines for x, _ in line.points})
    top = nice_ceiling(max(y for line in plot.lines for _, y in line.points))

    def place(x: float, y: float) -> tuple[float, float]:
        low, high = math.log10(xs[0]), math.log10(xs[-1])
        share = (math.log10(x) - low) / (high - low) if high > low else 0.5
        return LEFT + share * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM)

    parts = [_text(WIDTH / 2, 18, plot.title, size=14), _text(WIDTH / 2, HEIGHT - 8, plot.x_name)]
    parts.append(
        f'<g transform="translate(14 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)">{_text(0, 0, plot.y_name)}</g>'
    )
    for step in range(5):
        y = top * step / 4
        _, height = place(xs[0], y)
        parts.append(f'<path d="M{LEFT} {height:.1f}H{WIDTH - RIGHT}" stroke="{INK}" stroke-opacity=".3"/>')
        parts.append(_text(LEFT - 6, height + 4, f"{y:g}", anchor="end"))
    parts += [_text(place(x, 0)[0], HEIGHT - BOTTOM + 16, f"{x:,.0f}".replace(",", " ")) for x in xs]
    for number, line in enumerate(plot.lines):
        colour = COLOURS[number % len(COLOURS)]
        placed = [place(x, y) for x, y in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in placed]
        parts.append(_text(LEFT + number * 190, 36, f"● {line.name}", anchor="start", colour=colour))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'role="img"><title>{escape(plot.title)}</title>\n{body}\n</svg>\n'
    )


def nice_ceiling(value: float) -> float:
    """Return the next number above *value* that divides well by four."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 6, 8, 10) if step * power >= value)


def _text(  # noqa: PLR0913 - what makes a text
    x: float, y: float, words: str, *, size: int = 11, anchor: str = "middle", colour: str = INK
) -> str:
    look = f'font-size="{size}" text-anchor="{anchor}" fill="{colour}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {look}>{escape(words)}</text>'
