"""Java properties files, as TorchServe's config.properties and its snapshots are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torchserve_lite.errors import ConfigurationError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # some editors put it first; it would become part of the first key
_VARIABLE = re.compile(r"\$\$([^$]+)\$\$")


def read_properties(file: Path) -> dict[str, str]:
    """Key -> value in file order, without blanks around values. A later duplicate wins, as in Java."""
    return dict(_pairs(file))


def repeated_keys(file: Path) -> list[str]:
    """Keys of which more than one line gives a value, and not the same."""
    pairs = _pairs(file)
    properties = dict(pairs)
    return list(dict.fromkeys(key for key, value in pairs if value != properties[key]))


def _pairs(file: Path) -> list[tuple[str, str]]:
    import javaproperties  # here, because a start without a file needs none of it

    try:
        pairs: list[tuple[str, str]] = javaproperties.loads(_content(file), object_pairs_hook=list)
    except ValueError as error:
        raise ConfigurationError(f"{file} is not a valid properties file: {error}") from error
    return [(key, value.strip()) for key, value in pairs]


def _content(file: Path) -> str:
    """In Java's Latin-1, unless it is UTF-8: editors write that today, and other texts are hardly ever valid UTF-8."""
    try:
        content = file.read_bytes().removeprefix(_BYTE_ORDER_MARK)
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    if b"\0" in content:
        raise ConfigurationError(f"{file} is not a text file in UTF-8 (UTF-16, perhaps): save it as UTF-8.")
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def properties_text(properties: Mapping[str, str], comment: str) -> str:
    """As Java's ``Properties.store`` writes them, the time in a second comment: ASCII, whatever they hold."""
    import javaproperties

    return str(javaproperties.dumps(properties, comments=comment, timestamp=True))


def with_variables(properties: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """The same properties with ``$$VAR$$`` replaced by the environment variable's value."""
    return {key: _substituted(key, value, environ) for key, value in properties.items()}


def _substituted(key: str, value: str, environ: Mapping[str, str]) -> str:
    def variable(match: re.Match[str]) -> str:
        name = match[1]
        if name not in environ:
            raise ConfigurationError(
                f"{key}: Invalid Environment Variable {name}: it is not set, so $${name}$$ has no value. "
                "Set the variable or write the value into the file."
            )
        return environ[name]

    return _VARIABLE.sub(variable, value)
