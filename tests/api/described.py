"""A real server is asked whatever its own API descriptions allow, and much that they do not: every answer must be one
that they describe, and none an error of the server's.

schemathesis makes the requests from a description in which names are those of models that are there (or are not), and
bounds are such that a machine bears what is asked of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.e2e.conftest import ROOT
from tests.e2e.server import Server, running, write_model
from tests.unit.workflows.wars import war

CHECKS = (
    "only_handlers_fail",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
_LONGEST_ANSWER = 30  # seconds: what takes longer hangs

_ECHO = """
def handle(data, context):
    return data and [repr(row)[:1000] for row in data]
"""
_FUNCTION = """
def pre(data, context):
    return data and [repr(row)[:1000] for row in data]
"""
_VALUES: Mapping[str, Mapping[str, object]] = {
    "model_name": {"enum": ["echo", "idle", "mnist", "unknown"]},
    "model_version": {"enum": ["1.0", "9"]},
    "workflow_name": {"enum": ["flow", "unknown"]},
    "file": {"enum": ["app.js", "unknown.js"]},
    "url": {"enum": ["echo", "spare", "spare.war", "nowhere.mar", "../echo", "http://127.0.0.1:1/a.mar"]},
    "min_worker": {"maximum": 2},
    "max_worker": {"maximum": 2},
    "initial_workers": {"maximum": 2},
    "max_workers": {"maximum": 2},
    "startup_timeout": {"minimum": 60},  # loading in less can fail, as it should
}
_TO_BE_REMOVED: Mapping[str, object] = {"type": "string", "enum": ["spare", "unknown"]}  # the others are needed


@asynccontextmanager
async def serving(folder: Path, store: Path) -> AsyncIterator[Mapping[str, str]]:
    """A server of the models in ``store`` and two small ones, on a listener for each role. Gives their addresses."""
    write_model(store, "echo", _ECHO)
    write_model(store, "idle", _ECHO)
    write_model(store, "spare", _ECHO)
    for name in ("flow", "spare"):
        war(store, name=name, spec="models: {m: {url: echo, max-workers: 1}}\ndag: {pre: [m]}\n", handler=_FUNCTION)
    listeners = {f"{role}_address": f"http://{host}:0" for role, host in _HOSTS.items()}
    options = {"echo": {"1.0": {"minWorkers": 1, "maxWorkers": 2}}, "idle": {"1.0": {"minWorkers": 0, "maxWorkers": 0}}}
    settings = {**listeners, "enable_model_api": "true", "models": json.dumps(options)}
    async with running(folder, store, settings) as server:
        addresses = {role: await _address(server, role) for role in _HOSTS}
        async with server.client.post(f"{addresses['management']}/workflows?url=flow.war&workflow_name=flow") as answer:
            assert answer.status == 200, await answer.text()
        yield addresses


_HOSTS = {"inference": "127.0.0.1", "management": "127.0.0.2", "metrics": "127.0.0.3"}


async def _address(server: Server, role: str) -> str:
    return (await server.line(rf"listening: .*{role}")).rpartition(" ")[2]


def narrowed(document: Any) -> Any:
    """The description with values that lead somewhere, and without the handlers' own statuses: these set none."""
    document["paths"].pop("/console/events", None)  # which has no end
    for parameter in _parameters(document):
        parameter["schema"].update(_VALUES.get(parameter["name"], {}))
    for path in document["paths"].values():
        for method in path.keys() - {"parameters"}:
            path[method]["responses"].pop("default", None)
            # A handler that there is not fails to load, which is 500 and no finding
            path[method]["parameters"] = [one for one in path[method]["parameters"] if one["name"] != "handler"]
        if "delete" in path:
            names = [reference["$ref"].rpartition("/")[2] for reference in path["parameters"]]
            path["delete"]["parameters"] += [
                {"name": name, "in": "path", "required": True, "schema": _TO_BE_REMOVED}
                for name in names
                if name in ("model_name", "workflow_name")
            ]
    return document


def _parameters(document: Any) -> Iterator[Any]:
    yield from document["components"].get("parameters", {}).values()
    for path in document["paths"].values():
        for method in path.keys() - {"parameters"}:
            yield from path[method]["parameters"]
    for name in ("ModelRegistration", "WorkflowRegistration"):
        if name in document["components"].get("requestBodies", {}):
            schema = document["components"]["requestBodies"][name]["content"]["application/json"]["schema"]
            schema["properties"].pop("handler", None)
            yield from ({"name": key, "schema": value} for key, value in schema["properties"].items())


async def findings(address: str, document: Any, folder: Path, *options: str) -> str:
    """What schemathesis says when something is wrong; empty when nothing is."""
    (folder / "description.json").write_text(json.dumps(narrowed(document)))
    command: Sequence[str] = (
        *(sys.executable, "-m", "schemathesis.cli", "run", "description.json"),
        *("--url", address, "--checks", ",".join(CHECKS), "--phases", "coverage,fuzzing"),
        *("--request-timeout", str(_LONGEST_ANSWER), "--continue-on-failure", "--no-color", *options),
    )
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,  # where it leaves what it found
        env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.api.checks", "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return "" if process.returncode == 0 else said.decode()
