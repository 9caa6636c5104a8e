"""What monitoring/ has for Prometheus and Grafana: Prometheus' own tool finds nothing wrong with it, and it asks for
metrics that there are. ``tests/e2e/test_prometheus.py`` asks a real Prometheus."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.prometheus import MONITORING, expressions, needs_promtool
from tests.unit.manifests.schemas import ROOT
from torchserve_lite.config.settings import MetricsConfig
from torchserve_lite.telemetry.catalogue import ServerMetrics

_RULES = yaml.safe_load((MONITORING / "rules.yml").read_text())
_ALERTS = [rule for group in _RULES["groups"] for rule in group["rules"] if "alert" in rule]
_RECORDED = {rule["record"] for group in _RULES["groups"] for rule in group["rules"] if "record" in rule}
_DASHBOARD = json.loads((MONITORING / "grafana-dashboard.json").read_text())


def _promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=MONITORING, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("check", "rules", "rules.yml"), id="rules"),
        pytest.param(("test", "rules", "rules_test.yml"), id="their tests"),
        pytest.param(("check", "config", "prometheus.yml"), id="configuration"),
    ],
)
def test_promtool_is_content(arguments: tuple[str, ...]) -> None:
    _promtool(*arguments)


@needs_promtool
def test_promtool_is_content_with_the_job_for_kubernetes(tmp_path: Path) -> None:
    """Debian's build knows nothing of Kubernetes, so the pods are found by something that it does know."""
    config = yaml.safe_load((MONITORING / "prometheus-kubernetes.yml").read_text())
    (job,) = config["scrape_configs"]
    assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
    config["rule_files"] = [str(MONITORING / "rules.yml")]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    _promtool("check", "config", str(tmp_path / "prometheus.yml"))


@pytest.mark.parametrize("alert", _ALERTS, ids=lambda alert: str(alert["alert"]))
def test_alert_is_explained_and_tested(alert: dict[str, Any]) -> None:
    name, annotations = alert["alert"], alert["annotations"]
    assert annotations["runbook"] == f"docs/monitoring.md#{name.lower()}"
    assert f"\n### {name}\n" in (ROOT / "docs" / "monitoring.md").read_text()
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    tests = yaml.safe_load((MONITORING / "rules_test.yml").read_text())["tests"]
    fired = [one["alertname"] for test in tests for one in test.get("alert_rule_test", ()) if one["exp_alerts"]]
    assert name in fired


@pytest.mark.parametrize(("where", "expression"), expressions())
def test_expression_asks_for_metrics_that_there_are(where: str, expression: str) -> None:
    known = set(ServerMetrics(MetricsConfig()).registry.names()) | _RECORDED | {"up"}
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(by|without) \([^)]*\)", "", expression)
    words_of_promql = {"sum", "min", "max", "count", "or", "and"}
    asked = set(re.findall(r"[A-Za-z_:][\w:]*(?![\w:]*\()", bare)) - words_of_promql
    assert asked
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in asked} <= known, where


def test_dashboard_has_panels_of_their_own_place_and_number() -> None:
    panels = _DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells


def test_dashboard_asks_the_chosen_prometheus_by_variables_that_it_has() -> None:
    variables = {variable["name"] for variable in _DASHBOARD["templating"]["list"]}
    assert variables == {"datasource", "job", "instance", "model", "version"}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(_DASHBOARD)))
    assert used - {"__rate_interval", "__all"} == variables
    targets = [target for panel in _DASHBOARD["panels"] for target in panel.get("targets", ())]
    assert {target["datasource"]["uid"] for target in targets} == {"${datasource}"}
