"""Connections to the gRPC listeners: how many, how old, how idle, and those whose clients are no longer there."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from tests.certificates import Certified, issue
from tests.conftest import Holder
from torchserve_lite.config.settings import GrpcConfig, TlsConfig
from torchserve_lite.core.jobs import Job
from torchserve_lite.core.requests import InferenceResponse

from .grpc_front import INFERENCE, GrpcClient, GrpcFront, serving_grpc

SERVICE = f"{INFERENCE}.InferenceAPIsService"
READY = grpc.ChannelConnectivity.READY
PATIENCE = 60.0  # seconds after which a test has failed
SOON = 0.2  # seconds, for what takes minutes otherwise


async def ping(client: GrpcClient) -> str:
    """OK, or the code of the failure."""
    try:
        await client.call(SERVICE, "Ping")(client.message(SERVICE, "Ping"))
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


@asynccontextmanager
async def clients(front: GrpcFront, number: int, role: str = "inference") -> AsyncIterator[list[GrpcClient]]:
    """Each with a connection of its own."""
    made = [front.client(role) for _ in range(number)]
    try:
        yield made
    finally:
        await asyncio.gather(*(client.channel.close() for client in made))


# How many


async def test_clients_beyond_the_limit_are_turned_away_until_others_leave() -> None:
    async with asyncio.timeout(PATIENCE), serving_grpc(most_clients=8) as front:
        async with clients(front, 8) as many:
            codes = [await ping(client) for client in many]
            assert codes == ["OK"] * 6 + ["UNAVAILABLE"] * 2
            assert "model-0" in await front.manage("ListModels")  # has places of its own
        async with clients(front, 6) as others:
            assert [await until_let_in(client) for client in others] == ["OK"] * 6


async def until_let_in(client: GrpcClient) -> str:
    """When those before it have left, which no event tells."""
    while (code := await ping(client)) == "UNAVAILABLE":
        await client.channel.wait_for_state_change(client.channel.get_state())
    return code


async def test_those_who_connect_and_say_nothing_lose_their_places() -> None:
    async with asyncio.timeout(PATIENCE), serving_grpc(most_clients=8, handshake=SOON) as front:
        host, port = front.front.addresses["inference"].removeprefix("grpc://").split(":")
        silent = [socket.create_connection((host, int(port))) for _ in range(6)]
        for one in silent:
            with one:
                one.settimeout(PATIENCE)
                while await asyncio.to_thread(one.recv, 1000):
                    pass
        async with clients(front, 6) as others:
            assert [await until_let_in(client) for client in others] == ["OK"] * 6


# How old, how idle


@pytest.mark.parametrize("what", ["age", "idle"])
async def test_connection_that_is_too_old_or_idle_is_ended_and_no_call_notices(what: str) -> None:
    config = GrpcConfig(inference_port=0, management_port=0, inference_max_age=SOON if what == "age" else None)
    idle = SOON if what == "idle" else 300.0
    async with asyncio.timeout(PATIENCE), serving_grpc(config=config, idle=idle) as front:
        for _ in range(3):
            assert await ping(front.inference) == "OK"
            await front.inference.channel.wait_for_state_change(READY)
        front.http.access_log.flush()
        assert len({line.partition(" - ")[2].split()[0] for line in front.http.log}) == 3  # a port each


async def test_call_outlasts_its_connections_age() -> None:
    config = GrpcConfig(inference_port=0, management_port=0, inference_max_age=SOON)
    async with asyncio.timeout(PATIENCE), serving_grpc(config=config) as front:
        front.engine.answer = lambda job: None
        calling = asyncio.create_task(front.infer("Predictions", model_name="tiny"))
        while front.inference.channel.get_state() is not READY:
            await front.inference.channel.wait_for_state_change(front.inference.channel.get_state())
        await front.inference.channel.wait_for_state_change(READY)
        front.engine.jobs[0].succeed(InferenceResponse(b"7"))
        assert (await calling).prediction == b"7"


async def test_call_that_takes_longer_than_the_age_and_its_grace_is_ended() -> None:
    grace = GrpcConfig(inference_port=0, management_port=0, inference_max_age=SOON, inference_max_age_grace=SOON)
    async with asyncio.timeout(PATIENCE), serving_grpc(config=grace) as front:
        gone = asyncio.Event()
        front.engine.answer = held(asyncio.Event(), gone)
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await front.infer("Predictions", model_name="tiny")
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        await gone.wait()


def held(came: asyncio.Event, gone: asyncio.Event) -> Callable[[Job], None]:
    """Somebody who takes jobs, does not answer them, and hears when they are not wanted any more."""

    def take(job: Job) -> None:
        job.holder = Holder(lambda unwanted: gone.set())
        came.set()

    return take


# Whether somebody is there


class Router:
    """Stands before the server, as one that translates addresses does, and forgets its connections without a word."""

    def __init__(self, target: str) -> None:
        self._host, _, self._port = target.removeprefix("grpc://").partition(":")
        self._forgotten = False

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        async with server:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    def forget(self) -> None:
        self._forgotten = True

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        their_reader, their_writer = await asyncio.open_connection(self._host, self._port)
        await asyncio.gather(self._carry(reader, their_writer), self._carry(their_reader, writer))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if not self._forgotten:
                writer.write(data)
        writer.close()


async def test_job_is_abandoned_when_its_client_does_not_answer_any_more() -> None:
    async with asyncio.timeout(PATIENCE), serving_grpc(keep_alive=SOON, patience=SOON) as front:
        came, gone = asyncio.Event(), asyncio.Event()
        front.engine.answer = held(came, gone)
        router = Router(front.front.addresses["inference"])
        async with router.listening() as address:
            client = GrpcClient(front.messages, grpc.aio.insecure_channel(address))
            calling = client.call(SERVICE, "Predictions")(client.message(SERVICE, "Predictions", model_name="tiny"))
            await came.wait()
            router.forget()
            await gone.wait()
            calling.cancel()
            await client.channel.close()


async def test_call_outlasts_any_silence_while_its_client_is_there() -> None:
    async with asyncio.timeout(PATIENCE), serving_grpc(keep_alive=0.05, patience=5.0, idle=SOON) as front:
        front.engine.answer = answer_later
        assert (await front.infer("Predictions", model_name="tiny")).prediction == b"7"


def answer_later(job: Job) -> None:
    asyncio.get_running_loop().call_later(1.0, job.succeed, InferenceResponse(b"7"))


# Certificates that are replaced

OLD, NEW = (issue(name, authority=True) for name in ("old", "new"))


def write_files(folder: Path, authority: Certified, *, ask_clients: bool) -> TlsConfig:
    key, chain = issue("server", authority).write(folder)
    clients_of = folder / "clients.pem"
    clients_of.write_bytes(authority.pem)
    return TlsConfig(private_key=key, certificate=chain, client_ca=clients_of if ask_clients else None)


@pytest.mark.parametrize("ask_clients", [False, True])
async def test_replaced_certificates_hold_from_the_next_handshake_on(tmp_path: Path, ask_clients: bool) -> None:
    config = GrpcConfig(inference_port=0, management_port=0, tls=True)
    tls = write_files(tmp_path, OLD, ask_clients=ask_clients)
    credentials = {}
    for name, authority in (("old", OLD), ("new", NEW)):
        own = issue("client", authority)
        shown = (own.key_pem(), own.pem) if ask_clients else ()
        credentials[name] = grpc.ssl_channel_credentials(authority.pem, *shown)
    async with asyncio.timeout(PATIENCE), serving_grpc(config=config, tls=tls) as front:
        before, *after = (front.client("inference", credentials[name]) for name in ("old", "old", "new"))
        assert await ping(before) == "OK"
        write_files(tmp_path, NEW, ask_clients=ask_clients)
        await front.certificates.refresh()
        assert [await ping(client) for client in (before, *after)] == ["OK", "UNAVAILABLE", "OK"]
        await asyncio.gather(*(client.channel.close() for client in (before, *after)))
