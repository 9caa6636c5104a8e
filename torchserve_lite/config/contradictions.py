"""Settings that are right each by itself and cannot hold together. Each error names both, with their places."""

from __future__ import annotations

from itertools import combinations

from torchserve_lite.config.keys import KEYS
from torchserve_lite.config.settings import Address
from torchserve_lite.config.sources import Setting, Settings
from torchserve_lite.errors import ConfigurationError

_ADDRESSES = ("inference_address", "management_address", "metrics_address")
_THIS_HOST = {"localhost", "127.0.0.1", "::1"}


def check_contradictions(settings: Settings) -> None:
    """ConfigurationError for the first one. Every value has been read before."""
    _check_addresses(settings)


def _check_addresses(settings: Settings) -> None:
    """Equal addresses share a listener, other hosts may have the same port; what remains would fail while it binds,
    where one of the two is named."""
    said = [settings.get(name) or Setting(name, KEYS[name].default, "default", "default") for name in _ADDRESSES]
    for one, other in combinations(said, 2):
        if other.name == "metrics_address" and not _metrics_served(settings):
            continue
        first, second = one.value, other.value
        if first == second or first.path or second.path or not first.port or first.port != second.port:
            continue
        if first.host == second.host:
            raise _cannot_both(one, other, "one port speaks either http or https. Give both the same, or two ports")
        if _overlap(first, second):
            raise _cannot_both(one, other, "both want the same port. Give both the same host, or two ports")


def _metrics_served(settings: Settings) -> bool:
    setting = settings.get("enable_metrics_api")
    return setting is None or setting.value is not False


def _overlap(first: Address, second: Address) -> bool:
    """``::`` is every address of IPv6 alone: listeners are opened with IPV6_V6ONLY. localhost is of both kinds."""
    hosts = {first.host, second.host}
    if "localhost" in hosts and hosts <= _THIS_HOST:
        return True
    of_ipv6 = {host for host in hosts if ":" in host}
    return ("0.0.0.0" in hosts and not of_ipv6) or ("::" in hosts and (hosts - of_ipv6) <= {"localhost"})


def _cannot_both(one: Setting, other: Setting, why: str) -> ConfigurationError:
    said = " and ".join(f"{setting.name}={setting.value} ({setting.source})" for setting in (one, other))
    return ConfigurationError(f"{said} cannot both hold: {why}.")
