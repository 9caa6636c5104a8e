"""The flags that say how to serve, shared by ``torchserve-lite start`` and ``torchserve``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchserve_lite.config.settings import Config


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ts-config", type=Path, metavar="FILE", help="configuration file; default: config.properties")
    parser.add_argument("--model-store", metavar="DIR", help="folder in which archives are looked up")
    parser.add_argument("--workflow-store", metavar="DIR", help="folder of workflow archives; default: the model store")
    parser.add_argument(
        "--models", nargs="+", metavar="MODEL", help="what to load: all, or any of FILE and NAME=FILE, blank separated"
    )
    parser.add_argument("--disable-token-auth", "--dt", action="store_true", help="clients need no token")
    parser.add_argument("--enable-model-api", action="store_true", help="let clients register and remove models")
    parser.add_argument(
        "--kserve", action="store_true", help="also serve on KServe's ports 8080 and 8081, once every model is ready"
    )
    parser.add_argument("--python", metavar="PROGRAM", help="interpreter of workers; default: the server's own")
    parser.add_argument("--log-format", choices=("text", "json"), help="json: an object a line; default: text")
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), help="of the server's log lines; default: info"
    )
    parser.add_argument(
        "--log-config", type=Path, metavar="FILE", help="YAML or INI for Python's logging; log4j2's XML has no effect"
    )
    parser.add_argument(
        "--inline",
        action="store_true",
        help="run handlers in the server's own process, for a debugger: breakpoint() stops in this terminal",
    )
    # Flags of TorchServe that scripts and charts pass and that have nothing to act on here (yet).
    parser.add_argument("--cpp-log-config", metavar="FILE", help="accepted without effect: it is for C++ workers")
    parser.add_argument("--plugins-path", "--ppath", metavar="DIR", help="accepted without effect: plugins are Java")
    parser.add_argument(
        "--no-config-snapshots",
        "--ncs",
        action="store_true",
        help="neither restore what was served last nor save what is served",
    )


def add_address_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", help="where the inference address listens; default: as configured, or 127.0.0.1")
    parser.add_argument("--port", type=int, metavar="N", help="its port; default: as configured, or 8080")


def read_configuration(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Config:
    from torchserve_lite.config.loading import load_config
    from torchserve_lite.errors import ConfigurationError

    for flag in ("--model-store", "--workflow-store"):
        folder = _value(arguments, flag)
        if folder and not Path(folder).is_dir():
            raise ConfigurationError(f"{flag} directory not found: {folder}")
    found = find_configuration(arguments, environ)
    config = load_config(found.file, found.command_line, found.environ)
    if config.models.store is None:
        raise ConfigurationError("Missing mandatory parameter --model-store (or model_store in the configuration file)")
    notices = (*found.notices, *config.notices)
    if file := arguments.log_config:
        from torchserve_lite.log_config import check, log4j_notice

        if notice := log4j_notice(file):
            notices = (*notices, notice)
        else:
            check(file)
            config = replace(config, logs=replace(config.logs, file=file.absolute()))
    return replace(config, notices=notices)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundConfiguration:
    """What a start reads: the file and, by the name of their property, the flags that count beside it."""

    file: Path | None
    command_line: Mapping[str, str]
    environ: Mapping[str, str]
    notices: tuple[str, ...] = ()


def find_configuration(arguments: argparse.Namespace, environ: Mapping[str, str]) -> FoundConfiguration:
    found = _found_configuration(arguments, environ)
    host, port = getattr(arguments, "host", None), getattr(arguments, "port", None)
    if host is None and port is None:
        return found
    from torchserve_lite.config.settings import Address
    from torchserve_lite.config.sources import gather_settings

    setting = gather_settings(found.file, found.command_line, found.environ).get("inference_address")
    configured: Address = setting.value if setting else Address("127.0.0.1", 8080)
    if configured.path:  # a unix socket has neither
        configured = Address("127.0.0.1", 8080)
    address = replace(
        configured,
        host=configured.host if host is None else host.strip("[]"),
        port=configured.port if port is None else port,
    )
    return replace(  # a flag says what is wanted now, so it stands above the variable
        found,
        command_line={**found.command_line, "inference_address": str(address)},
        environ={name: text for name, text in found.environ.items() if name != "TS_INFERENCE_ADDRESS"},
    )


def _found_configuration(arguments: argparse.Namespace, environ: Mapping[str, str]) -> FoundConfiguration:
    """Where no configuration file is named, the last snapshot comes before the ``config.properties`` of the folder."""
    from torchserve_lite.config.kserve import file_in_pod, reason_for_pod
    from torchserve_lite.config.loading import snapshot_folder
    from torchserve_lite.config.snapshots import last_snapshot, restore_notice
    from torchserve_lite.config.sources import find_config_file, gather_settings

    command_line = command_line_settings(arguments)
    named = arguments.ts_config
    if named is None and reason_for_pod("true" if arguments.kserve else "auto", environ):
        named = file_in_pod(environ)
    file = find_config_file(named, environ)
    without = FoundConfiguration(file=file, command_line=command_line, environ=environ)
    if environ.get("TS_CONFIG_FILE") or named:
        return without
    settings = gather_settings(file, command_line, environ)
    wanted = settings.get("config_snapshots")
    if wanted is not None and wanted.value is False:
        return without
    snapshot = last_snapshot(snapshot_folder(environ))
    if snapshot.file is None:
        return replace(without, notices=snapshot.notices)
    # The snapshot says which models there were, and nothing stands above that.
    models = [settings[name] for name in ("load_models", "model_snapshot") if name in settings]
    unused = [setting for setting in models if setting.origin != "file" and setting.text]
    return FoundConfiguration(
        file=snapshot.file,
        command_line={name: text for name, text in command_line.items() if name != "load_models"},
        environ={name: text for name, text in environ.items() if name not in ("TS_LOAD_MODELS", "TS_MODEL_SNAPSHOT")},
        notices=(restore_notice(snapshot, file, [setting.place for setting in unused]), *snapshot.notices),
    )


def command_line_settings(arguments: argparse.Namespace) -> dict[str, str]:
    """The flags that have a twin among the properties, under the property's name."""
    from torchserve_lite.config.keys import KEYS

    given = {key.name: _value(arguments, key.flag) for key in KEYS.values() if key.flag}
    given["config_snapshots"] = "false" if arguments.no_config_snapshots else ""
    return {name: value for name, value in given.items() if value}


def _value(arguments: argparse.Namespace, flag: str) -> str:
    value = getattr(arguments, flag.removeprefix("--").replace("-", "_"))
    if isinstance(value, list):
        return ",".join(value)
    return "true" if value is True else value or ""
