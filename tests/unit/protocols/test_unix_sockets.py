"""Listeners on Unix sockets: whose file it is, who may connect, and that it goes with its listener."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path

import pytest

from torchserve_lite.config.settings import Address
from torchserve_lite.errors import ConfigurationError
from torchserve_lite.protocols.http.unix_sockets import bind_unix_socket

from .conftest import listening

POST = b"POST /predictions/tiny HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n7"


def at(path: Path) -> Address:
    return Address(host="", path=str(path))


async def ask(path: Path) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(POST)
    head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return head


@pytest.mark.parametrize("mode", [0o600, 0o660])
async def test_socket_has_the_configured_permissions_whatever_the_umask(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "s"
    before = os.umask(0o077 if mode == 0o660 else 0)
    try:
        async with listening(inference=at(path), unix_socket_mode=mode):
            assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        os.umask(before)


async def test_all_roles_may_share_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with listening(inference=at(path), management=at(path), metrics=at(path)) as front:
        assert set(front.http.addresses.values()) == {f"unix:{path}"}
        assert (await ask(path)).startswith(b"HTTP/1.1 200")
        front.access_log.flush()
        assert ' - 127.0.0.1 "POST /predictions/tiny HTTP/1.1" 200 ' in front.log[-1]


async def test_file_of_a_killed_server_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
        killed.listen()
    async with listening(inference=at(path)):
        assert (await ask(path)).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("waiting", [0, 50], ids=["idle", "with a full backlog"])
async def test_living_servers_socket_is_left_alone(tmp_path: Path, waiting: int) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(path))
        living.listen(1)
        clients = [socket.socket(socket.AF_UNIX) for _ in range(waiting)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(str(path))
        with pytest.raises(ConfigurationError, match=r"inference_address=unix:.*/s .*another server listens"):
            async with listening(inference=at(path)):
                pass
        for client in clients:
            client.close()
        inode = path.stat().st_ino
    assert path.stat().st_ino == inode


async def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "folder").mkdir()
    for name in ("file", "link", "folder"):
        with pytest.raises(ConfigurationError, match="no socket"):
            async with listening(inference=at(tmp_path / name)):
                pass
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder", "link"]


async def test_folder_that_is_missing_is_an_error_that_names_the_address(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"inference_address=unix:.*/none/s cannot be used: No such file"):
        async with listening(inference=at(tmp_path / "none" / "s")):
            pass


async def test_file_goes_with_its_listener(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with listening(inference=at(path)):
        assert path.is_socket()
    assert not path.exists()


async def test_file_of_a_server_that_came_after_us_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with listening(inference=at(path)):
        path.unlink()
        successor, _ = bind_unix_socket(str(path), 0o600)
    assert path.is_socket()
    successor.close()


async def test_client_that_has_connected_before_the_stop_is_served(tmp_path: Path) -> None:
    """Nobody has accepted it yet when the stop begins."""
    path = tmp_path / "s"

    with socket.socket(socket.AF_UNIX) as client:
        async with listening(inference=at(path), shutdown_linger=0.1):
            client.connect(str(path))  # without a turn of the loop
            client.sendall(POST)
        client.setblocking(False)
        assert client.recv(12) == b"HTTP/1.1 200"
