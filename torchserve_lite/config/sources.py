"""Collects what was configured, with its place of origin: file, then command line, then environment; later wins. In a
pod of KServe some of what nobody has said has defaults of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchserve_lite.config.keys import KEYS, Key, Support
from torchserve_lite.config.kserve import kserve_defaults
from torchserve_lite.config.properties import with_variables
from torchserve_lite.config.snapshots import ConfigurationFile
from torchserve_lite.config.values import Unacceptable, boolean
from torchserve_lite.errors import ConfigurationError

_LONGEST_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Setting:
    """The text somebody gave a property; ``source`` is where, in words for a message, and ``origin`` which of
    "file", "command line", "environment" and "KServe" (its pods' defaults) that is."""

    name: str
    text: str
    source: str
    origin: str = "file"

    @property
    def key(self) -> Key | None:
        return KEYS.get(self.name)

    @property
    def place(self) -> str:
        """The file, or the flag or variable behind the origin's name."""
        return self.source.removeprefix(f"{self.origin}, ")

    @property
    def value(self) -> Any:
        """The text as its key's parser reads it. An empty text means: the default, whatever was said elsewhere."""
        key = KEYS[self.name]
        if not self.text:
            return key.default_value
        try:
            return key.parse(self.text)
        except Unacceptable as error:
            hint = "; a comment needs a line of its own" if " #" in self.text else ""
            raise ConfigurationError(f"{self.name}={self._shown()} ({self.source}): {error}{hint}") from error

    def _shown(self) -> str:
        text = " ".join(self.text.split())
        return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


Settings = dict[str, Setting]


def find_config_file(given: Path | None, environ: Mapping[str, str], folder: Path = Path()) -> Path | None:
    """``TS_CONFIG_FILE``, else ``--ts-config``, else ``config.properties`` in ``folder``, else none."""
    named = Path(environ["TS_CONFIG_FILE"]) if environ.get("TS_CONFIG_FILE") else given
    file = folder / "config.properties" if named is None else named
    if named is None and not os.path.lexists(file):
        return None
    place = "TS_CONFIG_FILE" if environ.get("TS_CONFIG_FILE") else "--ts-config" if given else "configuration"
    if os.path.isdir(file):  # what a container gets for a file that could not be mounted
        raise ConfigurationError(f"{place} file {file} is a folder. Name the file itself.")
    if not os.path.isfile(file):  # by os.path, which takes whatever cannot be looked at for no file
        raise ConfigurationError(f"{place} file not found: {file}")
    return file


def gather_settings(file: Path | None, command_line: Mapping[str, str], environ: Mapping[str, str]) -> Settings:
    read = ConfigurationFile.read(file)
    settings = {
        name: Setting(name, text, str(place))
        for place, texts in ((file, read.properties), (read.original, read.fresh))
        for name, text in with_variables(texts, environ).items()
    }
    open_to_urls = _is_on(settings, "use_env_allowed_urls")
    for name, text in command_line.items():
        settings[name] = Setting(name, text.strip(), f"command line, {KEYS[name].flag}", "command line")
    switch = KEYS["enable_envvars_config"]
    if environ.get(switch.variable) and switch.name not in settings:  # a file that forbids it is obeyed
        text = environ[switch.variable].strip()
        settings[switch.name] = Setting(switch.name, text, f"environment, {switch.variable}", "environment")
    if _is_on(settings, switch.name):
        for key in KEYS.values():
            variable = next((name for name in key.variables if name in environ), None)
            if variable and key != switch and (key.name != "allowed_urls" or open_to_urls):
                text = environ[variable].strip()
                settings[key.name] = Setting(key.name, text, f"environment, {variable}", "environment")
    if "metrics_mode" not in settings and "metrics_format" in settings:
        # TorchServe's old name of it, which KServe's guide still writes.
        settings["metrics_mode"] = settings["metrics_format"]
    kserve = settings["kserve"].value if "kserve" in settings else KEYS["kserve"].default_value
    for name, (text, reason) in kserve_defaults(kserve, environ).items():
        settings.setdefault(name, Setting(name, text, f"KServe, {reason}", "KServe"))
    return settings


def unread_variables(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    """Variables that would configure something if ``enable_envvars_config`` were true."""
    if _is_on(settings, "enable_envvars_config"):
        return []
    keys = [key for key in KEYS.values() if key.support is not Support.NONE and key.name != "enable_envvars_config"]
    return [variable for key in keys for variable in key.variables if environ.get(variable)]


def _is_on(settings: Settings, name: str) -> bool:
    return name in settings and boolean(settings[name].text)
