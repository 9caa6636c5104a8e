"""gRPC's reflection: clients such as grpcurl learn the services and their messages from the server itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import grpc
from google.protobuf.descriptor import FileDescriptor

from torchserve_lite.protocols.errors import ErrorForm
from torchserve_lite.protocols.grpc.calls import Call, Service
from torchserve_lite.protocols.grpc.messages import Messages

VERSIONS = ("grpc.reflection.v1", "grpc.reflection.v1alpha")  # the same messages under two names


class ReflectionService:
    """``services``: the names of those that are told of."""

    def __init__(self, package: str, messages: Messages, services: Sequence[str]) -> None:
        self._package = package
        self._pool = messages.pool
        self._services = services
        self._answer = messages.named(f"{package}.ServerReflectionResponse")

    @property
    def service(self) -> Service:
        return Service(
            name=f"{self._package}.ServerReflection",
            methods={"ServerReflectionInfo": self.info},
            form=ErrorForm.KSERVE,
        )

    async def info(self, requests: AsyncIterator[Any], call: Call) -> None:
        async for request in requests:
            answer = self._answer(valid_host=request.host, original_request=request)
            try:
                self._fill(answer, request)
            except KeyError:
                answer.error_response.error_code = grpc.StatusCode.NOT_FOUND.value[0]
                answer.error_response.error_message = "There is nothing of this name."
            await call.send(answer)

    def _fill(self, answer: Any, request: Any) -> None:
        asked = request.WhichOneof("message_request")
        if asked == "list_services":
            for name in self._services:
                answer.list_services_response.service.add(name=name)
        elif asked == "file_by_filename":
            _add(answer, self._pool.FindFileByName(request.file_by_filename))
        elif asked == "file_containing_symbol":
            _add(answer, self._file_of(request.file_containing_symbol))
        elif asked == "all_extension_numbers_of_type":  # there are none of any type
            name = self._pool.FindMessageTypeByName(request.all_extension_numbers_of_type).full_name
            answer.all_extension_numbers_response.base_type_name = name
        else:
            raise KeyError

    def _file_of(self, symbol: str) -> FileDescriptor:
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:  # a method, which the pool does not know by itself
            service, _, method = symbol.rpartition(".")
            return self._pool.FindServiceByName(service).methods_by_name[method].containing_service.file


def _add(answer: Any, file: FileDescriptor) -> None:
    """With all that it imports, so that one question is enough."""
    for one in _with_imports(file, set()):
        answer.file_descriptor_response.file_descriptor_proto.append(one.serialized_pb)


def _with_imports(file: FileDescriptor, seen: set[str]) -> Iterator[FileDescriptor]:
    if file.name not in seen:
        seen.add(file.name)
        yield file
        for imported in file.dependencies:
            yield from _with_imports(imported, seen)
