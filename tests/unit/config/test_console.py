"""Where the web console is served, and what is said where it is not."""

from __future__ import annotations

import pytest

from torchserve_lite.config.console import why_closed
from torchserve_lite.config.settings import Address, HttpConfig

_LOCAL, _ANYWHERE = Address(port=8081), Address("0.0.0.0", 8081)


@pytest.mark.parametrize(
    ("console", "address", "tokens", "is_open"),
    [
        pytest.param("auto", _LOCAL, False, True, id="this machine alone"),
        pytest.param("auto", Address(path="/run/x"), False, True, id="unix socket"),
        pytest.param("auto", _ANYWHERE, True, True, id="others, with tokens"),
        pytest.param("auto", _ANYWHERE, False, False, id="others, without tokens"),
        pytest.param("on", _ANYWHERE, False, True, id="others, on"),
        pytest.param("off", _LOCAL, True, False, id="off"),
    ],
)
def test_console_is_open_where_it_is_safe(console: str, address: Address, tokens: bool, is_open: bool) -> None:
    why = why_closed(HttpConfig(console=console, management=address), tokens=tokens)
    assert (why == "") == is_open
    if not is_open:
        assert "console=" in why  # what to set
