"""Who may pass: a guard for each listener, who asks for tokens; where none are needed, it keeps web pages from making
calls in the operator's name."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from aiohttp import web

from torchserve_lite.config.settings import Address, HttpConfig
from torchserve_lite.errors import Forbidden, HostNotAllowed, OriginNotAllowed, ServingError
from torchserve_lite.management.access import Access, Door
from torchserve_lite.protocols.http.requests import READ, header

KSERVE = "kserve"
"""The role of the listener that KServe sends requests to: inference, and whatever else its clients call."""


class Guard:
    """``roles``: what is served at ``address``."""

    def __init__(self, access: Access, config: HttpConfig, address: Address, roles: Collection[str]) -> None:
        self._access = access
        self.open = not access.tokens  # to inference without a key
        self._shared = "inference" in roles and "management" in roles
        self._origins = Origins(config, address)
        # The door of what is no route: nobody without a key learns which routes there are.
        infers = "inference" in roles or KSERVE in roles
        self.elsewhere = Door.INFERENCE if infers else Door.MANAGEMENT if "management" in roles else Door.OPEN

    def watches(self, door: Door) -> bool:
        """``check`` could refuse somebody there."""
        return door is Door.MANAGEMENT or (door is not Door.OPEN and self._access.tokens)

    def refusals(self, door: Door, methods: Iterable[str], *, private: bool) -> tuple[type[ServingError], ...]:
        """What ``check`` may raise."""
        if self._access.tokens:
            return () if door is Door.OPEN else (self._access.refusal,)
        return (Forbidden,) if door is Door.MANAGEMENT and (private or set(methods) - set(READ)) else ()

    def check(self, request: web.Request, door: Door, *, private: bool) -> None:
        """``private``: pages of other sites may not even read it."""
        if self._access.tokens:
            self._access.check(door, header(request, "Authorization"), shared=self._shared)
        elif door is Door.MANAGEMENT and (private or request.method not in READ):
            self._origins.check(request)

    def admits(self, authorization: str) -> bool:
        """A plain inference request."""
        return self._access.admits(Door.INFERENCE, authorization, shared=self._shared)


class Origins:
    """Tells whether a call may come from a page of another site, which a browser on the operator's machine shows.

    Such a page can send a form to an address that only the operator reaches; then the browser names the page's site in
    ``Origin``. Or the page's own name leads to that address (DNS rebinding); then ``Host`` has that name, which cannot
    be an IP address. Programs other than browsers are not misled. So a listener that only this machine reaches is to be
    called by a name of this machine or a configured one. One that others reach has names that we cannot know (that of a
    Service in Kubernetes, or a gateway's): there, only calls from browsers must have a known one.
    """

    def __init__(self, config: HttpConfig, address: Address) -> None:
        self._address = address
        self._names = config.management_hosts
        self._origin_of_cors = config.cors.get("access-control-allow-origin", "").lower()

    def check(self, request: web.Request) -> None:
        if self._address.path:
            return  # no browser speaks to a unix socket
        host, origin = header(request, "Host").lower(), header(request, "Origin").lower()
        site = header(request, "Sec-Fetch-Site").lower()
        if origin and (origin == self._origin_of_cors or self._is_configured(_name(_authority(origin)))):
            return
        if site == "cross-site" or (origin and _authority(origin) != _without_default_port(host)):
            raise OriginNotAllowed(origin)
        from_a_browser = origin or site or header(request, "User-Agent").startswith("Mozilla/")
        if (self._address.is_local or from_a_browser) and not self._is_known(_name(host)):
            raise HostNotAllowed(host)

    def _is_known(self, name: str) -> bool:
        if name in ("localhost", self._address.host.lower()) or name.endswith(".localhost"):
            return True
        return _is_ip_address(name) or self._is_configured(name)

    def _is_configured(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self._names)


def _authority(origin: str) -> str:
    """Host and port; empty for ``null``, which stands for a site that is kept secret."""
    try:
        return _without_default_port(urlsplit(origin).netloc)
    except ValueError:
        return ""


def _without_default_port(host: str) -> str:
    return host.removesuffix(":80").removesuffix(":443")


def _name(host: str) -> str:
    """Without the port, and the brackets of IPv6."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")


def _is_ip_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
