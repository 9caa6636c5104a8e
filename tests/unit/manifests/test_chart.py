"""The Helm chart, rendered by Helm itself: what comes out fits the schemas of its cluster."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.unit.manifests.schemas import ROOT, documents, problems
from torchserve_lite import __version__
from torchserve_lite.config.keys import KEYS

_MONITORED: dict[str, Any] = {"podMonitor": {"enabled": True}}
_CHART = ROOT / "kubernetes" / "chart"


def _rendered(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By kind: what the chart makes of these values."""
    helm = pytest.importorskip("helm_python", reason="needs the package helm-python-sdk")
    with helm.Chart.load(_CHART) as chart:
        texts = chart.render(values, name="mnist", namespace="models")
    manifests = [one for name, text in texts.items() if name.endswith(".yaml") for one in documents(text)]
    return {manifest["kind"]: manifest for manifest in manifests}


@pytest.mark.parametrize(
    ("values", "kinds"),
    [
        pytest.param({}, {"ConfigMap", "Deployment", "Service", "PodDisruptionBudget"}, id="as it is"),
        pytest.param(
            {
                "gpus": 1,
                "autoscaling": {"enabled": True},
                "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
                "disruption": {"enabled": False},
                "models": {"claim": "models", "subPath": "store"},
                "imagePullSecrets": [{"name": "pull"}],
                "env": [{"name": "TS_JOB_QUEUE_SIZE", "value": "7"}],
                "podAnnotations": {"team": "vision"},
                "nodeSelector": {"gpu": "yes"},
                "tolerations": [{"key": "gpu", "operator": "Exists"}],
                "affinity": {"podAntiAffinity": {}},
            },
            {"ConfigMap", "Deployment", "Service", "HorizontalPodAutoscaler", "PodMonitor"},
            id="everything said",
        ),
        pytest.param(
            {"models": {"image": "models:1"}},
            {"ConfigMap", "Deployment", "Service", "PodDisruptionBudget"},
            id="models from an image",
        ),
        pytest.param(
            yaml.safe_load((_CHART / "values-kserve.yaml").read_text()),
            {"ServingRuntime", "InferenceService", "PodDisruptionBudget"},
            id="KServe",
        ),
        pytest.param(
            {"kserve": {"enabled": True, "storageUri": "s3://models", "deploymentMode": "Standard"}, "gpus": 2}
            | _MONITORED,
            {"ServingRuntime", "InferenceService", "PodDisruptionBudget", "PodMonitor"},
            id="KServe with GPUs",
        ),
    ],
)
def test_chart_renders_what_fits_the_schemas(values: dict[str, Any], kinds: set[str]) -> None:
    rendered = _rendered(values)
    assert set(rendered) == kinds
    assert [problem for manifest in rendered.values() for problem in problems(manifest)] == []


def test_chart_is_of_this_version_and_names_keys_that_there_are() -> None:
    chart = yaml.safe_load((_CHART / "Chart.yaml").read_text())
    values = yaml.safe_load((_CHART / "values.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)
    assert set(values["config"]) <= set(KEYS)


def test_pods_are_new_when_the_configuration_changes() -> None:
    def checksum(values: dict[str, Any]) -> object:
        return _rendered(values)["Deployment"]["spec"]["template"]["metadata"]["annotations"]["checksum/config"]

    assert checksum({}) == checksum({"replicas": 3})
    assert checksum({}) != checksum({"config": {"job_queue_size": "7"}})
