"""Plots over the number of clients, as SVG: both axes logarithmic, a line per series, its name at its end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 130, 40, 50
NAME_PX = 13
"""The least distance between two names."""

COLOURS = {
    "syncline": "#0b6e4f",
    "etcd": "#c1432b",
    "hashicorp": "#6b4fbb",
    "library": "#3aa17e",
    "bare": "#9fd3bf",
    "pysyncobj": "#8a8a8a",
    "redis": "#d08c1d",
}
OTHER_COLOUR = "#444444"
STYLE = "font-family: sans-serif; font-size: 12px; fill: #333"


@dataclass(frozen=True, slots=True)
class Series:
    """Points of clients and value, in ascending order of clients; all values positive."""

    name: str
    points: Sequence[tuple[int, float]]
    colour: str
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Scale:
    """A logarithmic axis: values from `low` to `high` onto pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def px(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)


def plot(title: str, unit: str, series: Sequence[Series]) -> str:
    """The whole picture. `series` has at least one point."""
    values = [value for one in series for _, value in one.points]
    clients = sorted({number for one in series for number, _ in one.points})
    x = Scale(clients[0], max(clients[-1], 2 * clients[0]), LEFT, WIDTH - RIGHT)
    low, high = 10 ** math.floor(math.log10(min(values))), 10 ** math.ceil(math.log10(max(values) * 1.001))
    y = Scale(low, high, HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" style="{STYLE}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, TOP - 18, f"{title} ({unit})", weight="bold"),
        *_grid(x, y, clients, low, high),
        *(_line(one, x, y) for one in series),
        *_names(series, y),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _grid(x: Scale, y: Scale, clients: Sequence[int], low: float, high: float) -> Iterable[str]:
    for number in clients:
        at = x.px(number)
        yield _rule(at, HEIGHT - BOTTOM, at, TOP)
        yield _text(at, HEIGHT - BOTTOM + 18, str(number), anchor="middle")
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "clients", anchor="middle")
    for power in range(round(math.log10(low)), round(math.log10(high)) + 1):
        at = y.px(10.0**power)
        yield _rule(LEFT, at, WIDTH - RIGHT, at)
        yield _text(LEFT - 8, at + 4, _number(10.0**power), anchor="end")


def _line(one: Series, x: Scale, y: Scale) -> str:
    points = " ".join(f"{x.px(clients):.1f},{y.px(value):.1f}" for clients, value in one.points)
    dash = ' stroke-dasharray="5 4"' if one.dashed else ""
    dots = "".join(
        f'<circle cx="{x.px(clients):.1f}" cy="{y.px(value):.1f}" r="3" fill="{one.colour}"/>'
        for clients, value in one.points
    )
    return f'<polyline points="{points}" fill="none" stroke="{one.colour}" stroke-width="2"{dash}/>{dots}'


def _names(series: Sequence[Series], y: Scale) -> Iterable[str]:
    """Beside the last points, moved down where two would meet."""
    above = -math.inf
    for one in sorted(series, key=lambda one: y.px(one.points[-1][1])):
        at = max(y.px(one.points[-1][1]) + 4, above + NAME_PX)
        above = at
        yield _text(WIDTH - RIGHT + 10, at, one.name, colour=one.colour)


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#ddd"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", colour: str = "#333", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" style="fill: {colour}">'
        f"{escape(text)}</text>"
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"
