"""What a specification says of its nodes, and what is said of one that cannot be read."""

from __future__ import annotations

import pytest

from torchserve_lite.archive.unpacking.entries import ArchiveError
from torchserve_lite.errors import InvalidDAG
from torchserve_lite.workflows.spec import NodeSettings, WorkflowSpec

SPEC = """
models:
  min-workers: 1
  max-workers: 2
  batch-size: 4
  max-batch-delay: 20
  retry-attempts: 5
  timeout-ms: 3000
  m1:
    url: m1.mar
  m2:
    url: m2.mar
    max-workers: 4
    batch-size: 8
    timeout-ms: 500
dag:
  pre: [m1]
  m1: [m2]
"""


def parse(text: str) -> WorkflowSpec:
    return WorkflowSpec.parse(text.encode())


def test_node_has_the_global_settings_and_its_own_above_them() -> None:
    nodes = parse(SPEC).nodes
    assert nodes["m1"].settings == NodeSettings(
        min_workers=1, max_workers=2, batch_size=4, batch_delay=0.02, retries=5, timeout=3.0
    )
    assert nodes["m2"].settings == NodeSettings(
        min_workers=1, max_workers=4, batch_size=8, batch_delay=0.02, retries=5, timeout=0.5
    )


def test_node_that_is_no_model_is_a_function_without_batches() -> None:
    pre = parse(SPEC).nodes["pre"]
    assert (pre.url, pre.settings.batch_size, pre.settings.retries, pre.settings.timeout) == ("", None, 5, 3.0)


def test_global_settings_hold_wherever_they_stand() -> None:
    """TorchServe has them hold for the nodes below them only."""
    spec = parse("models: {m: {url: m.mar}, timeout-ms: 7000}\ndag: {m: []}")
    assert spec.nodes["m"].settings.timeout == 7.0


def test_defaults_are_torchserves() -> None:
    settings = parse("models: {m: {url: m.mar}}\ndag: {m: }").nodes["m"].settings
    assert (settings.workers, settings.retries, settings.timeout) == ((1, 1), 1, 10.0)


def test_fewest_workers_alone_are_honoured() -> None:
    assert parse("models: {m: {url: m.mar, min-workers: 3}}\ndag: {m: }").nodes["m"].settings.workers == (3, 3)


def test_model_outside_the_dag_is_told_and_not_loaded() -> None:
    spec = parse("models: {m: {url: m.mar}, spare: {url: s.mar}}\ndag: {m: []}")
    assert list(spec.nodes) == ["m"]
    assert "spare" in spec.warnings[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("", "has no models and dag", id="empty"),
        pytest.param("- 1", "mapping", id="a list"),
        pytest.param("models: {}", "has no dag", id="no dag"),
        pytest.param("dag: [a, b]", "dag", id="dag is a list"),
        pytest.param("dag: {a: b}", "'b' where a list", id="edge is text"),
        pytest.param("dag: {a: [1]}", "'1'", id="node is a number"),
        pytest.param("dag: {a: [b/c]}", "'b/c'", id="slash"),
        pytest.param("models: {max-worker: 2}\ndag: {a: }", "max-worker", id="misspelled key"),
        pytest.param("models: {m: {}}\ndag: {m: }", "m without url", id="no url"),
        pytest.param("models: {m: {url: m.mar, retries: 2}}\ndag: {m: }", "retries", id="unknown key of a node"),
        pytest.param("models: {timeout-ms: '5'}\ndag: {a: }", "timeout-ms", id="text for a number"),
        pytest.param("models: {timeout-ms: 0}\ndag: {a: }", "from 1", id="too small"),
        pytest.param(
            "models: {min-workers: 3, max-workers: 2}\ndag: {a: }", "min-workers: 3 above", id="min above max"
        ),
        pytest.param("models: {max-workers: 5000}\ndag: {a: }", "'5000' where .* to 1000", id="too many workers"),
        pytest.param("models: {retry-attempts: 101}\ndag: {a: }", "to 100", id="too many retries"),
        pytest.param("other: 1\ndag: {a: }", "'other'", id="unknown section"),
        pytest.param("dag: !!python/object:os.system {}", "Python object", id="object"),
        pytest.param("dag: {a: [", "line", id="no YAML"),
    ],
)
def test_specification_that_cannot_be_used_says_why(text: str, said: str) -> None:
    with pytest.raises(ArchiveError, match=said):
        parse(text)


def test_more_nodes_than_a_machine_has_room_for_are_refused() -> None:
    names = ", ".join(f"n{number}" for number in range(200))
    with pytest.raises(InvalidDAG, match="201 nodes"):
        parse(f"dag: {{a: [{names}]}}")
