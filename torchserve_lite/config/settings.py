"""The frozen pieces that configuration becomes. Times are seconds; milliseconds end in ``config/keys.py``."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import TYPE_CHECKING

from torchserve_lite.core.metrics import MODEL_METRICS, SERVER_METRICS, MetricDefinition
from torchserve_lite.core.models import SequenceHeaders
from torchserve_lite.core.options import ServingOptions

if TYPE_CHECKING:
    import regex


@dataclass(frozen=True, slots=True)
class Address:
    """Where a listener binds: ``host`` and ``port`` (0: any free one), or a unix socket ``path``."""

    host: str = "127.0.0.1"
    port: int = 0
    tls: bool = False
    path: str = ""

    @property
    def is_local(self) -> bool:
        """Only this machine reaches it, as far as can be told from how it is written."""
        if self.path or self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpConfig:
    inference: Address = Address(port=8080)
    management: Address = Address(port=8081)
    metrics: Address = Address(port=8082)
    kserve: Address | None = None  # KServe's, opened once every model is ready; None: not at all
    enable_metrics_api: bool = True
    fast_path: bool = True  # plain inference requests are answered without aiohttp
    server_timing: bool = True  # answers of models say where their time went
    max_request_size: int = 6553500
    slow_client_seconds: float = 30.0
    slow_header_seconds: float = 30.0  # from the first byte of a request to the end of its headers
    slow_client_rate: float = 500.0  # bytes a second, on average over slow_client_seconds, below which a client is cut
    sse_heartbeat: float = 15.0  # seconds without a piece after which a stream of events gets a comment; 0: never
    cors: Mapping[str, str] = field(default_factory=dict)  # access-control-allow-... header -> value
    console: str = "auto"  # or "on", "off": whether /console is served; see protocols/http/console.py
    management_hosts: tuple[str, ...] = ()  # names, in small letters, by which management may be called; see guard.py
    shutdown_grace: float = 25.0  # seconds that requests in flight get after SIGTERM, the linger time included
    shutdown_linger: float = 1.0  # seconds for which a server that stops goes on accepting, while it is not ready
    event_type: str = "io.kserve.inference.response"  # of the CloudEvents that answer CloudEvents
    event_source: str = ""  # of them; without it io.kserve.inference. and the model's name
    event_merge: bool = False  # whether they keep the other attributes of the event that they answer
    unix_socket_mode: int = 0o600  # who may connect to a listener on a unix socket

    @property
    def encrypted_hosts(self) -> tuple[str, ...]:
        """Those of the listeners that speak TLS."""
        addresses = [self.inference, self.management, *([self.metrics] if self.enable_metrics_api else [])]
        addresses += [self.kserve] if self.kserve is not None else []
        return tuple(dict.fromkeys(address.host for address in addresses if address.tls))


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcConfig:
    """The gRPC listeners. An age None: connections may last as long as they like."""

    inference_host: str = "127.0.0.1"
    inference_port: int = 7070
    inference_max_age: float | None = None  # seconds of a connection, after which its client connects anew
    inference_max_age_grace: float | None = None  # seconds that calls of such a connection may still take
    management_host: str = "127.0.0.1"
    management_port: int = 7071
    management_max_age: float | None = None
    management_max_age_grace: float | None = None
    kserve_host: str = "0.0.0.0"
    kserve_port: int | None = None  # KServe's, opened once every model is ready; None: not at all
    tls: bool = False

    @property
    def encrypted_hosts(self) -> tuple[str, ...]:
        if not self.tls:
            return ()
        hosts = (self.inference_host, self.management_host)
        return hosts if self.kserve_port is None else (*hosts, self.kserve_host)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig:
    """Whose certificate the listeners show: the keystore's, else the two PEM files', else one made for the occasion."""

    keystore: Path | None = None
    keystore_password: str = field(default="changeit", repr=False)
    private_key: Path | None = None
    private_key_password: str = field(default="", repr=False)
    certificate: Path | None = None  # the server's own, and those between it and the authority
    client_ca: Path | None = None  # when set, clients have to show a certificate of one of these authorities


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessConfig:
    """What clients need to be let in, and what they may do then."""

    tokens: bool = True
    token_lifetime: float = 3600.0  # seconds
    token_failure_status: int = 401
    model_api: bool = False  # models may be registered and removed


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """What holds for the workers of all models."""

    launcher: str = "forked"
    python: str = ""  # empty: our own interpreter
    response_timeout: float = 120.0
    startup_timeout: float = 120.0
    queue_size: int = 100
    workers_per_model: int = 0  # 0: number of GPUs, else of cores
    number_of_gpu: int | None = None  # upper bound; None: all there are
    visible_gpus: str | None = None  # CUDA_VISIBLE_DEVICES
    autoscale: bool = True
    affinity: str = "off"  # or "auto": each worker has a core of its own where that is safe
    share_threads: bool = True  # give each worker its share of the cores; off when OMP_NUM_THREADS is set
    max_response_size: int = 6553500
    limit_max_image_pixels: bool = True
    decode_input_request: bool = True
    service_handler: str = ""  # default_service_handler
    service_envelope: str = ""
    v2_output_names: str = "predict"  # or "inputs": outputs are named after inputs, as TorchServe 0.12 does
    hidden_environment: str = ""  # blacklist_env_vars, a regular expression
    install_dependencies: bool = False  # install_py_dep_per_model
    unregister_timeout: float = 120.0
    sequence_id_header: str = "ts_request_sequence_id"
    sequence_start_header: str = "ts_request_sequence_start"
    sequence_end_header: str = "ts_request_sequence_end"
    first_worker_id: int = 9000  # TorchServe's ids are port numbers; scripts show them
    ipex_enable: bool = False  # TS_IPEX_ENABLE for handlers
    ipex_gpu_enable: bool = False
    whole_tracebacks: bool = False  # of handlers' failures, in the log: with log_level=debug
    debug: bool = False  # one worker a model, without time limits, so that a debugger may stop it
    model_metrics: tuple[MetricDefinition, ...] = MODEL_METRICS  # those that handlers find in their cache

    @property
    def sequence_headers(self) -> SequenceHeaders:
        return SequenceHeaders(
            id=self.sequence_id_header, start=self.sequence_start_header, end=self.sequence_end_header
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsConfig:
    """Which models are served from the start. ``overrides`` is the ``models`` key: (name, version) -> its values."""

    store: Path | None = None
    load_all: bool = False
    startup: tuple[ServingOptions, ...] = ()
    overrides: Mapping[tuple[str, str], ServingOptions] = field(default_factory=dict)
    workflow_store: Path | None = None  # None: the model store
    pulled: Path | None = Path("/mnt/models")  # where KServe's agent puts models
    cache: Path | None = None  # where archives are kept unpacked for the next start
    cache_size: int = 20 * 2**30  # bytes of it that one start leaves
    watch: bool = False  # reload a model when its archive or folder in the store changes
    projects: bool = False  # folders without a manifest are read as handler projects


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Credentials:
    """AWS's variables of the environment. Only ``region`` may be shown."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)
    region: str = "us-east-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadConfig:
    """What archives may be fetched from, and how much and how long that may be. Nothing may without a pattern."""

    allowed_urls: tuple[regex.Pattern[str], ...] = ()
    allowed_url_networks: tuple[IPv4Network | IPv6Network, ...] = ()  # besides public addresses
    max_size: int = 20 * 2**30  # bytes
    connect_timeout: float = 10.0
    idle_timeout: float = 30.0  # without a byte
    total_timeout: float = 3600.0
    s3: S3Credentials | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    mode: str = "prometheus"  # prometheus, log, legacy
    system_metrics: bool = True
    interval: float = 60.0
    auto_detect: bool = False
    server_metrics: tuple[MetricDefinition, ...] = SERVER_METRICS  # of TorchServe's own, those that are shown
    model_metrics: tuple[MetricDefinition, ...] = MODEL_METRICS  # those of handlers


@dataclass(frozen=True, slots=True, kw_only=True)
class TracingConfig:
    """Where to, and as whom, is said by OpenTelemetry's own variables (``OTEL_...``), which its package reads.
    ``sampler_chosen``: they say as well which requests are traced; else it is ``per_second`` of those that belong to no
    trace yet, 0 for all."""

    exporter: str = "off"  # or otlp
    per_second: int = 50
    sampler_chosen: bool = False
    delay_chosen: bool = False  # OTEL_BSP_SCHEDULE_DELAY says how often spans are sent
    disabled: bool = False  # OTEL_SDK_DISABLED
    protocol: str = ""  # OTEL_EXPORTER_OTLP_PROTOCOL
    endpoint: str = "http://localhost:4318"  # OTEL_EXPORTER_OTLP_ENDPOINT, for messages


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    folder: Path | None = Path("logs")  # LOG_LOCATION; None: no files
    metrics_folder: Path | None = None  # METRICS_LOCATION; None: metrics are not logged
    form: str = "text"  # or json: an object a line
    request_ids: bool = False  # in lines of text; in JSON they always are
    file: Path | None = None  # --log-config
    profiles: bool = False  # clients may have a request profiled; into a folder within this one
    level: str = "info"  # of the server's own lines; what handlers log is always kept


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceManagerConfig:
    """What systemd's variables say. ``address``: of the socket on which it hears of us, a path or ``@name``; empty:
    nobody has started us who wants to know. ``watchdog``: seconds within which it wants to hear of us again and again,
    None for never."""

    address: str = ""
    watchdog: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotConfig:
    """Where snapshots go, and the ``properties`` that stand in them beside the models, as texts without secrets."""

    folder: Path
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything the server was told. ``notices`` are lines for the start-up display: keys whose feature comes
    later, unknown keys with the nearest name, values that were corrected."""

    http: HttpConfig = HttpConfig()
    grpc: GrpcConfig = GrpcConfig()
    access: AccessConfig = AccessConfig()
    tls: TlsConfig = TlsConfig()
    workers: WorkerConfig = WorkerConfig()
    models: ModelsConfig = ModelsConfig()
    downloads: DownloadConfig = DownloadConfig()
    metrics: MetricsConfig = MetricsConfig()
    tracing: TracingConfig = TracingConfig()
    logs: LogConfig = LogConfig()
    service_manager: ServiceManagerConfig = ServiceManagerConfig()
    snapshots: SnapshotConfig | None = None  # None: none are written
    source: Path | None = None
    notices: tuple[str, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict)  # effective properties, as text
    sources: Mapping[str, str] = field(default_factory=dict)  # where each of them was said, in words for a message
