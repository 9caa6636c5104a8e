"""How many files, sockets and pipes this process may have open: as many as it is allowed to."""

from __future__ import annotations

import logging
import resource
from dataclasses import dataclass

_ENOUGH = 4096  # with fewer, a server of some renown will meet the limit
_KEPT_BACK = 64  # at least, where the limit is small
_MOST = 1024 * 1024  # where there is no hard limit; the kernel's own (fs.nr_open)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DescriptorLimits:
    """``original``: soft and hard limit as the operator set them, which workers are to find; ``usable``: ours now."""

    original: tuple[int, int]
    usable: int

    @property
    def for_clients(self) -> int:
        """A quarter is kept back: a worker has about ten, a restart needs as many again, and files are opened too."""
        return self.usable - max(self.usable // 4, min(_KEPT_BACK, self.usable // 2))

    @property
    def for_grpc(self) -> int:
        """A quarter of those, apart from HTTP's: gRPC counts its own, and its clients send many calls over one."""
        return self.for_clients // 4

    @property
    def for_http(self) -> int:
        return self.for_clients - self.for_grpc


def raise_descriptor_limit() -> DescriptorLimits:
    """Lifts the soft limit to the hard one. The usual soft limit is 1024, which some idle clients fill up.

    It is that low for programs that use select(), which neither asyncio nor uvloop do.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else hard
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        usable = soft if soft != resource.RLIM_INFINITY else _MOST
    else:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            usable = wanted
        except (OSError, ValueError):  # macOS has a limit below its hard limit
            usable = soft
    if usable < _ENOUGH:
        log.warning(
            "Only %d files and connections can be open at once. A higher hard limit lets more clients connect: "
            "ulimit -Hn, LimitNOFILE= of systemd, --ulimit nofile= of docker.",
            usable,
        )
    return DescriptorLimits((soft, hard), usable)
