"""Two servers, one with the fast path and one without: nothing that a client, a handler or an operator sees differs."""

from __future__ import annotations

import asyncio
import difflib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.e2e.server import Server, running
from tests.fast_path.conversation import Watch, masked, transcript, watching
from tests.fast_path.corpus import LIMIT, Case, all_cases, authorized, for_token, good, with_token
from tests.fast_path.models import write_models

AT_ONCE = 48  # conversations
SHOWN = 20  # differences that are told in full
SETTINGS = {
    "max_request_size": LIMIT,
    "job_queue_size": 5000,
    "slow_header_seconds": 5,
    "slow_client_seconds": 5,
    "cors_allowed_origin": "*",
    "management_allowed_hosts": "x",
}
COUNTER = re.compile(r"(?m)^((?:ts_\w+_requests_total|Requests\dXX)(?:\{[^}]*\})?) (\S+)$")


@dataclass(frozen=True)
class Record:
    """What one server did with all cases."""

    transcripts: Mapping[str, bytes]
    log_lines: Counter[str]
    counters: Mapping[str, float]


async def recorded(folder: Path, *, fast_path: str, tokens: bool) -> Record:
    folder.mkdir()
    write_models(folder / "store")
    settings = {"http_fast_path": fast_path, "disable_token_authorization": str(not tokens)}
    async with running(folder, folder / "store", {**SETTINGS, **settings}) as server:
        before = await counters(server)
        async with watching(server.url) as watch:
            transcripts = await played(server, watch, asked(folder) if tokens else [*all_cases(), *authorized()])
            transcripts = {name: without_keys(folder, received) for name, received in transcripts.items()}
            await watch.seen()  # what clients that have left began is over
            after = await counters(server)
            successes = next(name for name in after if name.startswith("Requests2XX"))
            after[successes] -= watch.requests + 1  # and the first reading of the counters
    counted = {name: after[name] - before.get(name, 0) for name in after}
    return Record(transcripts, Counter(log_lines(folder)), counted)


def asked(folder: Path) -> list[Case]:
    """All cases, for a server that asks for tokens. The management key opens inference, too: they share a listener."""
    token = json.loads((folder / "key_file.json").read_text())["management"]["key"].encode()
    refused = [replace(case, name=f"{case.name}, without a token") for case in good()]
    return [
        *(with_token(case, token) for case in all_cases()),
        *(for_token(case, token) for case in authorized()),
        *refused,
    ]


def without_keys(folder: Path, received: bytes) -> bytes:
    """They differ between two servers, and a handler sees them."""
    file = folder / "key_file.json"
    keys = json.loads(file.read_text()).values() if file.exists() else ()
    for key in keys:
        received = received.replace(key["key"].encode(), b"<key>")
    return received


async def played(server: Server, watch: Watch, cases: Iterable[Case]) -> dict[str, bytes]:
    places = asyncio.Semaphore(AT_ONCE)

    async def play(case: Case) -> tuple[str, bytes]:
        async with places:
            return case.name, await transcript(server.url, watch, case)

    return dict(await asyncio.gather(*map(play, cases)))


async def counters(server: Server) -> dict[str, float]:
    """Without that of requests which were run for clients that had left: whether they left soon enough not to be run is
    a matter of milliseconds."""
    found = COUNTER.findall(await server.metrics())
    return {name: float(value) for name, value in found if not name.startswith("ts_wasted_requests_total")}


def log_lines(folder: Path) -> list[str]:
    """Without times, and the client's port."""
    lines = (folder / "logs" / "access_log.log").read_bytes().splitlines()
    told = [re.sub(rb"^\S+ - |\d+$", b"", masked(line)).decode() for line in lines]
    return [line for line in told if "?watch" not in line]


def difference(off: bytes, on: bytes) -> str:
    without, with_it = (text[:20_000].decode("latin-1").replace("\r", "\\r").splitlines() for text in (off, on))
    compared = difflib.unified_diff(without, with_it, "off", "on", lineterm="", n=2)
    return "\n".join(line[:300] for line in compared)


def test_cases_have_names_of_their_own() -> None:
    """And there are many."""
    names = Counter(case.name for case in [*all_cases(), *authorized()])
    assert len(names) > 3000
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("tokens", [False, True], ids=["open", "tokens"])
async def test_nobody_can_tell_whether_the_fast_path_is_on(tmp_path: Path, tokens: bool) -> None:
    off, on = await asyncio.gather(
        recorded(tmp_path / "off", fast_path="false", tokens=tokens),
        recorded(tmp_path / "on", fast_path="true", tokens=tokens),
    )
    pairs = {name: (received, on.transcripts[name]) for name, received in off.transcripts.items()}
    different = [f"{name}:\n{difference(*pair)}" for name, pair in pairs.items() if pair[0] != pair[1]]
    if different:
        told = "\n\n".join(different[:SHOWN])
        pytest.fail(f"{len(different)} of {len(pairs)} cases differ, the first of them:\n\n{told}", pytrace=False)
    assert sorted((off.log_lines - on.log_lines).items()) == sorted((on.log_lines - off.log_lines).items())
    assert off.counters == on.counters
