"""Snapshots as configuration: which file of the folder a start takes, and what a snapshot keeps of the settings.

The files are TorchServe's: Java properties with a ``model_snapshot``, named for the local time of their saving.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from torchserve_lite.config.keys import KEYS
from torchserve_lite.config.properties import read_properties
from torchserve_lite.config.startup_models import StartupList, missing_fields, parse_model_snapshot, snapshot_time
from torchserve_lite.config.values import Unacceptable, boolean, inverted, without_credentials
from torchserve_lite.errors import ConfigurationError

WRITTEN_BY = "torchserve-lite"  # begins the version in our snapshots
_NAME = re.compile(r"(\d{17})-(startup|snapshot|shutdown)\.cfg", re.ASCII)
_MOST_SHOWN = 3
# They say which models there were, or describe the server that saved the snapshot.
_NOT_KEPT = ("load_models", "model_snapshot", "version", "tsConfigFile")
# TorchServe writes them into every snapshot as they were found on that machine, whether or not somebody had set them.
_OF_ANOTHER_MACHINE = ("number_of_gpu", "python", "model_server_home")


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """``saved`` is the time in its name, the only thing by which snapshots are older or newer."""

    path: Path
    saved: datetime
    kind: str  # startup, snapshot, shutdown

    @classmethod
    def named(cls, path: Path) -> SnapshotFile | None:
        """None when the name is not a snapshot's."""
        match = _NAME.fullmatch(path.name)
        if match is None:
            return None
        try:
            saved = datetime.strptime(match[1] + "000", "%Y%m%d%H%M%S%f")
        except ValueError:  # a thirteenth month
            return None
        return cls(path, saved, match[2])


def snapshot_name(saved: datetime, kind: str) -> str:
    return f"{saved:%Y%m%d%H%M%S}{saved.microsecond // 1000:03d}-{kind}.cfg"


def snapshot_files(folder: Path) -> list[SnapshotFile]:
    """The newest first. OSError when the folder cannot be read."""
    found = filter(None, map(SnapshotFile.named, folder.iterdir()))
    return sorted(found, key=lambda file: (file.saved, file.path.name), reverse=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class LastSnapshot:
    """What the last-snapshot rule finds; ``file`` is None when it is nothing. ``notices`` tell what it passed over."""

    file: Path | None = None
    properties: Mapping[str, str] | None = None
    models: int = 0
    saved: float = 0.0  # seconds since the epoch
    notices: tuple[str, ...] = ()


def last_snapshot(folder: Path) -> LastSnapshot:
    """The newest one that can be read."""
    if not folder.is_dir():
        return LastSnapshot()
    try:
        files = snapshot_files(folder)
        notices = list(_strangers(folder))
    except OSError as error:
        return LastSnapshot(notices=(f"Snapshots in {folder} cannot be read ({error.strerror}): none is restored.",))
    for file in files:
        try:
            properties = read_properties(file.path)
            models = _models(properties)
        except (ConfigurationError, Unacceptable) as error:
            notices.append(f"The snapshot {file.path} cannot be used, and the one before it is taken: {error}")
            continue
        return LastSnapshot(
            file=file.path,
            properties=properties,
            models=len(models.models),
            saved=snapshot_time(properties["model_snapshot"]) or file.saved.timestamp(),
            notices=tuple(notices),
        )
    return LastSnapshot(notices=tuple(notices))


def _models(properties: Mapping[str, str]) -> StartupList:
    if not properties.get("model_snapshot"):
        raise Unacceptable("it has no model_snapshot.")
    return parse_model_snapshot(properties["model_snapshot"])


def _strangers(folder: Path) -> Iterator[str]:
    names = sorted(path.name for path in folder.glob("*.cfg") if SnapshotFile.named(path) is None)
    if names:
        more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
        yield (
            f"{', '.join(names[:_MOST_SHOWN])}{more} in {folder}: not named as a snapshot is "
            "(yyyyMMddHHmmssSSS-snapshot.cfg), and left alone."
        )


def restore_notice(snapshot: LastSnapshot, given: Path | None, unused: Sequence[str]) -> str:
    """What a start shows that follows the last-snapshot rule. ``given``: the file it would otherwise read;
    ``unused``: what else names models."""
    assert snapshot.file is not None
    saved = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(snapshot.saved))
    models = f"{snapshot.models} model{'' if snapshot.models == 1 else 's'}"
    not_used = "; ".join([*(_unused_file(given, snapshot) if given else ()), *unused])
    not_used = f" Not used: {not_used}." if not_used else ""
    return (
        f"This start restores the settings and {models} of the snapshot {snapshot.file}, saved {saved}.{not_used} "
        "Start with --ncs (no snapshots) or --ts-config FILE to go by the configuration file instead."
    )


def _unused_file(given: Path, snapshot: LastSnapshot) -> Iterator[str]:
    told = []
    with suppress(OSError, ConfigurationError):
        if given.stat().st_mtime > snapshot.saved:
            told.append("changed since then")
        saved = {name: text for name, text in (snapshot.properties or {}).items() if name not in _NOT_KEPT}
        now = {name: text for name, text in read_properties(given).items() if _is_kept(name, text)}
        now.pop("model_store", None)  # kept as an absolute path
        if other := [name for name, text in now.items() if saved.get(name) != text]:
            told.append(f"it says otherwise about {', '.join(other)}")
    yield f"{given}{f' ({chr(44).join(told)})' if told else ''}"


def kept_properties(file: ConfigurationFile, command_line: Mapping[str, str]) -> dict[str, str]:
    """What a snapshot keeps of how this start was configured.

    As it was written: what ``$$VAR$$`` and the environment say is looked up again by the next start, and may be secret.
    A switch of the command line holds for its start alone: nothing that was opened once by hand stays open.
    """
    given = {name: text for name, text in command_line.items() if KEYS[name].parse not in (boolean, inverted)}
    kept = {name: text for name, text in {**file.properties, **given}.items() if _is_kept(name, text)}
    return kept | ({"tsConfigFile": str(file.original.absolute())} if file.original else {})


def _is_kept(name: str, text: str) -> bool:
    """Not what is unknown: it could be anything."""
    return name in KEYS and name not in _NOT_KEPT and not _is_secret(name, text)


def _is_secret(name: str, text: str) -> bool:
    return name in KEYS and (KEYS[name].secret or without_credentials(name, text) != text)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationFile:
    """A configuration file as it holds here. ``original`` is the file itself or, when it is a snapshot, the one behind
    it, from which ``fresh`` has been taken: what the snapshot may not keep."""

    properties: Mapping[str, str] = field(default_factory=dict)
    original: Path | None = None
    fresh: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path | None) -> ConfigurationFile:
        properties = read_properties(file) if file else {}
        if "model_snapshot" not in properties or not properties.keys() & {"version", "tsConfigFile"}:
            return cls(properties=properties, original=file)
        own = properties.get("version", "").startswith(WRITTEN_BY)
        dropped = () if own else _OF_ANOTHER_MACHINE
        holding = {name: text for name, text in properties.items() if name not in ("load_models", *dropped)}
        original = Path(properties["tsConfigFile"]) if properties.get("tsConfigFile") else None
        fresh = {}
        if original is not None and original != file:
            with suppress(ConfigurationError):  # it has gone; perhaps there was nothing more in it
                given = read_properties(original)
                missing = [name for name in given if name not in holding]
                fresh = {name: given[name] for name in missing if name in dropped or _is_secret(name, given[name])}
        return cls(properties=holding, original=original, fresh=fresh)


def snapshot_warnings(text: str) -> Iterator[str]:
    """What a ``model_snapshot`` leaves out that TorchServe's always say."""
    for model, version, missing in missing_fields(text):
        yield (
            f"model_snapshot does not say {', '.join(missing)} of model {model}, version {version}: "
            "the archive or the defaults do."
        )
