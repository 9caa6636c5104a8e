"""Turns everything the server was told into one frozen ``Config``."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torchserve_lite.config.contradictions import check_contradictions
from torchserve_lite.config.keys import KEYS
from torchserve_lite.config.metrics_file import Definitions, read_metrics_file, unknown_server_metrics
from torchserve_lite.config.notices import notices
from torchserve_lite.config.properties import repeated_keys
from torchserve_lite.config.settings import (
    AccessConfig,
    Config,
    DownloadConfig,
    GrpcConfig,
    HttpConfig,
    LogConfig,
    MetricsConfig,
    ModelsConfig,
    S3Credentials,
    ServiceManagerConfig,
    SnapshotConfig,
    TlsConfig,
    TracingConfig,
    WorkerConfig,
)
from torchserve_lite.config.snapshots import ConfigurationFile, kept_properties
from torchserve_lite.config.sources import Settings, gather_settings
from torchserve_lite.config.startup_models import StartupList
from torchserve_lite.config.values import Unacceptable, without_credentials
from torchserve_lite.core.metrics import MODEL_METRICS, SERVER_METRICS
from torchserve_lite.errors import ConfigurationError


def load_config(file: Path | None, command_line: Mapping[str, str], environ: Mapping[str, str]) -> Config:
    """``file`` is read as it is, None means no file (``find_config_file`` knows where to look). ``command_line`` has
    property names as keys; of ``environ`` only what ``enable_envvars_config`` allows is read."""
    settings = gather_settings(file, command_line, environ)
    values = {name: setting.value for name, setting in settings.items() if setting.key}
    check_contradictions(settings)
    pieces = _pieces(values)
    if values.get("debug") and not values.get("worker_launcher"):
        pieces["workers"]["launcher"] = "inline"  # TorchServe waits for a worker that is started by hand
    if (kserve := pieces["http"].get("kserve")) is not None and not kserve.path:
        pieces["grpc"]["kserve_host"] = kserve.host
    read = ConfigurationFile.read(file)
    models = _models(values, pieces["models"], read.original)
    server_metrics, model_metrics = _metrics(settings, read.original)
    metrics = MetricsConfig(**pieces["metrics"], server_metrics=server_metrics, model_metrics=model_metrics)
    lines = [*_repeated(file), *notices(settings, environ), *unknown_server_metrics(server_metrics)]
    return Config(
        http=HttpConfig(**pieces["http"]),
        grpc=GrpcConfig(**pieces["grpc"]),
        access=AccessConfig(**pieces["access"]),
        tls=_tls(pieces["tls"], file),
        workers=WorkerConfig(
            **pieces["workers"],
            # Variables of CUDA and OpenMP that every program obeys, whether or not ours may be read.
            visible_gpus=environ.get("CUDA_VISIBLE_DEVICES"),
            whole_tracebacks=pieces["logs"].get("level") == "debug",
            share_threads=not environ.get("OMP_NUM_THREADS"),
            model_metrics=model_metrics,
        ),
        models=models,
        downloads=DownloadConfig(**pieces["downloads"], s3=_s3_credentials(environ)),
        metrics=metrics,
        snapshots=_snapshots(values, kept_properties(read, command_line), models, environ),
        logs=LogConfig(
            folder=log_folder(environ),
            metrics_folder=None if metrics.mode == "prometheus" else Path(environ.get("METRICS_LOCATION") or "logs"),
            **pieces["logs"],
        ),
        tracing=_tracing(pieces["tracing"], environ),
        service_manager=_service_manager(environ),
        source=file,
        notices=tuple(lines),
        # Nothing secret is kept, and nothing unknown, since that could be anything.
        values={name: setting.text for name, setting in settings.items() if setting.key and not setting.key.secret},
        sources={name: setting.source for name, setting in settings.items() if setting.key},
    )


def _service_manager(environ: Mapping[str, str]) -> ServiceManagerConfig:
    """As sd_notify(3) and sd_watchdog_enabled(3) describe it. ``WATCHDOG_PID`` says whose the watchdog is: it may be
    that of a program that has started us."""
    microseconds = environ.get("WATCHDOG_USEC", "")
    is_ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    watchdog = int(microseconds) / 1e6 if is_ours and microseconds.isdecimal() else 0
    return ServiceManagerConfig(address=environ.get("NOTIFY_SOCKET", ""), watchdog=watchdog or None)


def _repeated(file: Path | None) -> Iterator[str]:
    if file is not None and (keys := repeated_keys(file)):
        yield f"{file} says more than one thing about {', '.join(keys)}; the last one counts."


def _snapshots(
    values: Mapping[str, Any], kept: Mapping[str, str], models: ModelsConfig, environ: Mapping[str, str]
) -> SnapshotConfig | None:
    if values.get("config_snapshots") is False:
        return None
    store = {"model_store": str(models.store)} if models.store else {}  # wherever the next start is made
    return SnapshotConfig(folder=snapshot_folder(environ), properties={**kept, **store})


def snapshot_folder(environ: Mapping[str, str]) -> Path:
    return log_folder(environ) / "config"


def log_folder(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("LOG_LOCATION") or "logs")


def _tracing(piece: Mapping[str, Any], environ: Mapping[str, str]) -> TracingConfig:
    """OpenTelemetry's variables are what every program obeys that it is in."""
    endpoint = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    return TracingConfig(
        **piece,
        sampler_chosen=bool(environ.get("OTEL_TRACES_SAMPLER")),
        delay_chosen=bool(environ.get("OTEL_BSP_SCHEDULE_DELAY")),
        disabled=environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true",
        protocol=environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "",
        endpoint=without_credentials("", endpoint) if endpoint else TracingConfig().endpoint,
    )


def _s3_credentials(environ: Mapping[str, str]) -> S3Credentials | None:
    """AWS's own variables, as TorchServe reads them; they are no properties, so nothing has to allow them."""
    access_key, secret_key = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    if not access_key or not secret_key:
        return None
    return S3Credentials(
        access_key=access_key,
        secret_key=secret_key,
        session_token=environ.get("AWS_SESSION_TOKEN", ""),
        region=environ.get("AWS_DEFAULT_REGION") or environ.get("AWS_REGION") or "us-east-1",
    )


def _pieces(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The keyword arguments of each piece of ``Config``, as the table's targets distribute them."""
    pieces: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, value in values.items():
        target = KEYS[name].target
        if not target or value is None:
            continue
        piece, field, *entry = target.split(".")
        if entry:
            pieces[piece].setdefault(field, {})[entry[0]] = value
        else:
            pieces[piece][field] = value
    return pieces


def _models(values: Mapping[str, Any], piece: dict[str, Any], file: Path | None) -> ModelsConfig:
    startup: StartupList = values.get("model_snapshot") or values.get("load_models") or StartupList()
    for folder in piece.keys() & {"store", "workflow_store"}:
        piece[folder] = _found(piece[folder], file)
    return ModelsConfig(load_all=startup.load_all, startup=startup.models, **piece)


def _tls(piece: dict[str, Any], file: Path | None) -> TlsConfig:
    files = {name: _found(value, file) for name, value in piece.items() if isinstance(value, Path)}
    return TlsConfig(**(piece | files))


def _metrics(settings: Settings, file: Path | None) -> tuple[Definitions, Definitions]:
    """Metrics of the server and of handlers: as ``metrics_config`` defines them, else those built in."""
    setting = settings.get("metrics_config")
    if setting is None or not setting.text:
        return SERVER_METRICS, MODEL_METRICS
    path = _found(setting.value, file)
    try:
        return read_metrics_file(path)
    except Unacceptable as error:
        raise ConfigurationError(f"metrics_config={path} ({setting.source}): {error}") from error


def _found(path: Path, file: Path | None) -> Path:
    """A relative path starts at the current folder, as with TorchServe; when it leads nowhere, at the file's."""
    beside_file = file.absolute().parent / path if file else path
    leads_nowhere = not os.path.exists(path) and os.path.exists(beside_file)
    return beside_file if leads_nowhere else path.absolute()
