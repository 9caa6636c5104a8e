"""The limit of open files is lifted as far as it may be, and remembered as it was."""

from __future__ import annotations

import resource

import pytest

from torchserve_lite.config.descriptors import DescriptorLimits, raise_descriptor_limit

_UNLIMITED = resource.RLIM_INFINITY


class Limits:
    """The process' limits. ``accepts``: the highest soft limit that the system takes."""

    def __init__(self, soft: int, hard: int, accepts: int = 2**62) -> None:
        self.now = (soft, hard)
        self.accepts = accepts

    def get(self, which: int) -> tuple[int, int]:
        assert which == resource.RLIMIT_NOFILE
        return self.now

    def set(self, which: int, limits: tuple[int, int]) -> None:
        assert which == resource.RLIMIT_NOFILE
        if not 0 <= limits[0] <= self.accepts:
            raise ValueError("current limit exceeds maximum limit")
        self.now = limits


@pytest.mark.parametrize(
    ("limits", "after", "usable"),
    [
        pytest.param(Limits(1024, 524288), (524288, 524288), 524288, id="raised to the hard limit"),
        pytest.param(Limits(1024, _UNLIMITED), (1024**2, _UNLIMITED), 1024**2, id="no hard limit"),
        pytest.param(Limits(_UNLIMITED, _UNLIMITED), (_UNLIMITED, _UNLIMITED), 1024**2, id="no limit at all"),
        pytest.param(Limits(65536, 65536), (65536, 65536), 65536, id="as high as it may be"),
        pytest.param(Limits(1024, _UNLIMITED, accepts=10240), (1024, _UNLIMITED), 1024, id="refused by the system"),
    ],
)
def test_soft_limit_becomes_the_hard_one(
    limits: Limits, after: tuple[int, int], usable: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", limits.get)
    monkeypatch.setattr(resource, "setrlimit", limits.set)
    before = limits.now
    found = raise_descriptor_limit()
    assert limits.now == after
    assert (found.original, found.usable) == (before, usable)


@pytest.mark.parametrize(
    ("usable", "for_clients"), [(64, 32), (128, 64), (256, 192), (1024, 768), (20_000, 15_000), (1024**2, 786_432)]
)
def test_descriptors_are_kept_back_from_clients(usable: int, for_clients: int) -> None:
    limits = DescriptorLimits((usable, usable), usable)
    assert limits.for_clients == for_clients
    assert limits.for_http == 3 * limits.for_grpc == for_clients * 3 // 4


@pytest.mark.parametrize(("hard", "said"), [(1024, True), (4095, True), (4096, False)])
def test_small_limit_is_said(
    hard: int, said: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(256, hard)
    monkeypatch.setattr(resource, "getrlimit", limits.get)
    monkeypatch.setattr(resource, "setrlimit", limits.set)
    raise_descriptor_limit()
    assert (f"Only {hard} files and connections" in caplog.text) == said
