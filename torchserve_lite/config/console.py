"""Whether the web console is served."""

from __future__ import annotations

from torchserve_lite.config.settings import HttpConfig


def why_closed(config: HttpConfig, *, tokens: bool) -> str:
    """Why there is no console, and how to get one; empty when there is."""
    if config.console == "off":
        return "The web console is switched off (console=off in the configuration). console=auto switches it on."
    if config.console == "auto" and not tokens and not config.management.is_local:
        return (
            f"The web console is closed: other machines reach management_address={config.management}, and no tokens "
            "are asked for. Switch tokens on (take disable_token_authorization away), or let management listen where "
            f"only this machine reaches it (http://127.0.0.1:{config.management.port}). If a gateway in front of the "
            "server asks who comes, console=on opens it as it is."
        )
    return ""
