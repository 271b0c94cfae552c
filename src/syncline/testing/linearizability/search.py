"""The search for an order: Wing and Gong's algorithm with Lowe's memory, made for histories of a key-value store.

Operations are put into an order one after the other. The next can be any that was called before all the others that
are left have returned, and whose result fits the state. If more than one fits, each is tried; what was tried
before (the same operations ordered, the same state reached) is not tried again.

Three things keep the number of choices near one:

- What only looks and fits goes first, at once: it changes nothing, so nothing is lost by it.
- Operations that tell the store's revision are ordered by it, whatever their times.
- An operation of unknown fate is tried only if it helps: directly before one that its effect makes possible.
  (To apply it earlier is never better, and to apply it before no reader of its effect is never needed. Where several
  keys share reported revisions "later" is not always possible: there it is tried wherever its number finds room.)

Sources: Wing and Gong, "Testing and verifying concurrent objects" (1993); Lowe, "Testing for linearizability" (2017).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final, TypeAlias

import msgspec

from syncline.testing.linearizability.history import Call, Operation
from syncline.testing.linearizability.kv_model import ANY, Move, Numbers, State, Want

__all__ = ["DEFAULT_MAX_STEPS", "SearchResult", "Search"]

DEFAULT_MAX_STEPS: Final = 5_000_000
"""Choices before a search gives up: about a minute. With reported revisions it takes one or two per operation."""

_Choice: TypeAlias = tuple[int, State, int]
"""The next operation: its place among the operations (from 0: definite; below 0: the complement of one of unknown
fate), and the state after it. Then the places of the keys that the next definite operation must look at, a bit each."""


class SearchResult(msgspec.Struct, frozen=True):
    """The result of a search. `decided` False: it gave up. `reached` is the longest order that it found."""

    decided: bool
    linearizable: bool
    order: list[Operation]
    steps: int


class _Frame(msgspec.Struct, gc=False):
    """A place to come back to: how long the order was, and what else can come next."""

    length: int
    state: State
    focus: int
    choices: list[_Choice]


class Search:
    """One search, over the operations on keys that belong together; both lists are in the order of the calls.

    `definite` are those that happened, `optional` those of unknown fate: each with its moves, of which one or none is
    made.
    """

    def __init__(
        self,
        definite: Sequence[Move],
        optional: Sequence[Sequence[Move]],
        initial: State,
        numbers: Numbers,
        max_steps: int = DEFAULT_MAX_STEPS,
    ) -> None:
        self._definite = definite
        self._optional = optional
        self._state = initial
        self._numbers = numbers
        self._max_steps = max_steps
        self._steps = 0
        self._calls = [move.operation.call_s for move in definite]
        self._returns = [_return_s(move) for move in definite]
        self._optional_calls = [moves[0].operation.call_s for moves in optional]
        self._single = len(initial[1]) == 1
        self._levels = RevisionLevels(definite)
        counts = any(move.counts for move in (*definite, *(move for moves in optional for move in moves)))
        self._helpers = Helpers(definite, optional, numbered=not self._single and (counts or self._levels.told))
        self._demand = Demand(definite, optional)
        # The definite operations that are left, as a list linked both ways; the last place is its head.
        count = len(definite)
        self._next = [*range(1, count + 1), 0]
        self._before = [count, *range(count)]
        self._used = 0  # of the optional ones, a bit each
        self._base = 0
        self._beyond = 0  # which definite ones from `_base` on are in the order, a bit each
        self._order: list[int] = []
        self._focus = 0

    def run(self) -> SearchResult:
        """Look for an order of all definite operations."""
        frames: list[_Frame] = []
        tried: set[tuple[int, int, int, int, State]] = set()
        best: list[int] = []
        head = len(self._definite)
        while self._next[head] != head:
            choices = self._choices()
            self._steps += 1 + len(choices)
            if self._steps > self._max_steps:
                return self._outcome(best, decided=False)
            if len(choices) > 1:
                key = (self._base, self._beyond, self._used, self._focus, self._state)
                if key in tried:
                    choices = []
                else:
                    tried.add(key)
                    frames.append(_Frame(len(self._order), self._state, self._focus, choices))
            if not choices:
                if len(self._order) > len(best):
                    best = self._order.copy()
                if not frames:
                    return self._outcome(best)
                choices = frames[-1].choices
                self._go_back(frames[-1])
            choice = choices.pop()
            if frames and not frames[-1].choices:
                frames.pop()
            self._take(*choice)
        return self._outcome(self._order, linearizable=True)

    def _outcome(self, order: list[int], *, decided: bool = True, linearizable: bool = False) -> SearchResult:
        operations = [
            self._definite[place].operation if place >= 0 else self._optional[~place][0].operation for place in order
        ]
        return SearchResult(decided, linearizable, operations, self._steps)

    # -- one step on, and back

    def _take(self, place: int, state: State, focus: int) -> None:
        self._order.append(place)
        self._state = state
        self._focus = focus
        if place < 0:
            self._used |= 1 << ~place
            self._demand.take_optional(self._optional[~place])
            return
        before, after = self._before[place], self._next[place]
        self._next[before] = after
        self._before[after] = before
        self._levels.take(place)
        self._demand.take(self._definite[place])
        self._beyond |= 1 << (place - self._base)
        if self._beyond & 1:
            run = (~self._beyond & (self._beyond + 1)).bit_length() - 1  # how many ones are at the low end
            self._beyond >>= run
            self._base += run

    def _go_back(self, frame: _Frame) -> None:
        for place in reversed(self._order[frame.length :]):
            if place < 0:
                self._used &= ~(1 << ~place)
                self._demand.give_back_optional(self._optional[~place])
                continue
            self._next[self._before[place]] = place
            self._before[self._next[place]] = place
            self._levels.give_back(place)
            self._demand.give_back(self._definite[place])
            if place < self._base:
                shift = self._base - place
                self._beyond = (self._beyond << shift) | ((1 << shift) - 2)
                self._base = place
            else:
                self._beyond &= ~(1 << (place - self._base))
        del self._order[frame.length :]
        self._state = frame.state
        self._focus = frame.focus

    # -- what can come next

    def _choices(self) -> list[_Choice]:
        """Operations that can come next, the most promising last; a single one if nothing else need be tried."""
        state, levels, head = self._state, self._levels, len(self._definite)
        limit = levels.limit
        deadline_s = math.inf
        fits: list[tuple[float, _Choice]] = []
        fails: list[int] = []
        unsure = False
        place = self._next[head]
        while place != head and self._calls[place] <= deadline_s:
            deadline_s = min(deadline_s, self._returns[place])
            if levels.admits(place):
                move = self._definite[place]
                states = move.after(state)
                if not states:
                    fails.append(place)
                elif not self._focus & ~move.observes:
                    if move.pure:
                        if self._sure(move, states[0]):
                            return [(place, states[0], 0)]
                        unsure = True
                    if not self._demand.spoils(move, state):
                        fits += [
                            (-self._returns[place], (place, after, 0))
                            for after in reversed(states)
                            if move.number or after[0] <= limit
                        ]
            place = self._next[place]
        fits.sort(key=lambda fit: fit[0])
        helping = self._helping(fails, unsure, deadline_s)
        return helping + [choice for _, choice in fits] if helping else [choice for _, choice in fits]

    def _sure(self, move: Move, after: State) -> bool:
        """Whether a move that only looks may come now, whatever follows: no write could be put before it any more."""
        floor = self._state[0]
        if after[0] == floor or (self._single and move.exact):
            return True
        return not self._numbers.room(floor, after[0])

    def _helping(self, fails: list[int], unsure: bool, deadline_s: float) -> list[_Choice]:
        """The operations of unknown fate whose effect could be of use right now."""
        if not self._optional:
            return []
        limit = self._levels.limit
        if not self._numbers.room(self._state[0], limit):
            return []
        choices: list[_Choice] = []
        seen: set[int] = set()
        for number in self._helpers.of(fails, everything=unsure and self._single):
            if self._optional_calls[number] > deadline_s:
                break
            alike = self._helpers.alike[number]
            if self._used >> number & 1 or alike in seen:
                continue
            seen.add(alike)  # of several that are the same, the one that was called first
            for move in self._optional[number]:
                rest, own = self._focus & ~move.observes, self._helpers.focus(move)
                if rest and (not own or rest & own):
                    continue
                focus = rest | own
                if not self._demand.spoils(move, self._state):
                    choices += [(~number, after, focus) for after in move.after(self._state) if after[0] <= limit]
        return choices


def _return_s(move: Move) -> float:
    return math.inf if move.operation.return_s is None else move.operation.return_s


class RevisionLevels:
    """The order that reported revisions impose: level by level, in each either one write or its readers."""

    def __init__(self, definite: Sequence[Move]) -> None:
        ranks = sorted({(move.number, not move.changes) for move in definite if move.number})
        level_of = {rank: level for level, rank in enumerate(ranks)}
        self._levels = [level_of.get((move.number, not move.changes), -1) for move in definite]
        self._left = [0] * len(ranks)
        for level in self._levels:
            if level >= 0:
                self._left[level] += 1
        self._limits = [number if sees else number - 1 for number, sees in ranks]
        self._limits.append(2**63)
        self._level = 0
        self.told: bool = bool(ranks)
        self.limit: int = self._limits[0]
        """The highest number that a write of unknown number can take now."""

    def admits(self, place: int) -> bool:
        """Whether nothing of a lower level is left."""
        return self._levels[place] == self._level or self._levels[place] < 0

    def take(self, place: int) -> None:
        level = self._levels[place]
        if level >= 0:
            self._left[level] -= 1
            if not self._left[level]:
                self._level = level + 1
                self.limit = self._limits[level + 1]

    def give_back(self, place: int) -> None:
        """Undo the latest `take`."""
        level = self._levels[place]
        if level >= 0:
            self._left[level] += 1
            self._level = level
            self.limit = self._limits[level]


def _wide(move: Move) -> bool:
    """Whether more than one key decides where an operation of unknown fate can stand."""
    return len(move.effects) > 1 or bool(move.observes & ~(1 << move.effects[0][0]))


class Demand:
    """Values that are still needed, and the operations that can still write them: the last one must not be
    overwritten early.

    Reported revisions imply the same and more, so this is kept only for writes that do not report their own.
    """

    def __init__(self, definite: Sequence[Move], optional: Sequence[Sequence[Move]]) -> None:
        self._kept = any(not move.pure and not move.number for move in definite)
        self._wanted: Counter[Want] = Counter()
        self._givers: Counter[Want] = Counter()
        if self._kept:
            for move in definite:
                self.give_back(move)
            for moves in optional:
                self.give_back_optional(moves)

    def take(self, move: Move) -> None:
        """A definite move is made."""
        if self._kept:
            for want in move.wants:
                self._wanted[want] -= 1
            for effect in move.effects:
                self._givers[effect] -= 1

    def give_back(self, move: Move) -> None:
        """Undo `take`."""
        if self._kept:
            for want in move.wants:
                self._wanted[want] += 1
            for effect in move.effects:
                self._givers[effect] += 1

    def take_optional(self, moves: Sequence[Move]) -> None:
        """A move of unknown fate is made: none of its alternatives will be."""
        if self._kept:
            for move in moves:
                for effect in move.effects:
                    self._givers[effect] -= 1

    def give_back_optional(self, moves: Sequence[Move]) -> None:
        """Undo `take_optional`."""
        if self._kept:
            for move in moves:
                for effect in move.effects:
                    self._givers[effect] += 1

    def spoils(self, move: Move, state: State) -> bool:
        """Whether a move would permanently replace a value that other operations still need."""
        if not self._kept:
            return False
        for place, value in move.effects:
            record = state[1][place]
            old = None if record is None else record[0]
            if old != value:
                held: Want = (place, old)
                if self._wanted[held] > (held in move.wants) and not self._givers[held]:
                    return True
        return False


class Helpers:
    """Which operations of unknown fate could give others what they need."""

    def __init__(self, definite: Sequence[Move], optional: Sequence[Sequence[Move]], *, numbered: bool) -> None:
        self._definite = definite
        self._optional = optional
        self._numbered = numbered
        self._giving: defaultdict[Want, list[int]] = defaultdict(list)
        for number, moves in enumerate(optional):
            for want in {want for move in moves for effect in move.effects for want in (effect, (effect[0], ANY))}:
                self._giving[want].append(number)
        requests: dict[Call, int] = {}
        self.alike: list[int] = [
            requests.setdefault(moves[0].operation.request, number) for number, moves in enumerate(optional)
        ]
        """Of each the first of those that are the same."""
        self._found: dict[tuple[Want, ...], list[int]] = {}
        useful: set[int] = set().union(*map(self._for_wants, {move.wants for move in definite})) if optional else set()
        self._useful = sorted(useful)
        wide = {number for number in useful if any(map(_wide, optional[number]))}
        needed = {tuple(want for move in optional[number] for want in move.wants) for number in wide}
        self._always = sorted(wide.union(*map(self._for_wants, needed)))

    def of(self, fails: Sequence[int], *, everything: bool) -> Sequence[int]:
        """Those that may let one of these definite operations succeed, in the order of the calls."""
        if everything or self._numbered:
            return self._useful
        found = [self._for_wants(self._definite[place].wants) for place in fails]
        if len(found) == 1 and not self._always:
            return found[0]
        return sorted(set(self._always).union(*found))

    def focus(self, move: Move) -> int:
        """The key that the next definite operation must see: writers of one key only help its next reader."""
        if self._numbered or _wide(move):
            return 0
        return 1 << move.effects[0][0]

    def _for_wants(self, wants: tuple[Want, ...]) -> list[int]:
        """All that give what is wanted, or help one that does."""
        if wants not in self._found:
            helpers: set[int] = set()
            asked: set[Want] = set()
            ask = list(wants)
            while ask:
                want = ask.pop()
                if want in asked:
                    continue
                asked.add(want)
                for number in self._giving.get(want, ()):
                    if number not in helpers:
                        helpers.add(number)
                        ask += [more for move in self._optional[number] for more in move.wants]
            self._found[wants] = sorted(helpers)
        return self._found[wants]
