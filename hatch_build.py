"""Builds what the gRPC services are made from: ``protos/`` as one set of descriptors, for wheels and for checkouts.

A set of descriptors rather than Python modules: it works with any version of protobuf that the server runs with, and
what is made from it stays out of the pool that every ``_pb2`` module of the process shares.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

OUTPUT = Path("torchserve_lite/protocols/grpc/generated/services.binpb")


class DescriptorsHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        build_descriptors(Path(self.root))
        build_data["artifacts"].append(f"/{OUTPUT}")


def build_descriptors(root: Path) -> None:
    import grpc_tools
    from grpc_tools import protoc

    protos = root / "protos"
    output = root / OUTPUT
    output.parent.mkdir(exist_ok=True)
    fresh = output.with_suffix(f".{os.getpid()}")  # a server that starts meanwhile reads the old ones, whole
    arguments = [
        "protoc",
        f"--proto_path={protos}",
        f"--proto_path={Path(grpc_tools.__file__).parent / '_proto'}",  # google/protobuf/*.proto
        "--include_imports",
        f"--descriptor_set_out={fresh}",
        *sorted(str(file.relative_to(protos)) for file in protos.rglob("*.proto")),
    ]
    if protoc.main(arguments) != 0:
        raise RuntimeError(f"protoc cannot compile the files in {protos}; its messages above say why.")
    fresh.replace(output)
