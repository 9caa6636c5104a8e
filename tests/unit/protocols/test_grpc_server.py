"""The gRPC listeners: who is let in, what probes and clients such as grpcurl are told, and how they stop."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2

from tests.certificates import issue
from torchserve_lite.config.settings import AccessConfig, GrpcConfig, TlsConfig
from torchserve_lite.core.jobs import Job
from torchserve_lite.core.models import ModelKey, WorkerState
from torchserve_lite.core.requests import InferenceResponse
from torchserve_lite.errors import ConfigurationError
from torchserve_lite.management.access import Access
from torchserve_lite.protocols.grpc.reflection import VERSIONS

from .grpc_front import INFERENCE, MANAGEMENT, GrpcClient, GrpcFront, serving_grpc

AUTHORITY = issue("authority", authority=True)
SERVER = issue("server", AUTHORITY)
CLIENT = issue("client", AUTHORITY)
HEALTH = "grpc.health.v1.Health"
SERVICE = f"{INFERENCE}.InferenceAPIsService"
ANYWHERE = GrpcConfig(inference_port=0, management_port=0)


@pytest.fixture
async def front() -> AsyncIterator[GrpcFront]:
    async with asyncio.timeout(60), serving_grpc() as made:
        yield made


# Tokens


class Keys:
    def __init__(self, file: Path) -> None:
        self._file = file

    def of(self, name: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {json.loads(self._file.read_text())[name]['key']}"),)


@pytest.mark.parametrize("status", [401, 400])
async def test_each_port_needs_its_key(tmp_path: Path, status: int) -> None:
    access = Access(AccessConfig(token_failure_status=status), tmp_path / "key_file.json")
    async with serving_grpc(access=access) as front, access.keys_in_file():
        keys = Keys(tmp_path / "key_file.json")
        assert await code_of(front.infer("Predictions", model_name="tiny", metadata=keys.of("management"))) == status
        assert await code_of(front.manage("ListModels", metadata=keys.of("inference"))) == status
        assert await code_of(front.manage("ListModels")) == status
        assert await code_of(front.infer("Ping")) == 0
        assert await code_of(front.infer("Predictions", model_name="nope", metadata=keys.of("inference"))) == 404
        assert await code_of(front.manage("ListModels", metadata=keys.of("management"))) == 0


async def code_of(call: Any) -> int:
    """0, or the status that HTTP has for the code."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return {"UNAUTHENTICATED": 401, "PERMISSION_DENIED": 400, "NOT_FOUND": 404}[error.code().name]
    return 0


async def test_management_key_opens_both_services_on_one_port(tmp_path: Path) -> None:
    access = Access(AccessConfig(), tmp_path / "key_file.json")
    port = free_port()
    config = GrpcConfig(inference_port=port, management_port=port)
    async with serving_grpc(access=access, config=config) as front, access.keys_in_file():
        keys = Keys(tmp_path / "key_file.json")
        for name, status in (("management", 0), ("inference", 401)):
            assert await code_of(front.manage("ListModels", metadata=keys.of(name))) == status
            call = front.infer("Predictions", model_name="tiny", input={"data": b"7"}, metadata=keys.of(name))
            assert await code_of(call) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# Sockets and TLS


async def test_port_that_is_taken_stops_the_start_and_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"grpc_management_port={port} of grpc_management_address="):
            async with serving_grpc(config=GrpcConfig(inference_port=0, management_port=port)):
                pass


async def test_two_servers_do_not_share_a_port(front: GrpcFront) -> None:
    """gRPC would let them, and each would get some of the calls."""
    port = int(front.front.addresses["inference"].rpartition(":")[2])
    with pytest.raises(ConfigurationError, match=f"grpc_inference_port={port}"):
        async with serving_grpc(config=GrpcConfig(inference_port=port, management_port=0)):
            pass


def tls_files(folder: Path, *, ask_clients: bool = False) -> TlsConfig:
    key, chain = SERVER.write(folder)
    authorities = folder / "clients.pem"
    authorities.write_bytes(AUTHORITY.pem)
    return TlsConfig(private_key=key, certificate=chain, client_ca=authorities if ask_clients else None)


@pytest.mark.parametrize("ask_clients", [False, True])
async def test_calls_are_encrypted_with_the_certificate_of_https(tmp_path: Path, ask_clients: bool) -> None:
    config = GrpcConfig(inference_port=0, management_port=0, tls=True)
    async with serving_grpc(config=config, tls=tls_files(tmp_path, ask_clients=ask_clients)) as front:
        assert front.front.addresses["inference"].startswith("grpcs://")
        own = (CLIENT.key_pem(), CLIENT.pem) if ask_clients else ()
        front.inference = front.client("inference", grpc.ssl_channel_credentials(AUTHORITY.pem, *own))
        assert (await front.infer("Predictions", model_name="tiny", input={"data": b"7"})).prediction == b"7"
        front.management = front.client("management")
        with pytest.raises(grpc.aio.AioRpcError):
            await front.manage("ListModels")


async def test_client_without_the_certificate_that_is_asked_for_is_not_let_in(tmp_path: Path) -> None:
    config = GrpcConfig(inference_port=0, management_port=0, tls=True)
    async with serving_grpc(config=config, tls=tls_files(tmp_path, ask_clients=True)) as front:
        front.inference = front.client("inference", grpc.ssl_channel_credentials(AUTHORITY.pem))
        with pytest.raises(grpc.aio.AioRpcError):
            await front.infer("Ping")


# Health and reflection


async def check(front: GrpcFront, service: str = "") -> int:
    request = front.inference.message(HEALTH, "Check", service=service)
    status: int = (await front.inference.call(HEALTH, "Check")(request)).status
    return status


SERVING, NOT_SERVING = 1, 2


@pytest.mark.parametrize("service", ["", SERVICE])
async def test_server_is_serving_when_ping_says_that_it_is_healthy(front: GrpcFront, service: str) -> None:
    assert await check(front, service) == SERVING
    front.engine.states[ModelKey("tiny", "1.0")] = WorkerState.FAILED
    assert await check(front, service) == NOT_SERVING


async def test_health_of_an_unknown_service_is_not_found(front: GrpcFront) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await check(front, "nope")
    assert failed.value.code() is grpc.StatusCode.NOT_FOUND


async def test_whoever_watches_is_told_of_the_stop_and_keeps_nobody_waiting() -> None:
    async with asyncio.timeout(60), serving_grpc() as front:
        watch = front.inference.call(HEALTH, "Watch")(front.inference.message(HEALTH, "Watch"))
        assert (await watch.read()).status == SERVING
        front.shutdown.begin()
        assert (await watch.read()).status == NOT_SERVING
        assert await watch.read() is grpc.aio.EOF


async def reflected(front: GrpcFront, package: str, **question: Any) -> Any:
    service = f"{package}.ServerReflection"
    stream = front.inference.call(service, "ServerReflectionInfo")()
    await stream.write(front.inference.message(service, "ServerReflectionInfo", **question))
    answer = await stream.read()
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    return answer


@pytest.mark.parametrize("package", VERSIONS)
async def test_reflection_names_the_services_and_gives_their_files(front: GrpcFront, package: str) -> None:
    listed = (await reflected(front, package, list_services="")).list_services_response.service
    assert {SERVICE, HEALTH, *(f"{version}.ServerReflection" for version in VERSIONS)} <= {one.name for one in listed}
    found = await reflected(front, package, file_containing_symbol=f"{SERVICE}.Predictions")
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(file)
        for file in found.file_descriptor_response.file_descriptor_proto
    ]
    assert files[0].name == "inference.proto"
    assert {"google/rpc/status.proto", "google/protobuf/empty.proto"} < {file.name for file in files}


@pytest.mark.parametrize(
    "question",
    [{"file_containing_symbol": "no.Such"}, {"file_by_filename": "no.proto"}, {"all_extension_numbers_of_type": "no"}],
)
async def test_reflection_of_what_is_not_there_is_an_error_of_its_own(front: GrpcFront, question: Any) -> None:
    answer = await reflected(front, VERSIONS[0], **question)
    assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


async def test_management_has_a_port_of_its_own(front: GrpcFront) -> None:
    front.management = front.inference
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await front.manage("ListModels")
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert MANAGEMENT not in str(front.front.addresses)


# The stop


async def test_calls_are_answered_while_one_that_had_begun_before_the_stop_runs() -> None:
    async with asyncio.timeout(60), serving_grpc() as front:
        came = asyncio.Event()
        front.engine.answer = lambda job: came.set()
        calling = asyncio.create_task(front.infer("Predictions", model_name="tiny"))
        await came.wait()
        watch = front.management.call(HEALTH, "Watch")(front.inference.message(HEALTH, "Watch"))
        assert [status async for status in stopping(front, watch)] == [SERVING, NOT_SERVING]
        assert "shutting down" in (await front.infer("Ping")).health
        front.engine.jobs[0].succeed(InferenceResponse(b"7"))
        assert (await calling).prediction == b"7"


async def test_every_call_is_answered_or_unavailable_when_the_server_stops_under_load() -> None:
    """gRPC tells CANCELLED to calls that come in while it is stopped, and no client tries those again."""
    codes: Counter[grpc.StatusCode] = Counter()

    async def call_until_it_fails(front: GrpcFront, client: GrpcClient, answered: asyncio.Event) -> None:
        request = client.message(SERVICE, "Predictions", model_name="tiny", input={"data": b"7"})
        try:
            while True:
                assert (await client.call(SERVICE, "Predictions")(request)).prediction == b"7"
                if len(front.engine.jobs) >= 100:
                    answered.set()
        except grpc.aio.AioRpcError as ended:
            codes[ended.code()] += 1

    for _ in range(3):
        async with asyncio.timeout(60), serving_grpc() as front, asyncio.TaskGroup() as callers:
            answered = asyncio.Event()
            front.engine.answer = answer_soon
            clients = [front.client("inference") for _ in range(4)]
            for client in clients * 4:
                callers.create_task(call_until_it_fails(front, client, answered))
            await answered.wait()
            front.shutdown.begin()
        await asyncio.gather(*(client.channel.close() for client in clients))
    assert codes == {grpc.StatusCode.UNAVAILABLE: 3 * 16}


def answer_soon(job: Job) -> None:
    asyncio.get_running_loop().call_soon(job.succeed, InferenceResponse(b"7"))


async def test_no_call_is_answered_after_the_stop() -> None:
    async with asyncio.timeout(60), serving_grpc() as front:
        pass
    front.inference = front.client("inference")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await front.infer("Ping")
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    await front.inference.channel.close()


async def stopping(front: GrpcFront, watch: Any) -> AsyncIterator[int]:
    """What a watch is told from its beginning to the end that the stop makes."""
    async for answer in watch:
        front.shutdown.begin()
        yield answer.status


async def test_call_that_takes_longer_than_the_stop_may_is_abandoned() -> None:
    async with asyncio.timeout(60), serving_grpc(grace=0.2) as front:
        came = asyncio.Event()
        front.engine.answer = lambda job: came.set()
        calling = asyncio.create_task(front.infer("Predictions", model_name="tiny"))
        await came.wait()
        front.shutdown.begin()
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await calling
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        (job,) = front.engine.jobs
        with pytest.raises(asyncio.CancelledError):
            await asyncio.shield(job.answer)


async def test_stream_that_a_client_holds_open_ends_when_the_server_stops() -> None:
    async with asyncio.timeout(60), serving_grpc(grace=3600) as front:
        stream = front.inference.call(SERVICE, "StreamPredictions2")()
        request = front.inference.message(
            SERVICE, "StreamPredictions2", model_name="tiny", input={"data": b"7"}, sequence_id="s"
        )
        await stream.write(request)
        assert (await stream.read()).prediction == b"7"
        front.shutdown.begin()
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await stream.read()
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "shutting down" in (ended.value.details() or "")
