"""The one table of all configuration keys: how each is read, where it goes, and whether its feature exists yet.

Each row is name, parser, default, target; then the command line flag and the environment variable, where that is not
simply TS_ and the name in capitals.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torchserve_lite.config.startup_models import parse_load_models, parse_model_snapshot, parse_models
from torchserve_lite.config.values import (
    Parser,
    address,
    boolean,
    choice,
    envelope,
    file_mode,
    header_name,
    header_value,
    host,
    host_names,
    integer,
    inverted,
    milliseconds,
    minutes,
    networks,
    number,
    path,
    port,
    regular_expression,
    seconds,
    status,
    text,
    url_patterns,
)


class Support(enum.Enum):
    NOW = "now"
    LATER = "later"  # accepted; a notice says that the feature is still to come
    NONE = "none"  # accepted for the sake of existing files; there is nothing here that it could change


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A property. ``default`` is its text, empty when nothing is set; ``target`` names piece and field of ``Config``.

    ``variable`` and ``flag`` are its names in the environment and on the command line, empty where it has none.
    """

    name: str
    parse: Parser
    default: str = ""
    target: str = ""
    variable: str = ""
    flag: str = ""
    support: Support = Support.NOW
    feature: str = ""  # the words for what comes later
    instead: str = ""  # for a notice of its own: what is done instead of what a key without effect asks for
    secret: bool = False  # never shown, never kept

    @property
    def variables(self) -> tuple[str, ...]:
        """Its names in the environment, strongest first: TorchServe's, and the one that the rule would give it."""
        return tuple(dict.fromkeys((self.variable, f"TS_{self.name.upper()}"))) if self.variable else ()

    @property
    def default_value(self) -> Any:
        return self.parse(self.default) if self.default else None


def _key(
    name: str,
    parse: Parser = text,
    default: str = "",
    target: str = "",
    *,
    flag: str = "",
    variable: str | None = None,
    secret: bool = False,
) -> Key:
    variable = f"TS_{name.upper()}" if variable is None else variable
    return Key(name=name, parse=parse, default=default, target=target, flag=flag, variable=variable, secret=secret)


def _later(feature: str, *keys: Key) -> Iterator[Key]:
    return (replace(key, support=Support.LATER, feature=feature) for key in keys)


def _no_effect(*keys: Key, instead: str = "") -> Iterator[Key]:
    return (replace(key, support=Support.NONE, instead=instead) for key in keys)


_FILE_ONLY = ""
_METRICS_MODE = choice("prometheus", "log", "legacy")

_TABLE = (
    # Where the server listens
    _key("inference_address", address(80, 443), "http://127.0.0.1:8080", "http.inference"),
    _key("management_address", address(8081, 8444), "http://127.0.0.1:8081", "http.management"),
    _key("metrics_address", address(8082, 8445), "http://127.0.0.1:8082", "http.metrics"),
    _key("max_request_size", integer(1), "6553500", "http.max_request_size"),
    _key("http_fast_path", boolean, "true", "http.fast_path"),
    _key("server_timing", boolean, "true", "http.server_timing"),
    _key("slow_client_seconds", seconds, "30", "http.slow_client_seconds"),
    _key("slow_header_seconds", seconds, "30", "http.slow_header_seconds"),
    _key("slow_client_bytes_per_second", number(), "500", "http.slow_client_rate"),
    _key("sse_heartbeat", number(), "15", "http.sse_heartbeat"),
    _key("cors_allowed_origin", header_value, "", "http.cors.access-control-allow-origin"),
    _key("cors_allowed_methods", header_value, "", "http.cors.access-control-allow-methods"),
    _key("cors_allowed_headers", header_value, "", "http.cors.access-control-allow-headers"),
    _key("shutdown_grace_seconds", number(), "25", "http.shutdown_grace"),
    _key("shutdown_linger_seconds", number(), "1", "http.shutdown_linger"),
    _key("unix_socket_mode", file_mode, "600", "http.unix_socket_mode"),
    # Where gRPC listens
    _key("grpc_inference_address", host, "127.0.0.1", "grpc.inference_host"),
    _key("grpc_management_address", host, "127.0.0.1", "grpc.management_host"),
    _key("grpc_inference_port", port, "7070", "grpc.inference_port"),
    _key("grpc_management_port", port, "7071", "grpc.management_port"),
    _key("grpc_inference_max_connection_age_ms", milliseconds, "", "grpc.inference_max_age"),
    _key("grpc_management_max_connection_age_ms", milliseconds, "", "grpc.management_max_age"),
    _key("grpc_inference_max_connection_age_grace_ms", milliseconds, "", "grpc.inference_max_age_grace"),
    _key("grpc_management_max_connection_age_grace_ms", milliseconds, "", "grpc.management_max_age_grace"),
    _key("enable_grpc_ssl", boolean, "false", "grpc.tls"),
    # Where KServe sends requests. In its pods the two have values: see kserve.py
    _key("kserve", choice("auto", "true", "false"), "auto", flag="--kserve"),
    _key("kserve_address", address(80, 443), "", "http.kserve"),
    _key("kserve_grpc_port", port, "", "grpc.kserve_port"),
    _key("cloud_event_type", header_value, "io.kserve.inference.response", "http.event_type"),
    _key("cloud_event_source", header_value, "", "http.event_source"),
    _key("cloud_event_merge", boolean, "false", "http.event_merge"),
    # The certificate of https:// addresses
    _key("keystore", path, "", "tls.keystore"),
    _key("keystore_pass", text, "changeit", "tls.keystore_password", secret=True),
    _key("keystore_type", text, "PKCS12"),  # the file itself says what it is
    _key("private_key_file", path, "", "tls.private_key"),
    _key("private_key_pass", text, "", "tls.private_key_password", secret=True),
    _key("certificate_file", path, "", "tls.certificate"),
    _key("client_ca_file", path, "", "tls.client_ca"),
    # Which models are served from the start
    _key("model_store", path, "", "models.store", flag="--model-store"),
    _key("workflow_store", path, "", "models.workflow_store", flag="--workflow-store"),
    _key("pulled_models", path, "/mnt/models", "models.pulled"),
    _key("load_models", parse_load_models, flag="--models"),
    _key("models", parse_models, "", "models.overrides"),
    _key("model_snapshot", parse_model_snapshot),
    _key("config_snapshots", boolean, "true"),
    _key("archive_cache", path, "", "models.cache"),
    _key("archive_cache_size", integer(1), str(20 * 2**30), "models.cache_size"),
    # Fetching archives from URLs
    _key("allowed_urls", url_patterns, "", "downloads.allowed_urls"),
    _key("use_env_allowed_urls", boolean, "false", variable=_FILE_ONLY),
    _key("allowed_url_networks", networks, "", "downloads.allowed_url_networks"),
    _key("max_download_size", integer(1), str(20 * 2**30), "downloads.max_size"),
    _key("download_connect_seconds", seconds, "10", "downloads.connect_timeout"),
    _key("download_idle_seconds", seconds, "30", "downloads.idle_timeout"),
    _key("download_total_seconds", seconds, "3600", "downloads.total_timeout"),
    # Workers
    _key("default_workers_per_model", integer(), "0", "workers.workers_per_model"),
    _key("default_response_timeout", seconds, "120", "workers.response_timeout"),
    _key("default_startup_timeout", seconds, "120", "workers.startup_timeout"),
    _key("unregister_model_timeout", seconds, "120", "workers.unregister_timeout"),
    _key("job_queue_size", integer(1), "100", "workers.queue_size"),
    _key("default_service_handler", text, "", "workers.service_handler"),
    _key("service_envelope", envelope, "", "workers.service_envelope"),
    _key("number_of_gpu", integer(), "", "workers.number_of_gpu"),
    _key("max_response_size", integer(1), "6553500", "workers.max_response_size"),
    _key("limit_max_image_pixels", boolean, "true", "workers.limit_max_image_pixels"),
    _key("decode_input_request", boolean, "true", "workers.decode_input_request"),
    _key("install_py_dep_per_model", boolean, "false", "workers.install_dependencies"),
    _key("blacklist_env_vars", regular_expression, "", "workers.hidden_environment"),
    _key("python", text, "", "workers.python", flag="--python", variable=_FILE_ONLY),
    _key("initial_worker_port", integer(), "9000", "workers.first_worker_id"),
    _key("ipex_enable", boolean, "false", "workers.ipex_enable"),
    _key("ipex_gpu_enable", boolean, "false", "workers.ipex_gpu_enable"),
    _key("debug", boolean, "false", "workers.debug", flag="--inline"),
    _key("autoscale", boolean, "true", "workers.autoscale"),
    _key("worker_affinity", choice("auto", "off"), "off", "workers.affinity"),
    _key("worker_launcher", choice("forked", "shared", "exec", "inline"), "forked", "workers.launcher"),
    _key("v2_output_names", choice("predict", "inputs"), "predict", "workers.v2_output_names"),
    *(
        _key(
            f"ts_header_key_sequence_{what}",
            header_name,
            f"ts_request_sequence_{what}",
            f"workers.sequence_{what}_header",
            variable=f"TS_HEADER_KEY_SEQUENCE_{what.upper()}",
        )
        for what in ("id", "start", "end")
    ),
    _key("log_format", choice("text", "json"), "text", "logs.form", flag="--log-format"),
    _key("log_request_ids", boolean, "false", "logs.request_ids"),
    _key("log_level", choice("debug", "info", "warning", "error"), "info", "logs.level", flag="--log-level"),
    # Metrics. The modes to come have a notice of their own, because this key does something today
    _key("enable_metrics_api", boolean, "true", "http.enable_metrics_api"),
    _key("metrics_mode", _METRICS_MODE, "prometheus", "metrics.mode"),
    _key("metrics_format", _METRICS_MODE, variable=_FILE_ONLY),  # the old name of metrics_mode, in KServe's files
    _key("model_metrics_auto_detect", boolean, "false", "metrics.auto_detect"),
    _key("metrics_config", path),  # the file is read in loading.py
    _key("disable_system_metrics", inverted, "false", "metrics.system_metrics"),
    _key("metric_time_interval", seconds, "60", "metrics.interval"),
    # Traces. Where they go is said by OpenTelemetry's own variables
    _key("tracing", choice("off", "otlp"), "off", "tracing.exporter"),
    _key("traces_per_second", integer(), "50", "tracing.per_second"),
    _key("profile_requests", boolean, "false", "logs.profiles"),
    # Who is let in
    _key("disable_token_authorization", inverted, "false", "access.tokens", flag="--disable-token-auth"),
    _key("token_expiration_min", minutes, "60", "access.token_lifetime", variable="TS_TOKEN_EXPIRATION_TIME_MIN"),
    _key("token_failure_status", status(401, 400), "401", "access.token_failure_status"),
    _key("enable_model_api", boolean, "false", "access.model_api", flag="--enable-model-api"),
    _key("console", choice("auto", "on", "off"), "auto", "http.console"),
    _key("management_allowed_hosts", host_names, "", "http.management_hosts"),
    *_later("Parallel workers", _key("initial_distribution_port", integer(), "29500")),
    # About the file itself. The last two are in saved snapshots and describe the server that wrote them
    _key("enable_envvars_config", boolean, "false"),
    _key("version", variable=_FILE_ONLY),
    _key("tsConfigFile", variable=_FILE_ONLY),
    *_no_effect(
        _key("NUM_WORKERS", variable=_FILE_ONLY),  # in KServe's files, but TorchServe does not read it either
        _key("number_of_netty_threads", integer(), "0"),
        _key("netty_client_threads", integer(), "0"),
        _key("prefer_direct_buffer", boolean, "false"),
        _key("use_native_io", boolean, "true", variable=_FILE_ONLY),
        _key("io_ratio", integer(), "50", variable=_FILE_ONLY),
        _key("async_logging", boolean, "false"),
        _key("vmargs", variable=_FILE_ONLY, secret=True),  # -D options often hold passwords
        _key("plugins_path", flag="--plugins-path", variable=_FILE_ONLY),
        _key("cpp_log_config", flag="--cpp-log-config"),
        _key("system_metrics_cmd", variable=_FILE_ONLY),
        _key("ts_open_inference_protocol", text, "false", variable="TS_OPEN_INFERENCE_PROTOCOL"),
        _key("model_server_home", variable="TS_MODEL_SERVER_HOME"),
    ),
    *_no_effect(
        _key("cpu_launcher_enable", boolean, "false"),
        _key("cpu_launcher_args"),
        instead="Intel's launcher is not started. Workers share the cores; worker_affinity=auto binds each to its own",
    ),
)

KEYS: Mapping[str, Key] = {key.name: key for key in _TABLE}
