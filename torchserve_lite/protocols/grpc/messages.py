"""The messages of all gRPC services, made from the descriptors that the build leaves beside this module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message

from torchserve_lite.errors import ConfigurationError

_DESCRIPTORS = Path(__file__).parent / "generated" / "services.binpb"


class Messages:
    """Message classes and services by their full names, in a pool of descriptors of its own.

    Generated ``_pb2`` modules would register in the pool that a whole process shares, where each name exists once:
    kserve, tritonclient and mlserver each bring a package ``inference`` of their own, and importing one of them beside
    ours would fail.
    """

    def __init__(self, descriptors: bytes) -> None:
        self.pool = DescriptorPool()
        for file in descriptor_pb2.FileDescriptorSet.FromString(descriptors).file:
            self.pool.Add(file)
        self._classes: dict[str, type[Message]] = {}

    def named(self, full_name: str) -> Any:
        """The class of a message, of which the same one is given each time. Any, since its fields exist at run time
        only: mypy would refuse each of them."""
        if full_name not in self._classes:
            descriptor = self.pool.FindMessageTypeByName(full_name)
            self._classes[full_name] = message_factory.GetMessageClass(descriptor)
        return self._classes[full_name]


def load_messages() -> Messages:
    try:
        return Messages(_DESCRIPTORS.read_bytes())
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"{_DESCRIPTORS} is missing, which the build makes from protos/*.proto. In a checkout, run "
            "`pip install -e .` (or `make setup`) once more."
        ) from error
