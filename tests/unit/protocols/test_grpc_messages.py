"""The messages of gRPC: there by name, and in nobody else's way."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import descriptor_pool

from torchserve_lite.errors import ConfigurationError
from torchserve_lite.protocols.grpc import messages
from torchserve_lite.protocols.grpc.messages import load_messages

REQUEST = "org.pytorch.serve.grpc.inference.PredictionsRequest"


def test_message_has_the_bytes_that_torchserves_clients_send() -> None:
    request = load_messages().named(REQUEST)(model_name="m", input={"data": b"x"}, sequence_id="s")
    assert request.SerializeToString() == b"\x0a\x01m\x1a\x09\x0a\x04data\x12\x01x\x22\x01s"


def test_message_is_unknown_to_the_pool_that_a_process_shares() -> None:
    """A handler may import kserve or tritonclient, whose messages have the same names, in a process of ours."""
    load_messages()
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName(REQUEST)


def test_class_of_a_message_is_always_the_same() -> None:
    loaded = load_messages()
    assert loaded.named(REQUEST) is loaded.named(REQUEST)


def test_missing_descriptors_are_an_error_that_says_how_to_build_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "_DESCRIPTORS", tmp_path / "services.binpb")
    with pytest.raises(ConfigurationError, match="pip install -e"):
        load_messages()
