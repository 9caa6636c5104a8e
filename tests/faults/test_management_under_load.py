"""Random management calls from many clients at once, while others send requests: no request fails, what the API tells
is what there is, and nothing is left behind.

``MANAGEMENT_SECONDS=60 MANAGEMENT_SEED=7`` does it for so long, and makes other calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tests.e2e.server import PATIENCE, Server, running, until, write_archive
from tests.faults.wire import Client

HANDLER = """
import json, time

def handle(data, context):
    if data is None:
        return None
    time.sleep(0.002)
    folder = context.system_properties["model_dir"]
    return [json.dumps({{"url": "{url}", "version": "{version}", "folder": folder}})] * len(data)
"""
BROKEN = "raise ValueError('this one never loads')\n"
CONFIG = "minWorkers: 1\nmaxWorkers: 2\nbatchSize: 4\nmaxBatchDelay: 1\nmaxRetryTimeoutInSec: 5\n"

KEPT, FREE, LOST = "kept", "free", "lost"  # there is always a version of the first; the last never loads
ANCHOR = "1.0"  # this version of the first is never unregistered, and never updated to another one
VERSIONS = {KEPT: (ANCHOR, "2.0", "3.0", "4.0"), FREE: ("1.0", "2.0"), LOST: ("1.0",)}
REVISIONS = {"a": {"sample_request.txt": b"x"}, "b": {}}

MANAGERS = 8
PIPELINED = (1, 1, 1, 1, 1, 4, 4)  # a client each: how many requests it sends in one piece
SECONDS = float(os.environ.get("MANAGEMENT_SECONDS", "8"))
SEED = int(os.environ.get("MANAGEMENT_SEED", "1"))
BETWEEN_QUIET_POINTS = 4.0  # seconds
LEAVING = 0.1  # share of the calls whose client does not wait for the answer
MOST_TOLD = 20


def archive(model: str, version: str, revision: str) -> str:
    return f"{model}-{version}-{revision}.mar"


def write_archives(store: Path) -> None:
    store.mkdir()
    for model, versions in VERSIONS.items():
        for version in versions:
            for revision, files in REVISIONS.items():
                url = archive(model, version, revision)
                code = BROKEN if model == LOST else HANDLER.format(url=url, version=version)
                write_archive(store, url, model, version, code, config=CONFIG, files=files)
            write_archive(store, archive(model, version, "broken"), model, version, BROKEN, config=CONFIG)


@dataclass(frozen=True)
class Call:
    """``allowed``: the statuses that it may be answered by. ``brings``: versions that may be there after it."""

    kind: str
    method: str
    path: str
    model: str
    version: str
    allowed: Collection[int]
    brings: Collection[str] = ()


def random_call(choices: random.Random) -> Call:
    model = choices.choices(tuple(VERSIONS), (8, 4, 1))[0]
    version = choices.choice(VERSIONS[model])
    is_anchor = (model, version) == (KEPT, ANCHOR)
    path = f"/models/{model}/{version}"
    broken = model == KEPT and choices.random() < 0.15
    # A broken version that nobody waits for stays registered, and may become the default: that fails requests rightly.
    synchronous = broken or choices.random() < 0.7
    when = f"synchronous={str(synchronous).lower()}"
    failing = {500} if broken or model == LOST else set()
    revision = "broken" if broken else choices.choice(tuple(REVISIONS))
    kinds = ["register", "update", "update", "rollback", "scale", "default"]
    kind = choices.choice(kinds if is_anchor else [*kinds, "register", "unregister"])
    if kind == "register":
        target = f"/models?url={archive(model, version, revision)}&initial_workers=1&max_workers=2&{when}"
        return Call(kind, "POST", target, model, version, {200, 202, 409} | failing, {version})
    if kind == "update":
        others = [one for one in VERSIONS[model] if (model, one) != (KEPT, ANCHOR)]
        other = choices.choice(others) if not is_anchor and choices.random() < 0.3 else version
        target = f"{path}?url={archive(model, other, revision)}&{when}"
        return Call(kind, "PUT", target, model, version, {200, 202, 404, 409} | failing, {other})
    if kind == "rollback":
        brings = {version} if is_anchor else VERSIONS[model]
        return Call(kind, "POST", f"{path}/rollback", model, version, {200, 404, 409} | failing, brings)
    if kind == "scale":
        low = choices.randint(0 if model == FREE else 1, 2)
        target = f"{path}?min_worker={low}&max_worker={max(1, low) + choices.randint(0, 1)}&{when}"
        return Call(kind, "PUT", target, model, version, {200, 202, 404, 409} | failing)
    if kind == "default":
        return Call(kind, "PUT", f"{path}/set-default", model, version, {200, 404})
    return Call(kind, "DELETE", path, model, version, {200, 403, 404})


class Registered:
    """Which versions of the kept model cannot be there, as far as its clients know."""

    def __init__(self) -> None:
        self._coming: Counter[str] = Counter()  # calls that may still bring it
        self._gone: dict[str, int] = {}  # since the removal of this number
        self._removals = itertools.count(1)

    def begun(self, call: Call) -> None:
        for version in call.brings if call.model == KEPT else ():
            self._coming[version] += 1
            self._gone.pop(version, None)

    def ended(self, call: Call, status: int) -> None:
        if call.model != KEPT or status == 202:
            return
        for version in call.brings:
            self._coming[version] -= 1
        if call.kind == "unregister" and status == 200 and not self._coming[call.version]:
            self._gone[call.version] = next(self._removals)

    def settled(self, there: Collection[str]) -> None:
        """No call is under way."""
        self._coming.clear()
        self._gone = {version: next(self._removals) for version in VERSIONS[KEPT] if version not in there}

    @property
    def gone(self) -> Mapping[str, int]:
        return dict(self._gone)


class Clients:
    """Those that make the calls, and those that send requests to the default version of the kept model."""

    def __init__(self, server: Server, session: aiohttp.ClientSession) -> None:
        self._url = server.url
        self._session = session
        self._registered = Registered()
        self._random = [random.Random(f"{SEED} {number}") for number in range(MANAGERS)]
        self.calls: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.stopping = False

    async def ask(self, method: str, path: str) -> tuple[int, Any]:
        async with self._session.request(method, self._url + path) as response:
            return response.status, json.loads(await response.read())

    async def manage(self, seconds: float) -> None:
        end = asyncio.get_running_loop().time() + seconds
        async with asyncio.TaskGroup() as managers:
            for choices in self._random:
                managers.create_task(self._manage_until(end, choices))

    async def _manage_until(self, end: float, choices: random.Random) -> None:
        while asyncio.get_running_loop().time() < end and len(self.wrong) < MOST_TOLD:
            call = random_call(choices)
            leaves_after = choices.random() * 0.2 if choices.random() < LEAVING else None
            self._registered.begun(call)
            try:
                async with asyncio.timeout(leaves_after or PATIENCE):
                    status, body = await self.ask(call.method, call.path)
            except TimeoutError:  # what it asked for may still come
                self.calls[f"{call.kind}: client left"] += 1
                if leaves_after is None:
                    self.wrong.append(f"{call.method} {call.path}: no answer")
                continue
            except aiohttp.ClientConnectionError as error:
                if not self.stopping:
                    self.wrong.append(f"{call.method} {call.path}: {error!r}")
                return
            self.calls[f"{call.kind}: {status}"] += 1
            self._registered.ended(call, status)
            if status not in call.allowed and not (self.stopping and status == 503):
                self.wrong.append(f"{call.method} {call.path}: {status} {body}")

    def settled(self, there: Collection[str]) -> None:
        self._registered.settled(there)

    async def send(self, pipelined: int) -> None:
        client = await Client.connect(self._url)
        while not self.stopping:
            gone = self._registered.gone
            client.post(f"/predictions/{KEPT}", b"x", times=pipelined)
            for _ in range(pipelined):
                answer = await client.answer()
                self._check(f"pipelined by {pipelined}", answer.status, answer.body, gone)
        await client.close()

    async def send_forms(self) -> None:
        """Which do not go the fast path."""
        while not self.stopping:
            gone = self._registered.gone
            form = aiohttp.FormData({"data": "x", "more": "y"})
            async with self._session.post(f"{self._url}/predictions/{KEPT}", data=form) as response:
                self._check("forms", response.status, await response.read(), gone)

    def _check(self, which: str, status: int, body: bytes, gone: Mapping[str, int]) -> None:
        """``gone``: the versions that were when it was sent."""
        self.requests[f"{which}: {status}"] += 1
        if status != 200:
            self.wrong.append(f"{which}: {status} {body!r}")
            return
        version = json.loads(body)["version"]
        if version in gone and gone[version] == self._registered.gone.get(version):
            self.wrong.append(f"{which}: answered by version {version}, which had been unregistered")


class Views:
    """What the API tells, and what there is: they must be equal when nothing is under way."""

    def __init__(self, server: Server, clients: Clients, temporary: Path) -> None:
        self._server = server
        self.clients = clients
        self._temporary = temporary
        self._launching = {process.pid for process in server.family()}  # there are no workers yet

    async def versions(self) -> dict[tuple[str, str], dict[str, Any]]:
        found = {}
        for model in VERSIONS:
            status, versions = await self.clients.ask("GET", f"/models/{model}/all")
            if status == 200:
                found.update({(model, one["modelVersion"]): one for one in versions})
        return found

    async def differences(self) -> list[str]:
        versions = await self.versions()
        told = sorted(worker["pid"] for one in versions.values() for worker in one["workers"] if worker["pid"] != -1)
        processes = sorted({process.pid for process in self._server.family()} - self._launching)
        found = [] if told == processes else [f"workers {told} by the API, and processes {processes}"]
        served = set()
        for (model, version), one in versions.items():
            ready = [worker for worker in one["workers"] if worker["status"] == "READY"]
            if model == LOST:
                found += [f"{model} {version} is ready"] if ready else []
                continue
            if not one["minWorkers"] <= len(ready) == len(one["workers"]) <= one["maxWorkers"]:
                found.append(f"{model} {version} has workers {one['workers']}: {one['minWorkers']}-{one['maxWorkers']}")
            elif ready:
                status, answer = await self.clients.ask("GET", f"/predictions/{model}/{version}?data=x")
                if status != 200 or answer["url"] != one["modelUrl"]:
                    found.append(f"{one['modelUrl']} answers {status} {answer}")
                else:
                    served.add(answer["folder"])
        unpacked = {str(path) for path in self._temporary.glob("torchserve-lite-models-*/models/*")}
        if not served <= unpacked or len(unpacked) > 2 * len(versions):  # each may be rolled back once
            found.append(f"{sorted(versions)} have the folders {sorted(unpacked)}; in use are {sorted(served)}")
        return found

    async def become_equal(self) -> list[str]:
        """Returns how they differ when they do not. Calls that nobody waits for, and autoscaling, take a while."""
        end = asyncio.get_running_loop().time() + PATIENCE
        while found := await self.differences():
            if asyncio.get_running_loop().time() > end:
                return found
            await asyncio.sleep(0.05)
        return []

    async def leave_one_worker(self) -> None:
        """Unregisters all but the anchor."""
        ask = self.clients.ask
        assert (await ask("PUT", f"/models/{KEPT}/{ANCHOR}/set-default"))[0] == 200
        while others := [one for one in await self.versions() if one != (KEPT, ANCHOR)]:
            for model, version in others:  # the default version of several goes after these
                assert (await ask("DELETE", f"/models/{model}/{version}"))[0] in (200, 403)
        path = f"/models/{KEPT}/{ANCHOR}?min_worker=1&max_worker=1&synchronous=true"
        assert (await ask("PUT", path))[0] == 200
        assert await self.become_equal() == []


@pytest.mark.parametrize("launcher", ["forked", "exec"])
async def test_random_management_under_load_loses_no_request_and_leaves_nothing(launcher: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    write_archives(store)
    settings = {"load_models": "", "enable_model_api": "true", "worker_launcher": launcher}
    async with running(tmp_path, store, settings) as server:
        async with session() as own:
            clients = Clients(server, own)
            views = Views(server, clients, tmp_path / "tmp")
            url = archive(KEPT, ANCHOR, "a")
            assert (await clients.ask("POST", f"/models?url={url}&initial_workers=1"))[0] == 200
            await views.leave_one_worker()
        before = len(descriptors(server))
        async with session() as own:
            clients = Clients(server, own)
            views.clients = clients
            await manage_under_load(clients, views)
            print(f"MANAGEMENT_SEED={SEED}: {dict(sorted(clients.calls.items()))}, {dict(clients.requests)}")
            assert not clients.wrong, f"MANAGEMENT_SEED={SEED}:\n" + "\n".join(clients.wrong[:MOST_TOLD])
            await views.leave_one_worker()
        await until(lambda: len(descriptors(server)) <= before)
        async with session() as own, asyncio.TaskGroup() as tasks:
            clients = Clients(server, own)
            tasks.create_task(clients.manage(PATIENCE))
            await until(lambda: sum(clients.calls.values()) > MANAGERS * 5)
            clients.stopping = True
            assert await server.stop() == 0
        assert not clients.wrong, f"while the server stops, MANAGEMENT_SEED={SEED}:\n" + "\n".join(clients.wrong)
    await until(lambda: not of_the_server(tmp_path / "tmp"))
    assert [path.name for path in (tmp_path / "tmp").iterdir()] == [f"torchserve-lite-environments-{os.getuid()}"]
    assert "unexpectedly" not in server.output


async def manage_under_load(clients: Clients, views: Views) -> None:
    async with asyncio.TaskGroup() as traffic:
        for pipelined in PIPELINED:
            traffic.create_task(clients.send(pipelined))
        traffic.create_task(clients.send_forms())
        end = asyncio.get_running_loop().time() + SECONDS
        while asyncio.get_running_loop().time() < end and not clients.wrong:
            await clients.manage(min(BETWEEN_QUIET_POINTS, SECONDS))
            clients.wrong += await views.become_equal()
            clients.settled([version for model, version in await views.versions() if model == KEPT])
        clients.stopping = True


def session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))


def descriptors(server: Server) -> list[str]:
    return server.descriptors()[server.process.pid]


def of_the_server(temporary: Path) -> list[psutil.Process]:
    """Whatever still runs of it, wherever it hangs in the tree of processes."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("TMPDIR") == str(temporary):
                found.append(process)
    return found
