"""What a service manager hears of the server, and the unit by which it starts one."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from torchserve_lite.cli.commands import parser_of_all
from torchserve_lite.cli.display import PlainDisplay
from torchserve_lite.config.loading import load_config
from torchserve_lite.config.settings import Config, ServiceManagerConfig
from torchserve_lite.systemd import ServiceManager, ToldProgress

UNIT = Path(__file__).parent.parent.parent / "systemd" / "torchserve-lite.service"


@pytest.fixture(params=["path", "abstract"])
def listening(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """systemd's end, and its address as NOTIFY_SOCKET names it."""
    name = f"@torchserve-lite-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(name.replace("@", "\0", 1))
        end.settimeout(30)
        yield end, name


def _manager(address: str) -> ServiceManager:
    return ServiceManager(ServiceManagerConfig(address=address))


def heard(end: socket.socket) -> dict[str, str]:
    return dict(line.split("=", 1) for line in end.recv(4096).decode().splitlines())


def test_start_is_told_in_order(listening: tuple[socket.socket, str]) -> None:
    end, address = listening
    with open(os.devnull, "w") as nowhere:
        progress = ToldProgress(PlainDisplay(Config(), nowhere), _manager(address))
        progress.loading(["a", "b"])
        assert heard(end) == {"STATUS": "Loading a, b; ready: 0"}
        progress.model_ready("a", "1.0", 1, 0.1)
        assert heard(end) == {"STATUS": "Loading b; ready: 1"}
        progress.model_failed("b", "no such file")
        progress.started(1.0)
        assert heard(end) == {"READY": "1", "STATUS": "Models ready: 1, failed: b"}
        progress.stopping()
        assert heard(end)["STOPPING"] == "1"


def test_fact_of_several_lines_is_one(listening: tuple[socket.socket, str]) -> None:
    """The name of a model must not forge what is told: READY=1 in a line of its own."""
    end, address = listening
    _manager(address).tell(STATUS="Loading m\nREADY=1")
    assert heard(end) == {"STATUS": "Loading m READY=1"}


def test_reloading_is_told_only_when_the_server_is_ready(listening: tuple[socket.socket, str]) -> None:
    end, address = listening
    manager, reloads = _manager(address), []
    reload = manager.reloading(lambda: reloads.append(1))
    reload()
    manager.ready("")
    reload()
    assert heard(end)["READY"] == "1"
    before = time.monotonic_ns() // 1000
    told = heard(end)
    assert (told["RELOADING"], int(told["MONOTONIC_USEC"]) <= before) == ("1", True)
    assert heard(end) == {"READY": "1"}
    assert len(reloads) == 2


async def test_watchdog_hears_of_the_event_loop(listening: tuple[socket.socket, str]) -> None:
    end, address = listening
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())}
    manager = ServiceManager(load_config(None, {}, environ).service_manager)
    manager.ready("")
    heard(end)
    async with manager.kept_informed():
        for _ in range(3):
            assert await asyncio.to_thread(heard, end) == {"WATCHDOG": "1"}


async def test_watchdog_of_another_process_is_left_to_it(listening: tuple[socket.socket, str]) -> None:
    end, address = listening
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"}
    manager = ServiceManager(load_config(None, {}, environ).service_manager)
    async with manager.kept_informed():
        manager.tell(STATUS="last")
    assert "WATCHDOG" not in heard(end)


def test_manager_that_does_not_listen_is_no_trouble(tmp_path: Path) -> None:
    _manager(str(tmp_path / "nobody")).ready("")
    _manager("").ready("")


def test_manager_that_does_not_read_is_not_waited_for(listening: tuple[socket.socket, str]) -> None:
    manager = _manager(listening[1])
    for _ in range(2000):  # more than a socket holds
        manager.tell(STATUS="x" * 1000)


def test_unit_starts_the_server_by_flags_that_it_knows() -> None:
    (command,) = [line for line in UNIT.read_text().splitlines() if line.startswith("ExecStart=")]
    program, *arguments = shlex.split(command.removeprefix("ExecStart="))
    assert Path(program).name == "torchserve-lite"
    parser_of_all().parse_args(arguments)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_unit_is_valid(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/torchserve-lite/bin/torchserve-lite", sys.executable))
    verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
