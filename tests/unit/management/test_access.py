"""Keys, the file in which they are found, and the switch of the model API."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from torchserve_lite.config.settings import AccessConfig
from torchserve_lite.errors import ConfigurationError, InvalidTokenAsBefore, ModelApiOff, ServingError, ShuttingDown
from torchserve_lite.management.access import Access, Door

NOW = 1_700_000_000.25  # 2023-11-14T22:13:20.250Z


class Opened:
    """An access object whose keys are in a file, and the time that it goes by."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.file = folder / "key_file.json"
        self.now = NOW
        self.access = Access(AccessConfig(**config), self.file, lambda: self.now)

    @property
    def keys(self) -> dict[str, dict[str, str]]:
        found = json.loads(self.file.read_text())
        assert isinstance(found, dict)
        return found

    def bearer(self, name: str) -> str:
        return f"Bearer {self.keys[name]['key']}"


@asynccontextmanager
async def opened(folder: Path, **config: Any) -> AsyncIterator[Opened]:
    made = Opened(folder, **config)
    async with made.access.keys_in_file():
        yield made


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[Opened]:
    async with opened(tmp_path) as made:
        yield made


# The file


async def test_key_file_has_torchserves_layout(there: Opened) -> None:
    assert list(there.keys) == ["management", "inference", "API"]
    assert list(there.keys["management"]) == list(there.keys["inference"]) == ["key", "expiration time"]
    assert list(there.keys["API"]) == ["key"]
    assert there.keys["inference"]["expiration time"] == "2023-11-14T23:13:20.250Z"


async def test_keys_have_256_bits_and_differ(there: Opened) -> None:
    texts = [key["key"] for key in there.keys.values()]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", text) for text in texts)
    assert len(set(texts)) == 3


@pytest.mark.parametrize("mask", [0, 0o022, 0o077])
async def test_nobody_else_can_read_the_key_file(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        async with opened(tmp_path) as there:
            assert stat.S_IMODE(there.file.stat().st_mode) == 0o600
    finally:
        os.umask(before)


async def test_key_file_is_gone_after_the_stop_and_nothing_else_is_left(tmp_path: Path) -> None:
    async with opened(tmp_path) as there:
        there.access.renew(Door.INFERENCE)
        assert os.listdir(tmp_path) == ["key_file.json"]
    assert os.listdir(tmp_path) == []


async def test_key_file_of_a_server_that_was_killed_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "key_file.json").write_text("{}")
    async with opened(tmp_path) as there:
        assert there.access.admits(Door.INFERENCE, there.bearer("inference"))


async def test_link_in_place_of_the_key_file_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "somebody's"
    other.write_text("precious")
    (tmp_path / "key_file.json").symlink_to(other)
    async with opened(tmp_path) as there:
        assert not there.file.is_symlink()
        assert other.read_text() == "precious"


async def test_key_file_that_another_server_has_put_there_stays(tmp_path: Path) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    await first.__aenter__()
    there = await second.__aenter__()
    await first.__aexit__(None, None, None)
    assert there.access.admits(Door.INFERENCE, there.bearer("inference"))
    await second.__aexit__(None, None, None)
    assert not there.file.exists()


async def test_folder_that_cannot_be_written_ends_the_start_with_what_helps(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"key_file\.json.*--disable-token-auth"):
        async with opened(tmp_path / "missing"):
            pass


async def test_folder_in_place_of_the_key_file_ends_the_start_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "key_file.json").mkdir()
    with pytest.raises(ConfigurationError, match="cannot be written"):
        async with opened(tmp_path):
            pass
    assert os.listdir(tmp_path) == ["key_file.json"]


async def test_no_keys_are_written_where_none_are_needed(tmp_path: Path) -> None:
    async with opened(tmp_path, tokens=False) as there:
        assert not there.file.exists()
        assert there.access.admits(Door.MANAGEMENT, "")


async def test_key_that_is_to_last_for_ever_has_a_date_all_the_same(tmp_path: Path) -> None:
    async with opened(tmp_path, token_lifetime=6e19) as there:
        assert datetime.fromisoformat(there.keys["management"]["expiration time"]).year == 9999


# Who is let in


@pytest.mark.parametrize(
    ("door", "key", "shared", "admitted"),
    [
        (Door.INFERENCE, "inference", False, True),
        (Door.INFERENCE, "management", False, False),
        (Door.INFERENCE, "API", False, False),
        (Door.MANAGEMENT, "management", False, True),
        (Door.MANAGEMENT, "inference", False, False),
        (Door.MANAGEMENT, "API", False, False),
        (Door.TOKENS, "API", False, True),
        (Door.TOKENS, "management", False, False),
        (Door.INFERENCE, "management", True, True),
        (Door.MANAGEMENT, "inference", True, False),
        (Door.TOKENS, "management", True, False),
    ],
)
async def test_each_key_opens_its_door(there: Opened, door: Door, key: str, shared: bool, admitted: bool) -> None:
    assert there.access.admits(door, there.bearer(key), shared=shared) is admitted


@pytest.mark.parametrize(
    ("form", "admitted"),
    [
        ("Bearer {}", True),
        ("bearer {}", True),
        ("Bearer   {} ", True),
        ("", False),
        (" ", False),
        ("{}", False),
        ("Bearer", False),
        ("Bearer ", False),
        ("Bearer{}", False),
        ("Basic {}", False),
        (" Bearer {}", False),
        ("Bearer {}x", False),
        ("Bearer {0}, Bearer {0}", False),
        ("Bearer {0} {0}", False),
        ("Bearer {0:.42}", False),
        ("Bearer {0:.1}", False),
        ("Bearer \xe4\ud800", False),
    ],
)
async def test_nothing_but_the_whole_key_opens(there: Opened, form: str, admitted: bool) -> None:
    assert there.access.admits(Door.INFERENCE, form.format(there.keys["inference"]["key"])) is admitted


async def test_key_opens_until_it_expires(tmp_path: Path) -> None:
    async with opened(tmp_path, token_lifetime=30) as there:
        there.now = NOW + 29.9
        assert there.access.admits(Door.MANAGEMENT, there.bearer("management"))
        there.now = NOW + 30
        assert not there.access.admits(Door.MANAGEMENT, there.bearer("management"))
        there.now = NOW + 1e9
        assert there.access.admits(Door.TOKENS, there.bearer("API"))


@pytest.mark.parametrize(("door", "word"), [(Door.INFERENCE, "Authorization"), (Door.TOKENS, "Authentication")])
async def test_refusal_has_torchserves_words_and_the_operators_status(tmp_path: Path, door: Door, word: str) -> None:
    async with opened(tmp_path, token_failure_status=400) as there:
        with pytest.raises(InvalidTokenAsBefore) as refused:
            there.access.check(door, "Bearer x")
    text = f"Token {word} failed. Token either incorrect, expired, or not provided correctly"
    assert (str(refused.value), type(refused.value)) == (text, InvalidTokenAsBefore)


# Renewing


async def test_renewed_key_opens_at_once_and_the_old_one_no_more(there: Opened) -> None:
    old, others = there.bearer("inference"), [there.keys["management"], there.keys["API"]]
    there.now += 100
    there.access.renew(Door.INFERENCE)
    assert not there.access.admits(Door.INFERENCE, old)
    assert there.access.admits(Door.INFERENCE, there.bearer("inference"))
    assert there.keys["inference"]["expiration time"] == "2023-11-14T23:15:00.250Z"
    assert [there.keys["management"], there.keys["API"]] == others


async def test_key_stays_when_its_successor_cannot_be_written(there: Opened) -> None:
    old = there.bearer("inference")
    there.file.unlink()
    there.file.mkdir()
    with pytest.raises(ServingError, match="the inference key stays as it is"):
        there.access.renew(Door.INFERENCE)
    assert there.access.admits(Door.INFERENCE, old)


async def test_no_key_file_is_written_after_the_stop(tmp_path: Path) -> None:
    async with opened(tmp_path) as there:
        pass
    with pytest.raises(ShuttingDown):
        there.access.renew(Door.INFERENCE)
    assert not there.file.exists()


# The model API


def test_model_api_is_off_unless_it_is_switched_on() -> None:
    Access(AccessConfig(model_api=True)).check_model_api()
    with pytest.raises(ModelApiOff) as refused:
        Access(AccessConfig()).check_model_api("GET")
    assert refused.value.allowed == ("GET",)
