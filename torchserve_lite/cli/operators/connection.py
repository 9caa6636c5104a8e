"""Which server a command speaks to, and how it proves that it may: addresses, certificates and keys."""

from __future__ import annotations

import argparse
import json
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from torchserve_lite.config.settings import Address
from torchserve_lite.config.sources import find_config_file, gather_settings
from torchserve_lite.errors import ConfigurationError

KEY_FILE = "key_file.json"  # as the server writes it
_BOUND_TO_ALL = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # reached through loopback


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """Which of a server's addresses is meant, and which of its keys opens it."""

    name: str
    url_variable: str
    default: str

    @property
    def setting(self) -> str:
        return f"{self.name}_address"

    @property
    def key_variable(self) -> str:
        return f"TS_{self.name.upper()}_KEY"


MANAGEMENT = Role(name="management", url_variable="TS_URL", default="http://127.0.0.1:8081")
INFERENCE = Role(name="inference", url_variable="TS_INFERENCE_URL", default="http://127.0.0.1:8080")
METRICS = Role(name="metrics", url_variable="TS_METRICS_URL", default="http://127.0.0.1:8082")


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """The key, if there is one. ``looked`` tells of each place what was found there, for a 401."""

    value: str = ""
    looked: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """``url`` is http(s)://host:port, or unix:/path; ``source`` says in words who named it."""

    url: str
    source: str
    key: Key
    certificates: ssl.SSLContext | bool = True  # as aiohttp has it: True stands for the system's, False for none


def add_connection_arguments(parser: argparse.ArgumentParser, role: Role = MANAGEMENT) -> None:
    group = parser.add_argument_group("which server")
    group.add_argument(
        "--url",
        type=_url_argument,
        metavar="URL",
        help=f"{role.name} address: http(s)://host:port or unix:/path; default: {role.url_variable}, else "
        f"{role.setting} of the configuration file, else {role.default}",
    )
    group.add_argument("--ts-config", type=Path, metavar="FILE", help="configuration file; default: config.properties")
    group.add_argument("--cacert", type=Path, metavar="FILE", help="certificate that an https server is checked with")
    group.add_argument("--insecure", action="store_true", help="do not check the certificate of an https server")
    keys = group.add_mutually_exclusive_group()
    keys.add_argument(
        "--key",
        type=_key_argument,
        help=f"{role.name} key; other users of this machine can see it here, so prefer {role.key_variable} or a file",
    )
    keys.add_argument(
        "--key-file",
        type=Path,
        metavar="FILE",
        help=f"key file of the server; default: {role.key_variable}, else key_file.json in this folder or beside the "
        "configuration file",
    )


def find_connection(arguments: argparse.Namespace, environ: Mapping[str, str], role: Role = MANAGEMENT) -> Connection:
    file = find_config_file(arguments.ts_config, environ)
    url, source = _address(arguments, environ, file, role)
    key = _key(arguments, environ, file, url, role)
    return Connection(url=url, source=source, key=key, certificates=_certificates(arguments, url))


def server_url(text: str) -> str:
    """``text`` in the one form that a request's path can be put behind. ValueError says what would be accepted."""
    if text.startswith("unix:/"):
        return text
    url = urlsplit(text)
    usable = url.scheme in ("http", "https") and url.hostname and not (url.query or url.fragment or url.username)
    if not usable or url.port == 0:
        raise ValueError(f"{text!r} is no address of a server; expected http(s)://host:port or unix:/path")
    return text.rstrip("/")


def _url_argument(text: str) -> str:
    try:
        return server_url(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _key_argument(text: str) -> str:
    try:
        return _usable(text, "--key")
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _address(
    arguments: argparse.Namespace, environ: Mapping[str, str], file: Path | None, role: Role
) -> tuple[str, str]:
    if arguments.url:
        return arguments.url, "--url"
    if environ.get(role.url_variable):
        try:
            return server_url(environ[role.url_variable]), role.url_variable
        except ValueError as error:
            raise ConfigurationError(f"{role.url_variable}: {error}") from error
    setting = gather_settings(file, {}, environ).get(role.setting)
    if setting is None:
        return role.default, "the default"
    address: Address = setting.value
    if not address.path and address.port == 0:
        raise ConfigurationError(
            f"{role.setting}={address} ({setting.source}) leaves the port to the server; name the address that it "
            "printed when it started with --url."
        )
    reached = Address(_BOUND_TO_ALL.get(address.host, address.host), address.port, address.tls, address.path)
    return str(reached), f"{role.setting}, {setting.source}"


def _certificates(arguments: argparse.Namespace, url: str) -> ssl.SSLContext | bool:
    if not url.startswith("https:"):
        return True
    if arguments.insecure:
        return False
    try:
        return ssl.create_default_context(cafile=arguments.cacert)
    except OSError as error:  # ssl.SSLError, for a file that holds no certificate, is one
        reason = error.strerror if not isinstance(error, ssl.SSLError) else "it holds no certificate in PEM form"
        raise ConfigurationError(f"--cacert {arguments.cacert} cannot be used: {reason}.") from error


def _key(arguments: argparse.Namespace, environ: Mapping[str, str], file: Path | None, url: str, role: Role) -> Key:
    if arguments.key:
        return Key(value=arguments.key, looked=["--key was sent"])
    if arguments.key_file:
        value, found = _key_of_file(arguments.key_file, role)
        if not value:
            raise ConfigurationError(f"--key-file {found}.")
        return Key(value=value, looked=[found])
    variable = role.key_variable
    if environ.get(variable):
        return Key(value=_usable(environ[variable], variable), looked=[f"{variable} was sent"])
    looked = [f"{variable} is not set"]
    if (arguments.url or environ.get(role.url_variable)) and not _is_this_machine(url):
        looked.append(f"{KEY_FILE} is not sent to another machine unless --key-file names it")
        return Key(looked=looked)
    for path in _key_files(file):
        value, found = _key_of_file(path, role)
        looked.append(found)
        if value:
            return Key(value=value, looked=looked)
    return Key(looked=looked)


def _is_this_machine(url: str) -> bool:
    """A key that was found, and not named, must not go to whoever the URL happens to lead to."""
    host = urlsplit(url).hostname
    if host is None or host == "localhost":
        return True  # a unix socket has no host
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _key_files(file: Path | None) -> Iterator[Path]:
    yield Path.cwd() / KEY_FILE
    if file and file.absolute().parent != Path.cwd():
        yield file.absolute().parent / KEY_FILE


def _key_of_file(path: Path, role: Role) -> tuple[str, str]:
    """The key of this role in a file, and in words what was found there."""
    try:
        entry = json.loads(path.read_text())[role.name]
        key = _usable(entry["key"], str(path))
    except FileNotFoundError:
        return "", f"{path} does not exist"
    except OSError as error:
        return "", f"{path} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError, ConfigurationError):
        return "", f"{path} holds no {role.name} key"
    return key, f"the key in {path} was sent{_expiry(entry, role)}"


def _expiry(entry: Mapping[str, str], role: Role) -> str:
    """When a key of a key file ends, as the end of a sentence."""
    try:
        expires = datetime.fromisoformat(entry["expiration time"])
        if expires > datetime.now(UTC):
            return f" (it expires at {expires:%Y-%m-%d %H:%M} UTC)"
        return (
            f", which expired at {expires:%Y-%m-%d %H:%M} UTC; whoever calls /token?type={role.name} with the API "
            "key of that file gets a new one into it"
        )
    except (KeyError, TypeError, ValueError):  # it has none, or one that only its server understands
        return ""


def _usable(key: str, place: str) -> str:
    """A key is the end of one header line."""
    key = key.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigurationError(f"{place} holds no key: it is one word of ASCII characters.")
    return key
