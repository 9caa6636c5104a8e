"""The API keeps what its description promises, for a few requests of every kind, the same on every run."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest
from openapi_spec_validator import validate

from tests.api.described import findings, serving
from tests.e2e.conftest import build_mnist


async def test_every_answer_is_one_that_the_description_has(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    build_mnist(store)
    async with serving(tmp_path, store) as addresses, aiohttp.ClientSession() as client:
        for role, address in addresses.items():
            async with client.options(f"{address}/") as response:
                document = await response.json()
            validate(document)
            options = ["--generation-deterministic", "--max-examples", "2"]
            if role == "inference":
                options += ["--exclude-method", "PUT"]  # which does the same as POST there
            if said := await findings(address, document, tmp_path, *options):
                pytest.fail(said, pytrace=False)
