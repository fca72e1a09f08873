"""The fewest calls that fetch what is missing. Pure functions, nothing here connects.

A grouped call brings one session for all tickers, a range call one ticker for a whole span of sessions. What is missing is a set
of (ticker, session) pairs: the edges of a bipartite graph. Calls that bring all of them are a vertex cover, the smallest being as
large as the largest matching (Koenig). Sessions that lack the same tickers are one node with a weight, and so are tickers that
are missing on the same sessions: a hole of a few rectangles has a few edges, however large they are.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import date

K = TypeVar("K")
V = TypeVar("V")

MAX_EDGES = 50_000
"""Of the compressed graph; beyond it a cover is found that may not be the smallest. Only holes without any pattern get there."""


@dataclass(frozen=True)
class Calls:
    grouped: tuple[date, ...] = ()
    """Sessions, in order: one call each, for all tickers."""
    ranges: Mapping[str, tuple[date, date]] = field(default_factory=dict)
    """Ticker to the first and last session that one call spans; none of its sessions in between is among `grouped`' own."""
    in_hand: int = 0
    """Tickers of which an earlier run has left an answer; it costs no call."""

    @property
    def number(self) -> int:
        return len(self.grouped) + len(self.ranges)


def fewest(missing: Mapping[date, frozenset[str]]) -> Calls:
    """The fewest calls that bring every missing ticker of every session. Of two ways that cost the same: more grouped calls."""
    rows = _by_value(missing.items())
    rows.pop(frozenset(), None)
    if len(rows) == 1:  # the usual hole, without the graph
        ((tickers, days),) = rows.items()
        if len(days) <= len(tickers):
            return Calls(tuple(sorted(days)))
        return Calls((), dict.fromkeys(sorted(tickers), (min(days), max(days))))
    columns: dict[str, list[int]] = {}
    for number, tickers in enumerate(rows):
        for ticker in tickers:
            columns.setdefault(ticker, []).append(number)
    classes = _by_value((ticker, frozenset(numbers)) for ticker, numbers in columns.items())
    sessions, names = list(rows.values()), list(classes.values())
    neighbours: list[list[int]] = [[] for _ in sessions]
    for index, numbers in enumerate(classes):
        for number in numbers:
            neighbours[number].append(index)
    chosen, chosen_tickers = _cover([len(days) for days in sessions], [len(group) for group in names], neighbours)
    grouped = frozenset(day for number in chosen for day in sessions[number])
    wanted = [sorted(day for number in numbers for day in sessions[number] if day not in grouped) for numbers in classes]
    return Calls(
        tuple(sorted(grouped)),
        {name: (wanted[index][0], wanted[index][-1]) for index in sorted(chosen_tickers) for name in sorted(names[index])},
    )


def _by_value(pairs: Iterable[tuple[K, V]]) -> dict[V, list[K]]:
    """Keys by what they have in common."""
    found: dict[V, list[K]] = {}
    for key, value in pairs:
        found.setdefault(value, []).append(key)
    return found


def _cover(left: list[int], right: list[int], neighbours: list[list[int]]) -> tuple[set[int], set[int]]:
    """The lightest sets of left and right nodes that touch every edge; ties go to the left."""
    if sum(map(len, neighbours)) > MAX_EDGES:
        return (set(range(len(left))), set()) if sum(left) <= sum(right) else (set(), set(range(len(right))))
    flow = _Flow(left, right, neighbours)
    flow.maximise()
    levels, reached = flow.levels()
    return {node for node, level in enumerate(levels) if level < 0}, {node for node, level in enumerate(reached) if level >= 0}


class _Flow:
    """The largest flow from left to right nodes, which have capacities, along edges, which have none (Edmonds and Karp)."""

    def __init__(self, left: list[int], right: list[int], neighbours: list[list[int]]) -> None:
        self._spare_left, self._spare_right = list(left), list(right)
        self._neighbours = neighbours
        self._into: list[list[int]] = [[] for _ in right]
        for node, ends in enumerate(neighbours):
            for end in ends:
                self._into[end].append(node)
        self._carried: list[dict[int, int]] = [{} for _ in right]
        """By right node: the flow that comes in, by left node. It can be sent back."""

    def maximise(self) -> None:
        for node, ends in enumerate(self._neighbours):
            for end in ends:
                self._push([node, end])
        while path := self._path():
            self._push(path)

    def _path(self) -> list[int]:
        """A shortest path, left and right nodes in turn, that can carry more; empty when there is none."""
        left, right = self.levels()
        ends = [(level, end) for end, level in enumerate(right) if level >= 0 and self._spare_right[end]]
        if not ends:
            return []
        path = [min(ends)[1]]
        while True:
            node = next(n for n in self._into[path[0]] if 0 <= left[n] == right[path[0]] - 1)
            path.insert(0, node)
            if left[node] == 0:
                return path
            path.insert(
                0, next(end for end in self._neighbours[node] if 0 <= right[end] == left[node] - 1 and node in self._carried[end])
            )

    def levels(self) -> tuple[list[int], list[int]]:
        """How many edges away from a left node with spare capacity each left and right node is; -1: it can't be reached."""
        left = [0 if spare else -1 for spare in self._spare_left]
        right = [-1] * len(self._spare_right)
        queue = deque(node for node, level in enumerate(left) if level == 0)
        while queue:
            node = queue.popleft()
            for end in self._neighbours[node]:
                if right[end] < 0:
                    right[end] = left[node] + 1
                    for back in self._carried[end]:
                        if left[back] < 0:
                            left[back] = right[end] + 1
                            queue.append(back)
        return left, right

    def _push(self, path: list[int]) -> None:
        """Send as much as the path can carry; its steps back take flow away."""
        back = [(self._carried[path[i]], path[i + 1]) for i in range(1, len(path) - 1, 2)]
        amount = min(self._spare_left[path[0]], self._spare_right[path[-1]], *(flows[node] for flows, node in back))
        if not amount:
            return
        self._spare_left[path[0]] -= amount
        self._spare_right[path[-1]] -= amount
        for i in range(0, len(path), 2):
            flows = self._carried[path[i + 1]]
            flows[path[i]] = flows.get(path[i], 0) + amount
        for flows, node in back:
            flows[node] -= amount
            if not flows[node]:
                del flows[node]
