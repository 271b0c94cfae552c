"""The page's section on etcd's interface: its figures of ours and of etcd side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.figures import Figure

__all__ = ["KEY", "LIMITS", "about", "rows", "watch_rows"]

KEY = "etcd-face."
"""What the keys of its figures begin with (`workloads/etcd_face.py`)."""

SYSTEMS = ("syncline", "etcd")
WATCHES = f"{KEY}watches."

LIMITS = (
    "The same programs against both, in turns, three nodes each on this one machine, without TLS and users. etcd3gw is "
    "a client in Python, which shares the processors with the nodes: its own work bounds its figures. h2load sends one "
    "body, so all its writes are of one key. The watches have one run each. What other programs used was not noted."
)


def about(figures: Sequence[Figure]) -> bool:
    """Whether there are any."""
    return any(figure.key.startswith(KEY) for figure in figures)


def rows(figures: Sequence[Figure]) -> Iterable[tuple[str, ...]]:
    """By program and call: calls per second of both, their ratio, and what is said of each."""
    by_key = {figure.key: figure for figure in figures}
    for stem in _stems(figures):
        ours, other = (by_key.get(f"{stem}.{system}") for system in SYSTEMS)
        ratio = by_key.get(f"{stem}.ratio")
        yield (
            _title(ours or other),
            *(f"{one.value:,.0f}" if one is not None else "-" for one in (ours, other)),
            f"{ratio.value:.2f}x ({ratio.note})" if ratio is not None else "-",
            *(one.note if one is not None else "-" for one in (ours, other)),
        )


def watch_rows(figures: Sequence[Figure]) -> Iterable[tuple[str, ...]]:
    """Of 1,000 watches over gRPC."""
    for figure in figures:
        if figure.key.startswith(WATCHES):
            yield figure.title, f"{figure.value:,.3g} {figure.unit}", figure.note


def _stems(figures: Sequence[Figure]) -> list[str]:
    keys = [figure.key for figure in figures if figure.key.startswith(KEY) and not figure.key.startswith(WATCHES)]
    return list(dict.fromkeys(key.rpartition(".")[0] for key in keys))


def _title(figure: Figure | None) -> str:
    assert figure is not None, "a stem is that of a figure"
    return figure.title.partition(": ")[2]
