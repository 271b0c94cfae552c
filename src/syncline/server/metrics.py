"""A small metrics registry, rendered in Prometheus' text format (version 0.0.4).

Made for the hot path: a counter or histogram is fetched once, and counting is then an addition to an attribute: no
lookup, no lock, no allocation. Everything here belongs to one thread, the event loop's. Figures that other parts
count already are not counted again: `computed` metrics read them when the page is rendered.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

from syncline.errors import ConfigError
from syncline.platform.distribution import DURATIONS_S, Distribution

__all__ = ["Counter", "Family", "Gauge", "Histogram", "Instrument", "Registry", "Sample"]

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
    """A number that only grows. `counter.value += n` is the same as `counter.inc(n)` and cheaper.

    Example: `Registry`.
    """

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Value = 0

    def inc(self, amount: Value = 1) -> None:
        """Count.

        Raises:
            ConfigError: `amount` is negative.
        """
        _expect(amount >= 0, f"a counter only grows: it can't count {amount}")
        self.value += amount

    def lines(self, name: str, labels: str) -> Iterable[str]:
        """Its lines in the text format."""
        return (_line(name, labels, self.value),)


class Gauge:
    """A number that goes up and down: `gauge.value = 7`. Example: `Registry`."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Value = 0

    def lines(self, name: str, labels: str) -> Iterable[str]:
        """Its lines in the text format."""
        return (_line(name, labels, self.value),)


class Histogram(Distribution):
    """How often a value fell into each of a few fixed buckets, and the sum of all. Example: `Registry`."""

    __slots__ = ()

    def lines(self, name: str, labels: str) -> Iterable[str]:
        """Its lines in the text format: cumulative buckets, sum and count."""
        return _bucket_lines(self, name, labels)


def _bucket_lines(values: Distribution, name: str, labels: str) -> Iterable[str]:
    total = 0
    for bound, count in zip((*values.bounds, math.inf), values.counts, strict=True):
        total += count
        separator = "," if labels else ""
        yield _line(f"{name}_bucket", f'{labels}{separator}le="{_number(bound)}"', total)
    yield _line(f"{name}_sum", labels, values.sum)
    yield _line(f"{name}_count", labels, total)


class Instrument(Protocol):
    """One number, or one distribution, of the exposition."""

    def lines(self, name: str, labels: str) -> Iterable[str]:
        """Its lines under a name, with the labels in front."""
        ...


Metric = TypeVar("Metric", bound=Instrument)


class Family(Generic[Metric]):
    """All of one metric's label combinations. Example: `Registry`."""

    def __init__(self, name: str, label_names: tuple[str, ...], make: Callable[[], Metric]) -> None:
        self._name = name
        self._label_names = label_names
        self._make = make
        self._members: dict[tuple[str, ...], Metric] = {}

    def labels(self, *values: str) -> Metric:
        """The metric with these label values. Keep it in frequent code; beyond `MAX_LABELLED` it is that of `other`.

        Raises:
            ConfigError: there is not one value for each label.
        """
        _expect(len(values) == len(self._label_names), f"{self._name} has the labels {self._label_names}")
        member = self._members.get(values)
        if member is None:
            if len(self._members) >= MAX_LABELLED:
                values = (OTHER,) * len(values)
            member = self._members.setdefault(values, self._make())
        return member

    def lines(self) -> Iterable[str]:
        """The lines of all of them in the text format."""
        for values, member in self._members.items():
            yield from member.lines(self._name, _labels(self._label_names, values))


class Registry:
    """The metrics of one node, in the order in which they were made.

        registry = Registry()
        done = registry.counters("jobs_done_total", "Jobs that ended.", ["result"])
        waiting = registry.gauge("jobs_waiting", "Jobs that wait.")
        took = registry.histogram("job_seconds", "How long a job takes.")
        done.labels("good").inc()
        waiting.value = 3
        took.observe(0.012)
        page = registry.render()

    `KvServer.metrics` is the registry of a server: what a program adds there is on the server's page.

    A name or a label that the text format does not allow, or a name that is taken, raises `ConfigError`.
    """

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._looks: list[Callable[[], None]] = []
        self._parts: list[Callable[[], Iterable[str]]] = []

    def counter(self, name: str, help_text: str) -> Counter:
        """Make a counter without labels.

            restarts = registry.counter("worker_restarts_total", "Restarts of the worker.")
            restarts.inc()

        Raises:
            ConfigError: the name, the text or a label can't be used, or the name is taken.
        """
        return self.counters(name, help_text, ()).labels()

    def counters(self, name: str, help_text: str, labels: Sequence[str]) -> Family[Counter]:
        """Make counters, one for each combination of label values.

            done = registry.counters("jobs_done_total", "Jobs that ended.", ["result"])
            done.labels("good").inc()

        Raises:
            ConfigError: the name, the text or a label can't be used, or the name is taken.
        """
        return self._family("counter", name, help_text, labels, Counter)

    def gauge(self, name: str, help_text: str) -> Gauge:
        """Make a gauge without labels.

            registry.gauge("jobs_waiting", "Jobs that wait.").value = 3

        Raises:
            ConfigError: the name, the text or a label can't be used, or the name is taken.
        """
        return self.gauges(name, help_text, ()).labels()

    def gauges(self, name: str, help_text: str, labels: Sequence[str]) -> Family[Gauge]:
        """Make gauges, one for each combination of label values.

            registry.gauges("queue_length", "Jobs in a queue.", ["queue"]).labels("mail").value = 3

        Raises:
            ConfigError: the name, the text or a label can't be used, or the name is taken.
        """
        return self._family("gauge", name, help_text, labels, Gauge)

    def histogram(self, name: str, help_text: str, bounds: Sequence[float] = DURATIONS_S) -> Histogram:
        """Make a histogram without labels.

            registry.histogram("job_seconds", "How long a job takes.").observe(0.012)

        Raises:
            ConfigError: the name or the text can't be used, the name is taken, or `bounds` do not ascend.
        """
        return self.histograms(name, help_text, (), bounds).labels()

    def histograms(
        self, name: str, help_text: str, labels: Sequence[str], bounds: Sequence[float] = DURATIONS_S
    ) -> Family[Histogram]:
        """Make histograms, one for each combination of label values. `bounds` ascend and are finite.

            took = registry.histograms("job_seconds", "How long a job takes.", ["queue"], bounds=(0.1, 1.0, 10.0))
            took.labels("mail").observe(0.012)

        Raises:
            ConfigError: the name, the text or a label can't be used, the name is taken, or `bounds` do not ascend.
        """
        steady = tuple(map(float, bounds))
        _expect(bool(steady), f"{name}: a histogram has bounds")
        _expect(all(map(math.isfinite, steady)), f"{name}: the last bucket has no bound and is made by itself")
        _expect(list(steady) == sorted(set(steady)), f"{name}: bounds ascend")
        _expect("le" not in labels, f"{name}: `le` is the bucket's own label")
        return self._family("histogram", name, help_text, labels, lambda: Histogram(steady))

    def computed(
        self, kind: str, name: str, help_text: str, labels: Sequence[str], read: Callable[[], Iterable[Sample]]
    ) -> None:
        """Add a `counter` or `gauge` whose values are read when the page is rendered.

            registry.computed("gauge", "jobs", "Jobs by state.", ["state"], lambda: [(("waiting",), 3), (("done",), 9)])

        An exception of `read` reaches the caller of `render`.

        Raises:
            ConfigError: the kind, the name, the text or a label can't be used, or the name is taken.
        """
        _expect(kind in {"counter", "gauge"}, f"{name}: the kind is `counter` or `gauge`, not {kind!r}")
        names = self._register(kind, name, help_text, labels)
        self._parts.append(lambda: [_line(name, _labels(names, values), value) for values, value in read()])

    def computed_histogram(self, name: str, help_text: str, read: Callable[[], Distribution]) -> None:
        """Add a histogram that another part keeps.

            syncs = Distribution((0.001, 0.01, 0.1))
            registry.computed_histogram("sync_seconds", "Syncs of the log.", lambda: syncs)

        Raises:
            ConfigError: the name or the text can't be used, or the name is taken.
        """
        self._register("histogram", name, help_text, ())
        self._parts.append(lambda: _bucket_lines(read(), name, ""))

    def before_render(self, look: Callable[[], None]) -> None:
        """Have `look` called before each page.

            registry.before_render(lambda: figures.update(stats()))

        So several computed metrics show one moment.
        """
        self._looks.append(look)

    def render(self) -> bytes:
        """Return all of it as text.

            page = registry.render().decode()

        Its media type is `text/plain; version=0.0.4`.
        """
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
        _expect(_NAME.fullmatch(name) is not None, f"{name!r} is no metric name")
        _expect(name not in self._names, f"there is a metric {name} already")
        _expect((kind == "counter") == name.endswith("_total"), f"{name}: counters, and only they, end in _total")
        _expect(bool(help_text), f"{name}: say what it is")
        for label in labels:
            _expect(_LABEL.fullmatch(label) is not None, f"{name}: {label!r} is no label name")
            _expect(not label.startswith("__"), f"{name}: {label} is reserved")
        _expect(len(set(labels)) == len(labels), f"{name}: a label is there twice")
        self._names.add(name)
        head = f"# HELP {name} {_escape(help_text)}\n# TYPE {name} {kind}\n"
        self._parts.append(lambda: (head,))
        return tuple(labels)


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ConfigError(otherwise)


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
