"""Settings that cannot hold together stop the start, and the error names both."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchserve_lite.config.loading import load_config
from torchserve_lite.errors import ConfigurationError


def _load(folder: Path, text: str) -> None:
    file = folder / "c.properties"
    file.write_text(text)
    load_config(file, {}, {})


@pytest.mark.parametrize(
    ("text", "names"),
    [
        pytest.param(
            "inference_address=http://0.0.0.0:8085\nmanagement_address=http://127.0.0.1:8085",
            ("inference_address=http://0.0.0.0:8085", "management_address=http://127.0.0.1:8085"),
            id="every host and one of them",
        ),
        pytest.param(
            "management_address=http://0.0.0.0:8082",
            ("management_address=http://0.0.0.0:8082 (", "metrics_address=http://127.0.0.1:8082 (default)"),
            id="another one's default",
        ),
        pytest.param(
            "inference_address=http://localhost:1\nmetrics_address=http://127.0.0.1:1",
            ("inference_address=http://localhost:1", "metrics_address=http://127.0.0.1:1"),
            id="two names of this machine",
        ),
    ],
)
def test_two_addresses_that_want_one_port_are_an_error_naming_both(
    text: str, names: tuple[str, str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match="cannot both hold") as refusal:
        _load(tmp_path, text)
    assert all(name in str(refusal.value) for name in names)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("inference_address=http://h:1\nmanagement_address=http://h:1", id="one listener for both"),
        pytest.param("inference_address=unix:/s\nmanagement_address=unix:/s", id="one socket for both"),
        pytest.param("inference_address=http://0.0.0.0:0\nmanagement_address=http://127.0.0.1:0", id="any free port"),
        pytest.param("inference_address=http://127.0.0.2:1\nmanagement_address=http://127.0.0.1:1", id="two hosts"),
        pytest.param("inference_address=http://0.0.0.0:1\nmanagement_address=http://[::]:1", id="IPv4 and IPv6"),
        pytest.param("inference_address=http://0.0.0.0:8082\nenable_metrics_api=false", id="no metrics"),
    ],
)
def test_addresses_that_go_together_are_taken(text: str, tmp_path: Path) -> None:
    _load(tmp_path, text)
