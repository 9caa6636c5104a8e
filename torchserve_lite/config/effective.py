"""The configuration as it holds: each key with its value and where that was said, for people and programs to read."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from torchserve_lite.config.keys import KEYS, Key, Support
from torchserve_lite.config.meanings import MEANINGS
from torchserve_lite.config.sources import Setting, Settings
from torchserve_lite.config.values import HIDDEN, boolean, inverted, without_credentials
from torchserve_lite.errors import ConfigurationError

_SUPPORT = {Support.NOW: "", Support.LATER: "comes later", Support.NONE: "without effect"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveSetting:
    """``text`` is what may be shown of the value, empty when there is none; ``place`` is the file, flag or variable;
    ``note`` says what will not be as the setting's author may think."""

    name: str
    text: str
    origin: str  # default, KServe, file, command line, environment
    place: str = ""
    note: str = ""
    problem: str = ""
    key: Key | None = None  # None: not known

    @property
    def where(self) -> str:
        return f"{self.origin} ({self.place})" if self.place else self.origin

    @property
    def value(self) -> bool | int | float | str | None:
        """For programs: a switch or number as such, all else as its text."""
        if not self.text:
            return None
        if self.key is None or self.key.secret or self.problem:
            return self.text
        if self.key.parse in (boolean, inverted):
            return boolean(self.text)
        parsed = self.key.parse(self.text)
        return parsed if type(parsed) in (int, float) else self.text

    @property
    def meaning(self) -> str:
        return MEANINGS[self.name] if self.key else ""


def effective_settings(settings: Settings) -> list[EffectiveSetting]:
    """Every key there is, in the table's order; then what was set and is not known, in the file's."""
    known = [_effective(key, settings.get(key.name)) for key in KEYS.values()]
    return known + [_unknown(setting) for setting in settings.values() if setting.key is None]


def nearest_key(name: str) -> str:
    """The key that was meant, in any letters and also by its variable; empty when none is near."""
    spellings = {known.lower(): known for known in KEYS} | {k.variable.lower(): k.name for k in KEYS.values()}
    matches = difflib.get_close_matches(name.lower(), filter(None, spellings), n=1)
    return spellings[matches[0]] if matches else ""


def _effective(key: Key, setting: Setting | None) -> EffectiveSetting:
    if setting is None or not setting.text:
        text = HIDDEN if key.secret and key.default else key.default
        return EffectiveSetting(name=key.name, text=text, origin="default", note=_SUPPORT[key.support], key=key)
    problem = ""
    try:
        _ = setting.value
    except ConfigurationError as error:
        problem = str(error)
    return EffectiveSetting(
        name=key.name,
        text=HIDDEN if key.secret else without_credentials(key.name, setting.text),
        origin=setting.origin,
        place=setting.place,
        note=f"set as {setting.name}" if setting.name != key.name else _SUPPORT[key.support],
        problem=problem,
        key=key,
    )


def _unknown(setting: Setting) -> EffectiveSetting:
    """Its value could be anything, a password that was put under the wrong name among them."""
    nearest = nearest_key(setting.name)
    question = f"; did you mean {nearest}?" if nearest else ""
    return EffectiveSetting(
        name=setting.name, text=HIDDEN, origin=setting.origin, place=setting.place, note=f"not known{question}"
    )
