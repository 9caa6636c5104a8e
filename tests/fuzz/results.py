"""What handlers return: each of the types that one may think of, and some that nobody should."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import io
import pathlib
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch


class _Colour(enum.Enum):
    RED = "red"
    FAR = float("inf")
    SELF = datetime.date(2026, 1, 1)


class _Number(enum.IntEnum):
    ONE = 1


@dataclasses.dataclass
class _Point:
    x: Any = dataclasses.field(default_factory=lambda: np.float32("nan"))
    y: Any = None


_Pair = collections.namedtuple("_Pair", "left right")


def _circle() -> list[Any]:
    circle: list[Any] = [1]
    circle.append(circle)
    return circle


def _deep(kind: Callable[[Any], Any], depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = kind(value)
    return value


_MAKERS: Sequence[Callable[[], Any]] = (
    lambda: np.array([1.5, np.nan, np.inf]),
    lambda: np.array([[1, 2], [3, 4]], dtype=np.uint8),
    lambda: np.float16(2),
    lambda: np.array(3),
    lambda: np.array([]),
    lambda: np.zeros((0, 2**40)),
    lambda: np.array(["a", "é\0"]),
    lambda: np.array([b"a", b"\xff"]),
    lambda: np.array([1 + 2j]),
    lambda: np.longdouble("1.5"),
    lambda: np.clongdouble(1),
    lambda: np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    lambda: np.array([None, "x", 1, b"\xff"], dtype=object),
    lambda: np.datetime64("2026-01-01"),
    lambda: np.array(["NaT"], dtype="M8[s]"),
    lambda: np.timedelta64(3, "s"),
    lambda: np.array([1, 2], dtype=">i8"),
    lambda: np.array([0.5], dtype=">f4"),
    lambda: np.bool_(True),
    lambda: np.str_("x"),
    lambda: np.bytes_(b"x"),
    lambda: np.void(b"abc"),
    lambda: np.ma.masked_array([1, 2], [False, True]),
    lambda: np.matrix("1 2"),
    lambda: np.broadcast_to(np.float32(1), (3, 4)),
    lambda: np.arange(10)[::-2],
    lambda: np.iinfo(np.int64).min,
    lambda: torch.tensor([1.5, float("nan")]),
    lambda: torch.tensor([1.5], dtype=torch.bfloat16),
    lambda: torch.tensor(3),
    lambda: torch.tensor([1.0], requires_grad=True),
    lambda: torch.tensor([1 + 2j]),
    lambda: torch.eye(2).to_sparse(),
    lambda: torch.quantize_per_tensor(torch.ones(2), 0.5, 0, torch.qint8),
    lambda: torch.empty((0, 3)),
    lambda: torch.empty(2, device="meta"),
    lambda: torch.tensor([True]),
    lambda: torch.tensor([1.0], dtype=torch.float8_e4m3fn),
    lambda: torch.tensor([7], dtype=torch.uint64),
    lambda: torch.conj(torch.tensor([1 + 2j])),
    lambda: torch._neg_view(torch.ones(2)),
    lambda: torch.nn.Parameter(torch.ones(1)),
    lambda: torch.float32,
    lambda: torch.Size([1, 2]),
    lambda: torch.device("cpu"),
    lambda: torch.nn.Linear(1, 1),
    lambda: [torch.ones(2), torch.ones(3)],
    lambda: [torch.ones(2), np.ones(2)],
    lambda: {"a": torch.ones(1), 1: np.int8(1)},
    lambda: None,
    lambda: True,
    lambda: 10**5000,
    lambda: -(2**63),
    lambda: 2**64,
    lambda: float("nan"),
    lambda: [1, "a", None],
    lambda: [[1], [2, 3]],
    lambda: [[[]]],
    lambda: [2**63, -1],
    lambda: [10**5000],
    lambda: [10**400, 1.5],
    lambda: [2**64, 1],
    lambda: [1, 2.5, True],
    lambda: "",
    lambda: "text",
    lambda: "\ud800",
    lambda: ["\ud800"],
    lambda: {"\ud800": "\ud800"},
    lambda: b"",
    lambda: b"\xff\xfe",
    lambda: bytearray(b"ab"),
    lambda: memoryview(b"abcd"),
    lambda: memoryview(b"abcd")[::2],
    lambda: np.ones((2, 2)).data,
    lambda: [memoryview(b"ab")],
    lambda: {1, 2},
    lambda: {"a", 1},
    lambda: frozenset({(1, 2)}),
    lambda: (1, (2, 3)),
    lambda: {"b": {"c": [1]}},
    lambda: {(1, 2): 3},
    lambda: {None: 1, True: 2, 1.5: 3, "k": 4},
    lambda: {float("nan"): 1},
    lambda: {b"k": 1},
    lambda: {datetime.date(2026, 1, 1): 1},
    lambda: {_Colour.RED: 1, _Number.ONE: 2},
    lambda: {uuid.UUID(int=1): 1, pathlib.PurePath("x"): 2},
    lambda: {10**5000: 1},
    lambda: _circle(),
    lambda: [_circle()],
    lambda: _deep(lambda v: [v], 100),
    lambda: _deep(lambda v: [v], 5000),
    lambda: _deep(lambda v: {"k": v}, 5000),
    lambda: _deep(lambda v: (v,), 20_000),
    lambda: datetime.datetime.now(datetime.UTC),
    lambda: datetime.time(1, 2),
    lambda: datetime.timedelta.max,
    lambda: datetime.timedelta(1),
    lambda: decimal.Decimal("sNaN"),
    lambda: decimal.Decimal("1e9999"),
    lambda: fractions.Fraction(1, 3),
    lambda: _Colour.RED,
    lambda: _Colour.FAR,
    lambda: _Colour.SELF,
    lambda: _Number.ONE,
    lambda: _Point(),
    lambda: _Point(y=_Point()),
    lambda: _Point,
    lambda: _Pair(1, [2]),
    lambda: collections.Counter("aab"),
    lambda: collections.deque([1, 2]),
    lambda: collections.OrderedDict(a=1),
    lambda: collections.UserList([1]),
    lambda: range(3),
    lambda: (x for x in (1, 2)),
    lambda: {"a": 1}.items(),
    lambda: {"a": 1}.keys(),
    lambda: {"a": 1}.values(),
    lambda: iter([1]),
    lambda: len,
    lambda: object(),
    lambda: int,
    lambda: Exception("x"),
    lambda: io.BytesIO(b"x"),
    lambda: complex(1, 2),
    lambda: slice(1),
    lambda: ...,
    lambda: NotImplemented,
    lambda: [object()],
    lambda: {"a": object()},
    lambda: [None],
    list,
    dict,
    lambda: [{}],
    lambda: [np.nan, None],
    lambda: [np.array([1, 2]), [3]],
    lambda: [np.ones((2, 2)), np.ones((2, 3))],
    lambda: np.array([[1], [2, 3]], dtype=object),
    lambda: np.array([_circle()], dtype=object),
    lambda: np.array({}, dtype=object),
    lambda: np.array([np.ones(2), None], dtype=object),
    lambda: [b"\xff", "x", 1.5],
    lambda: np.array([object()]),
    lambda: [np.datetime64("2026-01-01"), 1],
    lambda: np.rec.array([(1, "a")]),
    lambda: [[1, "a"], [None, b"x"]],
    lambda: np.array([10**400, 1], dtype=object),
    lambda: [datetime.date(2026, 1, 1)],
    lambda: [decimal.Decimal(1), 1],
    lambda: [_Point()],
)


ODD_RESULTS = len(_MAKERS)


def odd_result(number: int) -> Any:
    return _MAKERS[number % ODD_RESULTS]()
