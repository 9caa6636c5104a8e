"""Metrics by definition, and those that there are when ``metrics_config`` names no others."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MetricDefinition:
    """A metric that is known before its first value. ``kind``: counter, gauge or histogram."""

    name: str
    kind: str
    unit: str
    dimensions: tuple[str, ...] = ()


_HOST = ("Level", "Hostname")
_GPU = ("Level", "DeviceId", "Hostname")
_MODEL = ("model_name", "model_version", "hostname")

# TorchServe's own. The order of dimensions counts: a file may name them otherwise.
SERVER_METRICS: tuple[MetricDefinition, ...] = (
    MetricDefinition("Requests2XX", "counter", "Count", _HOST),
    MetricDefinition("Requests4XX", "counter", "Count", _HOST),
    MetricDefinition("Requests5XX", "counter", "Count", _HOST),
    MetricDefinition("ts_inference_requests_total", "counter", "Count", _MODEL),
    MetricDefinition("ts_inference_latency_microseconds", "counter", "Microseconds", _MODEL),
    MetricDefinition("ts_queue_latency_microseconds", "counter", "Microseconds", _MODEL),
    MetricDefinition("QueueTime", "gauge", "Milliseconds", _HOST),
    MetricDefinition("WorkerThreadTime", "gauge", "Milliseconds", _HOST),
    MetricDefinition("WorkerLoadTime", "gauge", "Milliseconds", ("WorkerName", *_HOST)),
    MetricDefinition("CPUUtilization", "gauge", "Percent", _HOST),
    MetricDefinition("MemoryUsed", "gauge", "Megabytes", _HOST),
    MetricDefinition("MemoryAvailable", "gauge", "Megabytes", _HOST),
    MetricDefinition("MemoryUtilization", "gauge", "Percent", _HOST),
    MetricDefinition("DiskUsage", "gauge", "Gigabytes", _HOST),
    MetricDefinition("DiskUtilization", "gauge", "Percent", _HOST),
    MetricDefinition("DiskAvailable", "gauge", "Gigabytes", _HOST),
    MetricDefinition("GPUMemoryUtilization", "gauge", "Percent", _GPU),
    MetricDefinition("GPUMemoryUsed", "gauge", "Megabytes", _GPU),
    MetricDefinition("GPUUtilization", "gauge", "Percent", _GPU),
)

# Those of handlers; the server adds the dimension Hostname.
MODEL_METRICS: tuple[MetricDefinition, ...] = (
    MetricDefinition("HandlerTime", "gauge", "ms", ("ModelName", "Level")),
    MetricDefinition("PredictionTime", "gauge", "ms", ("ModelName", "Level")),
)
