"""Java's properties grammar, and variables inside values."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchserve_lite.config.properties import read_properties, with_variables
from torchserve_lite.errors import ConfigurationError


def _read(folder: Path, content: bytes) -> dict[str, str]:
    file = folder / "config.properties"
    file.write_bytes(content)
    return read_properties(file)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"a=b", {"a": "b"}, id="equals sign"),
        pytest.param(b"a : b", {"a": "b"}, id="colon"),
        pytest.param(b"a b c", {"a": "b c"}, id="blank"),
        pytest.param(b"a=http\\://x\\=y", {"a": "http://x=y"}, id="escaped separators"),
        pytest.param(b"a=b\\\n    c\n", {"a": "bc"}, id="continued line"),
        pytest.param(b"a=\\u00e9\\tb", {"a": "é\tb"}, id="escapes"),
        pytest.param(b"a=\xe9", {"a": "é"}, id="Latin-1"),
        pytest.param(b"a=\xc3\xa9 \xe6\x97\xa5", {"a": "é 日"}, id="UTF-8"),
        pytest.param(b"a=\xc3\xa9 \xe9", {"a": "Ã© é"}, id="Latin-1 that looks like UTF-8 for a while"),
        pytest.param(b"# x=y\n! z=1\na=b # c", {"a": "b # c"}, id="comments"),
        pytest.param(b"a=1\na=2", {"a": "2"}, id="later duplicate wins"),
        pytest.param(b"a=true  \r\nb=1", {"a": "true", "b": "1"}, id="blanks and CRLF at the end"),
        pytest.param(b"\xef\xbb\xbfa=b", {"a": "b"}, id="byte order mark"),
        pytest.param(b"a\nb=", {"a": "", "b": ""}, id="no value"),
    ],
)
def test_properties_are_read_as_java_does(tmp_path: Path, content: bytes, expected: dict[str, str]) -> None:
    assert _read(tmp_path, content) == expected


def test_broken_escape_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"config\.properties is not a valid properties file"):
        _read(tmp_path, b"a=\\u12")


@pytest.mark.parametrize(
    "content", ["a=b\n".encode("utf-16"), b"a=b\0", b"\x7fELF\0"], ids=["UTF-16", "NUL", "program"]
)
def test_file_that_is_no_text_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigurationError, match=r"config.properties is not a text file in UTF-8"):
        _read(tmp_path, content)


def test_unreadable_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_properties(tmp_path)


def test_variables_are_replaced_inside_values() -> None:
    properties = with_variables({"a": "$$HOST$$:$$PORT$$", "b": "$5 $$"}, {"HOST": "h", "PORT": "1"})
    assert properties == {"a": "h:1", "b": "$5 $$"}


def test_unset_variable_is_an_error_that_names_key_and_variable() -> None:
    with pytest.raises(ConfigurationError, match=r"model_store: Invalid Environment Variable STORE") as error:
        with_variables({"model_store": "$$STORE$$/x"}, {})
    assert "Set the variable" in str(error.value)
