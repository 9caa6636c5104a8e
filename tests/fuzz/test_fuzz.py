"""Each fuzzer for a moment: its seeds, and what hypothesis makes of them, the same on every run."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.target import MODULES, Choices, Target, Unbounded, bounded, run_case, target_of

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the bounds of memory and the kept memory are Linux's"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


@st.composite
def cases(draw: st.DrawFn, target: Target) -> bytes:
    """A seed in which a few pieces were replaced, as a fuzzer does it."""
    case = draw(st.sampled_from(target.seeds))
    pieces = st.one_of(st.sampled_from(target.words or [b""]), st.binary(max_size=8))
    for at, length, piece in draw(st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 8), pieces), max_size=5)):
        start = at % (len(case) + 1)
        case = case[:start] + piece + case[start + length :]
    return case[: target.longest]


@pytest.mark.parametrize("name", MODULES)
def test_promises_hold_for_whatever_comes(name: str) -> None:
    target = target_of(name)

    @settings(max_examples=200, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(cases(target))
    def for_every_case(case: bytes) -> None:
        run_case(target, case)

    with bounded():
        for seed in target.seeds:
            run_case(target, seed)
        for_every_case()


def endless(case: bytes) -> None:
    while True:
        pass


def swallowing(case: bytes) -> None:
    with contextlib.suppress(BaseException):
        endless(case)


def hungry(case: bytes) -> None:
    bytearray(1 << 29)


@pytest.mark.parametrize("check", [endless, swallowing, hungry])
def test_case_without_bounds_is_a_finding(check: Callable[[bytes], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.target._MOST_SECONDS", 0.2)
    bytearray(1 << 30)  # a peak of memory that was there before
    with bounded(), pytest.raises(Unbounded):
        run_case(Target(check=check, seeds=[b""]), b"")


def test_choices_are_the_first_ones_when_the_case_is_used_up() -> None:
    choices = Choices(b"\x05")
    assert [choices.below(4), choices.below(4), choices.one_of("ab"), choices.rest()] == [1, 0, "a", b""]
