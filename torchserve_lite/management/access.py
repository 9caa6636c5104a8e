"""Who may do what: the keys that open the server's doors, the file in which they are found, the model API's switch.

The three keys, their file and how one is renewed are TorchServe's.
"""

from __future__ import annotations

import asyncio
import enum
import json
import logging
import math
import os
import secrets
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hmac import compare_digest
from pathlib import Path

from torchserve_lite.config.settings import AccessConfig
from torchserve_lite.errors import (
    ConfigurationError,
    InvalidToken,
    InvalidTokenAsBefore,
    ModelApiOff,
    ServingError,
    ShuttingDown,
)

log = logging.getLogger(__name__)

KEY_FILE = "key_file.json"
_KEY_BYTES = 32
_LAST_SECOND = 253402300799.0  # of the year 9999; no calendar goes on


class Door(enum.Enum):
    """What a call is for. The value is the name of the key that opens it, as it stands in the key file."""

    OPEN = ""
    INFERENCE = "inference"
    MANAGEMENT = "management"
    TOKENS = "API"  # where keys are renewed


@dataclass(frozen=True, slots=True)
class Key:
    text: str
    expires: float  # seconds since 1970; infinity: never

    @property
    def in_file(self) -> Mapping[str, str]:
        if self.expires == math.inf:
            return {"key": self.text}
        until = datetime.fromtimestamp(self.expires, UTC).isoformat(timespec="milliseconds")
        return {"key": self.text, "expiration time": until.replace("+00:00", "Z")}


class Access:
    """One for all protocols. While ``keys_in_file`` is entered, the keys are to be found in ``file``."""

    def __init__(
        self, config: AccessConfig, file: Path = Path(KEY_FILE), clock: Callable[[], float] = time.time
    ) -> None:
        self.tokens = config.tokens
        self.refusal = InvalidTokenAsBefore if config.token_failure_status == 400 else InvalidToken
        self._config = config
        self._file = file.absolute()
        self._clock = clock
        self._keys = {door: self._new_key(door) for door in (Door.MANAGEMENT, Door.INFERENCE, Door.TOKENS)}
        self._writing = threading.Lock()
        self._written: tuple[int, int] | None = None  # inode and time of the file that is ours; None: there is none

    @asynccontextmanager
    async def keys_in_file(self) -> AsyncIterator[None]:
        """Left: the file is gone, unless another server has put its own there. Without tokens there is none."""
        if not self.tokens:
            yield
            return
        try:
            await asyncio.to_thread(self._write, self._keys)
        except OSError as error:
            raise ConfigurationError(
                f"{self._file}, where operators find the keys, cannot be written ({error.strerror}). Start the server "
                "in a folder where it can, or without tokens (disable_token_authorization=true, "
                "--disable-token-auth)."
            ) from error
        try:
            yield
        finally:
            await asyncio.to_thread(self._remove)

    def admits(self, door: Door, authorization: str, *, shared: bool = False) -> bool:
        """``authorization``: as HTTP's header has it. ``shared``: inference and management are called at one address,
        where the management key opens both."""
        if door is Door.OPEN or not self.tokens:
            return True
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return False
        sent, now = token.strip(" \t").encode("utf-8", "replace"), self._clock()
        doors = (door, Door.MANAGEMENT) if shared and door is Door.INFERENCE else (door,)
        keys = [self._keys[one] for one in doors]
        return any(compare_digest(sent, key.text.encode()) and now < key.expires for key in keys)

    def check(self, door: Door, authorization: str, *, shared: bool = False) -> None:
        if not self.admits(door, authorization, shared=shared):
            raise self.refusal("Authentication" if door is Door.TOKENS else "Authorization")

    def check_model_api(self, *allowed: str) -> None:
        """Whoever registers or removes a model or a workflow asks this first. ``allowed``: the methods that its path
        has besides."""
        if not self._config.model_api:
            raise ModelApiOff(allowed)

    def renew(self, door: Door) -> None:
        """A new key for this door; the old one opens it no more. The file is written, so call it in a thread."""
        with self._writing:
            if self._written is None:
                raise ShuttingDown
            keys = {**self._keys, door: self._new_key(door)}
            try:
                self._write(keys)
            except OSError as error:
                raise ServingError(
                    f"{self._file} cannot be written ({error.strerror}): the {door.value} key stays as it is."
                ) from error
            self._keys = keys
        log.info("The %s key has been renewed", door.value)

    def _new_key(self, door: Door) -> Key:
        lasts = math.inf if door is Door.TOKENS else min(self._clock() + self._config.token_lifetime, _LAST_SECOND)
        return Key(secrets.token_urlsafe(_KEY_BYTES), lasts)

    def _write(self, keys: Mapping[Door, Key]) -> None:
        """In place of what is there, a link included, and whole at any moment. What ``mkstemp`` makes is new, and no
        other user can read it."""
        text = json.dumps({door.value: key.in_file for door, key in keys.items()}, indent=2)
        descriptor, name = tempfile.mkstemp(prefix=f".{KEY_FILE}.", dir=self._file.parent)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(f"{text}\n")
                file.flush()
                written = os.fstat(descriptor)
            os.replace(name, self._file)
        except OSError:
            with suppress(OSError):
                os.unlink(name)
            raise
        self._written = written.st_ino, written.st_mtime_ns

    def _remove(self) -> None:
        with self._writing, suppress(OSError):
            ours, self._written = self._written, None
            there = os.lstat(self._file)
            if (there.st_ino, there.st_mtime_ns) == ours:
                self._file.unlink()
