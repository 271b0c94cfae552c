"""A small metrics registry, rendered in Prometheus' text format (version 0.0.4).

Made for the hot path: a counter or histogram is asked for once, and counting is then an addition to an attribute of the
object that came back: no lookup, no lock, no allocation. Everything here belongs to one thread, the event loop's.
What other parts already count is not counted again: `computed` metrics are read from them when somebody looks.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

__all__ = ["Counter", "DURATION_BUCKETS_S", "Family", "Gauge", "Histogram", "Instrument", "Registry", "Sample"]

DURATION_BUCKETS_S: Final = (
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""For operations that take a fraction of a millisecond when all is well, and seconds when a leader is missing."""

MAX_LABELLED: Final = 500
"""Label combinations of one metric. Beyond it a combination is counted under `other`: labels that come from outside
must not grow the memory of the node, or of whatever collects its metrics."""

OTHER: Final = "other"
MAX_LABEL_CHARACTERS: Final = 256

Value: TypeAlias = int | float
Sample: TypeAlias = tuple[tuple[str, ...], Value]
"""Label values, in the order of the metric's label names, and the number."""

_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class Counter:
    """A number that only grows. `counter.value += n` is the same as `counter.inc(n)` and cheaper."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Value = 0

    def inc(self, amount: Value = 1) -> None:
        """Count; `amount` is not negative."""
        assert amount >= 0
        self.value += amount

    def lines(self, name: str, labels: str) -> Iterable[str]:
        """The exposition of it."""
        return (_line(name, labels, self.value),)


class Gauge:
    """A number that goes up and down."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Value = 0

    def lines(self, name: str, labels: str) -> Iterable[str]:
        """The exposition of it."""
        return (_line(name, labels, self.value),)


class Histogram:
    """How often a value fell into each of a few fixed buckets, and the sum of all."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts: list[int] = [0] * (len(bounds) + 1)
        """Per bucket, not cumulative; the last is what is above all bounds."""
        self.sum: float = 0.0

    def observe(self, value: float) -> None:
        """Count one value. A value equal to a bound belongs to that bound's bucket."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def lines(self, name: str, labels: str) -> Iterable[str]:
        """The exposition of it: cumulative buckets, sum and count."""
        total = 0
        for bound, count in zip((*self._bounds, math.inf), self.counts, strict=True):
            total += count
            separator = "," if labels else ""
            yield _line(f"{name}_bucket", f'{labels}{separator}le="{_number(bound)}"', total)
        yield _line(f"{name}_sum", labels, self.sum)
        yield _line(f"{name}_count", labels, total)


class Instrument(Protocol):
    """One number, or one distribution, of the exposition."""

    def lines(self, name: str, labels: str) -> Iterable[str]:
        """Its lines under a name, with the labels in front."""
        ...


Metric = TypeVar("Metric", bound=Instrument)


class Family(Generic[Metric]):
    """All of one metric's label combinations."""

    def __init__(self, name: str, label_names: tuple[str, ...], make: Callable[[], Metric]) -> None:
        self._name = name
        self._label_names = label_names
        self._make = make
        self._members: dict[tuple[str, ...], Metric] = {}

    def labels(self, *values: str) -> Metric:
        """The one with these label values. Keep it where it is used often; beyond `MAX_LABELLED` it is `other`'s."""
        assert len(values) == len(self._label_names), f"{self._name} has the labels {self._label_names}"
        member = self._members.get(values)
        if member is None:
            if len(self._members) >= MAX_LABELLED:
                values = (OTHER,) * len(values)
            member = self._members.setdefault(values, self._make())
        return member

    def lines(self) -> Iterable[str]:
        """The exposition of them all."""
        for values, member in self._members.items():
            yield from member.lines(self._name, _labels(self._label_names, values))


class Registry:
    """The metrics of one node, in the order in which they were made."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._looks: list[Callable[[], None]] = []
        self._parts: list[Callable[[], Iterable[str]]] = []

    def counter(self, name: str, help_text: str) -> Counter:
        """A counter without labels."""
        return self.counters(name, help_text, ()).labels()

    def counters(self, name: str, help_text: str, labels: Sequence[str]) -> Family[Counter]:
        """Counters, one for each combination of label values."""
        return self._family("counter", name, help_text, labels, Counter)

    def gauge(self, name: str, help_text: str) -> Gauge:
        """A gauge without labels."""
        return self.gauges(name, help_text, ()).labels()

    def gauges(self, name: str, help_text: str, labels: Sequence[str]) -> Family[Gauge]:
        """Gauges, one for each combination of label values."""
        return self._family("gauge", name, help_text, labels, Gauge)

    def histogram(self, name: str, help_text: str, bounds: Sequence[float] = DURATION_BUCKETS_S) -> Histogram:
        """A histogram without labels."""
        return self.histograms(name, help_text, (), bounds).labels()

    def histograms(
        self, name: str, help_text: str, labels: Sequence[str], bounds: Sequence[float] = DURATION_BUCKETS_S
    ) -> Family[Histogram]:
        """Histograms, one for each combination of label values. `bounds` ascend and are finite."""
        steady = tuple(map(float, bounds))
        assert steady, "a histogram has bounds"
        assert all(map(math.isfinite, steady)), "the last bucket has no bound and is made by itself"
        assert list(steady) == sorted(set(steady)), "bounds ascend"
        assert "le" not in labels, "`le` is the bucket's own label"
        return self._family("histogram", name, help_text, labels, lambda: Histogram(steady))

    def computed(
        self, kind: str, name: str, help_text: str, labels: Sequence[str], read: Callable[[], Iterable[Sample]]
    ) -> None:
        """A `counter` or `gauge` whose values are read when somebody looks. What `read` raises reaches who looks."""
        assert kind in {"counter", "gauge"}
        names = self._register(kind, name, help_text, labels)
        self._parts.append(lambda: [_line(name, _labels(names, values), value) for values, value in read()])

    def computed_summary(self, name: str, help_text: str, read: Callable[[], tuple[int, float]]) -> None:
        """A summary without quantiles: how many, and their sum, as some other part keeps them."""
        self._register("summary", name, help_text, ())

        def lines() -> list[str]:
            count, total = read()
            return [_line(f"{name}_sum", "", total), _line(f"{name}_count", "", count)]

        self._parts.append(lines)

    def before_render(self, look: Callable[[], None]) -> None:
        """Have `look` called before each page, so that several computed metrics can speak of one moment."""
        self._looks.append(look)

    def render(self) -> bytes:
        """All of it, as text for `Content-Type: text/plain; version=0.0.4`."""
        for look in self._looks:
            look()
        return "".join([line for lines in self._parts for line in lines()]).encode()

    def _family(
        self, kind: str, name: str, help_text: str, labels: Sequence[str], make: Callable[[], Metric]
    ) -> Family[Metric]:
        family = Family(name, self._register(kind, name, help_text, labels), make)
        self._parts.append(family.lines)
        return family

    def _register(self, kind: str, name: str, help_text: str, labels: Sequence[str]) -> tuple[str, ...]:
        assert _NAME.fullmatch(name), f"{name!r} is no metric name"
        assert name not in self._names, f"{name} is there already"
        assert (kind == "counter") == name.endswith("_total"), f"{name}: counters, and only they, end in _total"
        assert help_text, f"{name}: say what it is"
        for label in labels:
            assert _LABEL.fullmatch(label), f"{name}: {label!r} is no label name"
            assert not label.startswith("__"), f"{name}: {label} is reserved"
        assert len(set(labels)) == len(labels), f"{name}: labels twice"
        self._names.add(name)
        head = f"# HELP {name} {_escape(help_text)}\n# TYPE {name} {kind}\n"
        self._parts.append(lambda: (head,))
        return tuple(labels)


def _line(name: str, labels: str, value: Value) -> str:
    return f"{name}{{{labels}}} {_number(value)}\n" if labels else f"{name} {_number(value)}\n"


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    return ",".join([f'{name}="{_escape_value(value)}"' for name, value in zip(names, values, strict=True)])


def _number(value: Value) -> str:
    if isinstance(value, int):  # a bool is one, and must read as a number
        return str(int(value))
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _escape_value(text: str) -> str:
    return _escape(text[:MAX_LABEL_CHARACTERS]).replace('"', '\\"')
