"""The arithmetic of rounds: the order of targets, ratios within a round, medians over rounds.

A round is what each target did within one turn, ``{target: {figure: value}}``. A target that failed is not in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median

Round = Mapping[str, Mapping[str, float]]


def orders(targets: Sequence[str], rounds: int) -> Iterator[list[str]]:
    """ABC, CBA, ABC, ...: over two rounds each target is in the middle of what troubles the machine as long as any."""
    for number in range(rounds):
        yield list(targets) if number % 2 == 0 else list(reversed(targets))


def values(rounds: Sequence[Round], target: str, figure: str) -> list[float]:
    """One figure of a target, of every round that has it."""
    return [one[target][figure] for one in rounds if figure in one.get(target, {})]


def ratios(rounds: Sequence[Round], figure: str, target: str, other: str) -> list[float]:
    """A target's figure to another's, round by round, so that what troubled the machine in a round troubled both."""
    return [
        one[target][figure] / one[other][figure]
        for one in rounds
        if figure in one.get(target, {}) and one.get(other, {}).get(figure)
    ]


def median_ratio(rounds: Sequence[Round], figure: str, target: str, other: str) -> float | None:
    found = ratios(rounds, figure, target, other)
    return median(found) if found else None
