"""The levels of log lines are asked and changed over the management API."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.unit.protocols.conftest import Front

NAME = "torchserve_lite.engine.pool"


@pytest.fixture(autouse=True)
def levels_as_before() -> Iterator[None]:
    loggers = (logging.root, logging.getLogger(NAME), logging.getLogger("torchserve_lite.engine"))
    before = [logger.level for logger in loggers]
    logging.root.setLevel(logging.INFO)
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


async def test_level_of_all_is_changed_and_shown(front: Front) -> None:
    changed = await front.ask("PUT", "/logging", json={"level": "DEBUG"})
    assert (changed.status, changed.json["level"]) == (200, "debug")
    assert logging.getLogger(NAME).isEnabledFor(logging.DEBUG)
    assert (await front.ask("GET", "/logging")).json == changed.json


async def test_level_of_a_part_is_changed_and_given_back(front: Front) -> None:
    changed = await front.ask("PUT", "/logging?level=error&logger=torchserve_lite.engine")
    assert changed.json["loggers"]["torchserve_lite.engine"] == "error"
    assert changed.json["level"] == "info"
    assert not logging.getLogger(NAME).isEnabledFor(logging.WARNING)
    changed = await front.ask("PUT", "/logging", json={"level": "default", "logger": "torchserve_lite.engine"})
    assert "torchserve_lite.engine" not in changed.json["loggers"]
    assert logging.getLogger(NAME).isEnabledFor(logging.INFO)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        pytest.param({}, "level", id="nothing"),
        pytest.param({"level": "loud"}, "loud", id="no level"),
        pytest.param({"level": 10}, "10", id="a number"),
        pytest.param(
            {"level": "info", "logger": "torchserve_lite.engine.poll"}, f"Did you mean {NAME}?", id="no logger"
        ),
        pytest.param({"level": "info", "logger": ["a"]}, "logger", id="no name"),
        pytest.param({"level": "default"}, "name one", id="root has none above"),
        pytest.param({"level": "info", "loger": "x"}, "loger", id="unknown parameter"),
        pytest.param(["debug"], "object", id="no object"),
    ],
)
async def test_change_that_cannot_be_made_says_why(body: object, named: str, front: Front) -> None:
    refused = await front.ask("PUT", "/logging", json=body)
    assert refused.status == 400
    assert named in refused.json["message"]
    assert logging.root.level == logging.INFO
