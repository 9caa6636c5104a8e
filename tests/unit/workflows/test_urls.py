"""Workflow archives from URLs: the same door as that of models, with the same key."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.management.origins import Origin, origin
from torchserve_lite.config.settings import DownloadConfig
from torchserve_lite.config.values import networks, url_patterns
from torchserve_lite.core.options import ServingOptions
from torchserve_lite.errors import ArchiveNotFound, InvalidWorkflow

from .fake_models import FakeModels, workflows
from .wars import war

ALLOWED = DownloadConfig(allowed_urls=url_patterns("http://.*"), allowed_url_networks=networks("127.0.0.1"))


def war_at(where: Origin, folder: Path, path: str = "/w.war") -> str:
    file = war(folder)
    url = where.serve(path, file.read_bytes())
    file.unlink()
    return url


async def test_archive_from_an_allowed_url_is_kept_until_its_workflow_is_gone(tmp_path: Path) -> None:
    models = FakeModels()
    async with origin() as where, workflows(tmp_path, models, ALLOWED) as manager:
        url = war_at(where, tmp_path)
        workflow = await manager.register(ServingOptions(url=url))
        assert (workflow.url, sorted(models.options)) == (url, ["w__m", "w__pre"])
        assert (tmp_path / "w.war").is_file()
        await manager.unregister("w")
        assert not (tmp_path / "w.war").exists()


async def test_url_that_is_not_allowed_is_not_fetched(tmp_path: Path) -> None:
    async with origin() as where, workflows(tmp_path, FakeModels()) as manager:
        with pytest.raises(ArchiveNotFound, match="does not match any allowed URL"):
            await manager.register(ServingOptions(url=war_at(where, tmp_path)))
        assert where.requests == []


async def test_url_of_what_is_no_workflow_leaves_nothing(tmp_path: Path) -> None:
    async with origin() as where, workflows(tmp_path, FakeModels(), ALLOWED) as manager:
        with pytest.raises(InvalidWorkflow, match=r"^w\.war: "):
            await manager.register(ServingOptions(url=where.serve("/w.war", b"no archive")))
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]
