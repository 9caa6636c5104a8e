"""config.properties of any content: a Config, or one ConfigurationError."""

from __future__ import annotations

import tempfile
from pathlib import Path

import javaproperties

from tests.fuzz.target import Choices, Target
from torchserve_lite.config.keys import KEYS
from torchserve_lite.config.loading import load_config
from torchserve_lite.config.properties import read_properties
from torchserve_lite.errors import ConfigurationError

_FOLDER = tempfile.TemporaryDirectory(prefix="fuzz-properties-")
_FILE = Path(_FOLDER.name, "config.properties")
_ENVIRON = {
    "HOST": "127.0.0.1",
    "ODD": "\udcff\n$$HOST$$",
    "TS_JOB_QUEUE_SIZE": "7",
    "TS_LOAD_MODELS": "all",
    "TS_ALLOWED_URLS": "x",
}
_GUIDE = Path(__file__).parents[1] / "unit" / "config" / "guide.properties"
_VALUES = (
    "true", "0", "-1", "1", "99999999999999999999", "1e3", "٣", "all", "a=b.mar,c", "http://[::1]:80", "http://[",
    "http://h:99999", "unix:/a\0b", "unix:/" + "x" * 200, "https://h", "(a+)+$", "(?P<", "{}", "[" * 5000, '{"a":{}}',
    '{"modelCount":1e400,"models":{"m":{"1.0":{"minWorkers":1e400}}}}', '{"models":{"m":{"1.0":{"marName":7}}}}',
    '{"models":{"m":{"":{"minWorkers":"9","maxWorkers":2147483648}}}}', "$$HOST$$", "$$ODD$$", "$$NONE$$", "\\u0000",
    "\\ud800", "\\uD83D\\uDE00", "\\u12", "\u0085", "\ud800", '{"models":NaN}', "1" * 5000,
    '{"modelCount":' + "1" * 5000 + "}",
)  # fmt: skip


def check(data: bytes) -> None:
    """The first byte chooses: the file's content as it comes, a file made of keys, or a text that must come back."""
    form = Choices(data[:1]).below(3)
    if form == 2:
        _check_round_trip(data[1:])
        return
    _FILE.write_bytes(_made_of_keys(Choices(data[1:])) if form == 1 else data[1:])
    try:
        config = load_config(_FILE, {}, _ENVIRON)
    except ConfigurationError as error:
        assert str(error)
        return
    for text in (*config.notices, *config.values.values(), str(config.http.inference)):
        assert isinstance(text, str)


def _made_of_keys(choices: Choices) -> bytes:
    names = (*KEYS, "unknown", "enable_envvars_config", "use_env_allowed_urls")
    lines = []
    for _ in range(choices.below(8) + 1):
        value = choices.text() if choices.chance() else choices.one_of(_VALUES)
        lines.append(f"{choices.one_of(names)}{choices.one_of('=: ')}{value}{choices.one_of(chr(10) + chr(13))}")
    encoding = choices.one_of(("utf-8", "latin-1", "utf-16"))
    return "".join(lines).encode(encoding, "replace")


def _check_round_trip(data: bytes) -> None:
    choices = Choices(data)
    wanted = {choices.text(): choices.text(40).strip() for _ in range(choices.below(6))}
    _FILE.write_text(javaproperties.dumps(wanted, timestamp=False), "latin-1")
    assert read_properties(_FILE) == wanted


TARGETS = {
    "properties": Target(
        check=check,
        seeds=[
            b"\0" + _GUIDE.read_bytes(),
            b"\0a=1\\\n  2\r\n#c\n!d\nmodels={\\\n}\n",
            *[bytes([1]) + bytes([i % 256, 0, i // 2]) * 9 for i in range(0, 200, 17)],
            b"\2\4\3a b\x05x = y",
        ],
        words=[name.encode() for name in KEYS] + [value.encode("utf-8", "replace")[:60] for value in _VALUES],
    )
}
