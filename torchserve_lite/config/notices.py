"""The lines that the start-up display shows about a configuration: what will not be as its author may think."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torchserve_lite.config.effective import nearest_key
from torchserve_lite.config.keys import KEYS, Key, Support
from torchserve_lite.config.settings import Address
from torchserve_lite.config.snapshots import snapshot_warnings
from torchserve_lite.config.sources import Setting, Settings, unread_variables
from torchserve_lite.config.values import boolean, inverted

_ADDRESSES = ("inference_address", "management_address", "metrics_address")
_CERTIFICATES = ("keystore", "private_key_file", "certificate_file")

_ANYBODYS = "http://some-host-that-nobody-has-named.example/model.mar"


def notices(settings: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    """In an order that depends on the file and the table of keys alone."""
    yield from _unknown_keys(settings)
    for key, setting in _known(settings):
        if key.parse in (boolean, inverted) and setting.text.lower() not in ("", "true", "false"):
            yield f"{key.name}={setting.text} ({setting.source}) counts as false; write true or false."
    yield from _features_to_come(settings)
    yield from _urls(settings)
    yield from _certificates(settings)
    yield from _kserve(settings)
    idle = list(_changed(settings, Support.NONE))
    if names := [key.name for key in idle if not key.instead]:
        yield f"Accepted, but nothing here depends on them: {', '.join(names)}."
    for instead in dict.fromkeys(key.instead for key in idle if key.instead):
        names = [key.name for key in idle if key.instead == instead]
        yield f"Accepted, but without effect: {', '.join(names)}. {instead}."
    if _text(settings, "load_models") and _text(settings, "model_snapshot"):
        unused = settings["load_models"]
        yield f"load_models={unused.text} ({unused.source}) is not used: model_snapshot says which models to load."
    yield from _overruled(settings)
    if snapshot := _text(settings, "model_snapshot"):
        yield from snapshot_warnings(snapshot)
    if variables := unread_variables(settings, environ):
        yield (
            f"{', '.join(variables)} in the environment: not read, "
            "because nothing says enable_envvars_config=true (config.properties, or TS_ENABLE_ENVVARS_CONFIG)."
        )
    tokens = settings.get("disable_token_authorization")
    guarded = tokens is not None and tokens.origin == "KServe"  # by the platform
    for name in () if guarded else ("management_address", "grpc_management_address"):
        said = _value(settings, name)
        is_local = (said if isinstance(said, Address) else Address(host=said)).is_local
        if not is_local and not _value(settings, "disable_token_authorization"):
            yield (
                f"{name}={said} can be reached from other machines, and clients need no token: whoever "
                "reaches it can change what is served. Name 127.0.0.1 there, let a gateway decide who gets through, or "
                "set disable_token_authorization=false."
            )


def _unknown_keys(settings: Settings) -> Iterator[str]:
    for setting in settings.values():
        if setting.key is None:
            nearest = nearest_key(setting.name)
            question = f" Did you mean {nearest}?" if nearest else ""
            yield f"{setting.name} ({setting.source}) is not a known setting and is ignored.{question}"


def _urls(settings: Settings) -> Iterator[str]:
    setting = settings.get("allowed_urls")
    if setting is None or not setting.value:
        if boolean(_text(settings, "enable_model_api")):
            yield "allowed_urls is not set: models are registered from the model store only, not from URLs."
    elif any(pattern.fullmatch(_ANYBODYS) for pattern in setting.value):
        yield (
            f"allowed_urls={setting.text} ({setting.source}) allows any host: whoever may register a model can then "
            "have anybody's code run here. Name the hosts that archives come from."
        )


def _features_to_come(settings: Settings) -> Iterator[str]:
    names: dict[str, list[str]] = {}
    for key in _changed(settings, Support.LATER):
        names.setdefault(key.feature, []).append(key.name)
    for feature, keys in names.items():
        yield f"{feature}: comes later; without effect until then: {', '.join(keys)}."


def _overruled(settings: Settings) -> Iterator[str]:
    """Settings beside which another one does not count."""
    grace, linger = settings.get("shutdown_grace_seconds"), settings.get("shutdown_linger_seconds")
    if grace and linger and grace.value < linger.value:
        yield (
            f"{linger.name}={linger.text} ({linger.source}) is more than {grace.name}={grace.text}: "
            "a stop takes no longer than the latter."
        )
    python, launcher = _text(settings, "python"), _text(settings, "worker_launcher")
    if python and launcher == "inline":
        yield f"python={python} is not used: worker_launcher=inline runs handlers inside the server."
    elif python and launcher in ("forked", "shared"):
        yield f"worker_launcher={launcher} is not used: python={python} starts workers by exec."


def _kserve(settings: Settings) -> Iterator[str]:
    """What a file that is right for TorchServe's image has to change, to be right for KServe."""
    wanted = {}
    if address := _value(settings, "kserve_address"):
        wanted[address.port] = "requests"
    if grpc_port := _value(settings, "kserve_grpc_port"):
        wanted[grpc_port] = "gRPC calls"
    for name in (*_ADDRESSES, "grpc_inference_port", "grpc_management_port"):
        value = _value(settings, name)
        port = value.port if isinstance(value, Address) else value
        if port and (kind := wanted.get(port)):
            better = "http://0.0.0.0:8085" if name in _ADDRESSES else KEYS[name].default
            yield (
                f"{name}={value} has the port that KServe sends {kind} to, and has it before the models are loaded. "
                f"Write {name}={better}: KServe's own port is opened by itself."
            )
    if wanted and not _text(settings, "model_snapshot") and not _text(settings, "load_models"):
        yield (
            "Neither model_snapshot nor load_models names a model, so none is served until a call loads one. "
            "Write load_models=all to serve whatever is in the model store."
        )


def _certificates(settings: Settings) -> Iterator[str]:
    addresses = [settings[name] for name in _ADDRESSES if name in settings]
    encrypted = [address for address in addresses if address.value.tls]
    if _value(settings, "enable_grpc_ssl"):
        encrypted.append(settings["enable_grpc_ssl"])
    files = [name for name in _CERTIFICATES if _text(settings, name)]
    if encrypted and not files:
        first = encrypted[0]
        yield (
            f"{first.name}={first.text}: neither certificate_file nor keystore is set, so clients are shown a "
            "self-signed certificate, another one after each start. That is for trying things out (curl -k)."
        )
    elif files and not encrypted:
        yield (
            f"{', '.join(files)}: without effect, because no address begins with https:// and "
            "enable_grpc_ssl is not true."
        )
    elif files[:1] == ["keystore"] and len(files) > 1:
        yield f"{', '.join(files[1:])}: without effect, because keystore is set and goes before."


def _text(settings: Settings, name: str) -> str:
    return settings[name].text if name in settings else ""


def _value(settings: Settings, name: str) -> Any:
    """What holds in the end."""
    return settings[name].value if name in settings else KEYS[name].default_value


def _known(settings: Settings) -> Iterator[tuple[Key, Setting]]:
    """In the table's order."""
    for key in KEYS.values():
        if key.name in settings:
            yield key, settings[key.name]


def _changed(settings: Settings, support: Support) -> Iterator[Key]:
    for key, setting in _known(settings):
        if key.support is support and setting.value != key.default_value:
            yield key
