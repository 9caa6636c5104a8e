"""The layout of TorchServe's JSON answers, byte for byte that of the standard library."""

from __future__ import annotations

import collections
import enum
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchserve_lite.worker.indented import indented
from torchserve_lite.worker.outputs import encode

PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
NESTED = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=12) | st.dictionaries(st.text(), inner))
BITS = st.integers(0, 2**64 - 1).map(lambda bits: struct.unpack("d", struct.pack("Q", bits))[0])
NEAR_ONE = st.builds(
    lambda digits, exponent: digits * 10.0**exponent, st.integers(-(2**53), 2**53), st.integers(-25, 5)
)


@given(NESTED)
def test_value_of_jsons_own_types_is_laid_out_as_by_the_standard_library(value: Any) -> None:
    assert indented(value) == json.dumps(value, indent=2)


@given(st.lists(st.floats(width=32) | BITS | NEAR_ONE, min_size=8))
def test_list_of_floats_is_laid_out_as_by_the_standard_library(values: list[float]) -> None:
    assert indented(values) == json.dumps(values, indent=2)


@pytest.mark.parametrize("exponent", range(-20, 25))
def test_floats_of_every_size_have_pythons_digits(exponent: int) -> None:
    """Where one library begins to write exponents, another may not."""
    values = [sign * digits * 10.0**exponent for digits in (1.0, 1.5, 9.99999999999999, 1 / 3) for sign in (1, -1)]
    assert indented(values) == json.dumps(values, indent=2)


class Number(enum.IntEnum):
    TWO = 2


class Text(str):
    """Its methods are not those of texts."""

    def __repr__(self) -> str:
        return "other"

    __str__ = __repr__


class Real(float):
    def __repr__(self) -> str:
        return "other"


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(Number.TWO, id="enum of numbers"),
        pytest.param([Number.TWO] * 9, id="enums of numbers"),
        pytest.param([Real(0.5)] * 9, id="subclass of float"),
        pytest.param([1.0] * 9 + [Real(0.5)], id="subclass of float among floats"),
        pytest.param([1.0] * 9 + [1, True], id="other numbers among floats"),
        pytest.param([Text("a")], id="subclass of str"),
        pytest.param({Text("a"): 1}, id="subclass of str as a key"),
        pytest.param({1: "a", 2.5: "b", None: "c", False: "d"}, id="keys that are no texts"),
        pytest.param({"1": "a", 1: "b"}, id="keys that become equal"),
        pytest.param(collections.OrderedDict(b=1, a=2), id="ordered dict"),
        pytest.param({"a": collections.OrderedDict(b=1)}, id="ordered dict inside"),
        pytest.param({"a": (1, 2), "b": ()}, id="tuples"),
        pytest.param([float("nan"), float("inf"), -float("inf")] * 4, id="not finite"),
        pytest.param({"a": {}, "b": [], "c": [{}, [[]]]}, id="empty containers"),
        pytest.param({"": '"\\\n\u2028', "sn\u00f6": "\U0001f600\ud800"}, id="escapes"),
        pytest.param([2**63, -(2**70), 0], id="large numbers"),
        pytest.param([-0.0] * 9, id="negative zero"),
    ],
)
def test_odd_value_is_sent_as_by_the_standard_library(value: Any) -> None:
    assert encode(value)[0] == json.dumps(value, indent=2).encode()


@pytest.mark.parametrize(
    "value",
    [
        pytest.param([Number.TWO], id="subclass"),
        pytest.param({"a": object()}, id="object"),
        pytest.param((1,), id="tuple"),
        pytest.param({1: 2}, id="key"),
        pytest.param([10**5000], id="number without a text"),
    ],
)
def test_other_values_are_left_to_the_standard_library(value: Any) -> None:
    assert indented(value) is None
