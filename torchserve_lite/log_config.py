"""``--log-config``: a file of Python's ``logging.config``, YAML (or JSON) or INI. TorchServe takes log4j2's XML there,
which is answered with what to write instead."""

from __future__ import annotations

import logging.config
import re
from pathlib import Path
from typing import Any

import yaml

from torchserve_lite.errors import ConfigurationError
from torchserve_lite.telemetry.log_levels import LEVELS

_LEVEL_OF_LOG4J = re.compile(
    r"<(?:Async)?(Root|Logger)\b(?=[^>]*\blevel\s*=\s*[\"'](\w+)[\"'])(?:(?=[^>]*\bname\s*=\s*[\"']([\w.$-]+)[\"']))?",
    re.IGNORECASE,
)
_LEVELS = {"all": "debug", "trace": "debug", "warn": "warning", "fatal": "error", "off": "error"}
_OF_THE_SERVER = ("", "org.pytorch.serve")
_BY_NAME = {"access_log": "ACCESS_LOG", "model_log": "MODEL_LOG"}  # as log4j2's files have them


def log4j_notice(file: Path) -> str | None:
    """What to write instead of this file, if it is log4j's. It is no error: images and charts that were made for
    TorchServe pass one, and serve as well without it."""
    text = _text(file) if file.is_file() else ""
    if file.suffix.lower() != ".xml" and not text.lstrip("\ufeff \r\n\t").startswith("<") and "log4j." not in text:
        return None
    asked = []
    for kind, level, name in _LEVEL_OF_LOG4J.findall(text):
        meant = _LEVELS.get(level.lower(), level.lower())
        if meant in LEVELS and (kind.lower() == "root" or name in _OF_THE_SERVER):
            asked.append(f"log_level={meant}")
        elif meant in LEVELS and (ours := _BY_NAME.get(name.lower(), name)) in _BY_NAME.values():
            asked.append(f"torchserve-lite log-level {meant} --logger {ours}")
    levels = f" Its levels are written: {', '.join(dict.fromkeys(asked))}." if asked else ""
    return (
        f"--log-config {file} has no effect: it configures Java's log4j2.{levels} The files and lines are TorchServe's "
        "without it; LOG_LOCATION moves them, log_format=json makes objects of the lines, and what goes beyond is "
        "written in YAML for Python's logging: see docs/logs.md."
    )


def check(file: Path) -> None:
    """ConfigurationError when it cannot be read, or is no configuration of logging by its outline."""
    if not _is_ini(_text(file)):
        _dictionary(file)


def replaces_ours(file: Path) -> bool:
    """Whether it says where lines go. One that has only levels and filters leaves our places as they are."""
    text = _text(file)
    return _is_ini(text) or bool(_dictionary(file).get("root", {}).get("handlers"))


def configure(file: Path) -> None:
    try:
        if _is_ini(_text(file)):
            logging.config.fileConfig(file, disable_existing_loggers=False)
        else:
            logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, **_dictionary(file)})
    except KeyError as error:  # of an INI file
        raise ConfigurationError(f"--log-config {file} lacks a section or key: {error.args[0]}.") from error
    except Exception as error:  # what the classes that it names make of their arguments
        causes = [str(one) for one in (error, error.__cause__) if one is not None and str(one)]
        raise ConfigurationError(f"--log-config {file} cannot be used: {': '.join(causes)}.") from error


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8", "replace")
    except OSError as error:
        raise ConfigurationError(f"--log-config {file} cannot be read: {error.strerror}.") from error


def _is_ini(text: str) -> bool:
    """Its first line that says something is a section; in YAML that would be a list, which configures nothing."""
    lines = (line.strip() for line in text.splitlines())
    return next((line for line in lines if line and not line.startswith(("#", ";"))), "").startswith("[")


def _dictionary(file: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(_text(file))
    except yaml.YAMLError as error:
        place = f" (line {mark.line + 1})" if (mark := getattr(error, "problem_mark", None)) else ""
        raise ConfigurationError(
            f"--log-config {file} is no YAML{place}: {getattr(error, 'problem', error)}."
        ) from error
    if not isinstance(found, dict) or not isinstance(found.get("root", {}), dict):
        raise ConfigurationError(
            f"--log-config {file} is no configuration of Python's logging: it must be a mapping with formatters, "
            "handlers, loggers and root, or an INI file with such sections."
        )
    return found
