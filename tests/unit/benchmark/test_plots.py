import re
from xml.etree import ElementTree as ET

import pytest

from tests.benchmark.plots import HEIGHT, WIDTH, Line, Plot, nice_ceiling, svg

PLOT = Plot(
    "a.svg", "A & B", "accounts", "µs", [Line("ours", [(5000, 90.0), (500_000, 95.0)]), Line("<x>", [(5000, 1)])]
)


def test_a_plot_is_well_formed_and_stays_inside_its_frame() -> None:
    root = ET.fromstring(svg(PLOT))  # noqa: S314 - our own
    dots = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in root.iter() if dot.tag.endswith("circle")]
    assert len(dots) == 3
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in dots)


def test_a_flat_line_looks_flat() -> None:
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)"', svg(PLOT))]
    assert abs(heights[0] - heights[1]) < HEIGHT / 10


@pytest.mark.parametrize(("value", "ceiling"), [(95, 100), (101, 200), (0.3, 0.4), (6, 6), (0, 1)])
def test_an_axis_ends_at_a_round_number(value: float, ceiling: float) -> None:
    assert nice_ceiling(value) == pytest.approx(ceiling)
