"""Which graphs are workflows, and what is said of those that are not."""

from __future__ import annotations

import pytest

from torchserve_lite.errors import InvalidDAG
from torchserve_lite.workflows.dag import Dag

DIAMOND = {"pre": ("m1", "m2"), "m1": ("agg",), "m2": ("agg",)}


def test_node_comes_after_all_its_parents() -> None:
    parents = Dag.of(DIAMOND).parents
    assert next(iter(parents)) == "pre"
    assert list(parents)[-1] == "agg"
    assert parents["agg"] == ("m1", "m2")


@pytest.mark.parametrize(
    ("edges", "leaves"),
    [
        pytest.param(DIAMOND, ("agg",), id="diamond"),
        pytest.param({"pre": ("m1", "m2")}, ("m1", "m2"), id="two ends"),
        pytest.param({"only": ()}, ("only",), id="one node"),
    ],
)
def test_leaves_are_the_nodes_that_nobody_follows(edges: dict[str, tuple[str, ...]], leaves: tuple[str, ...]) -> None:
    assert Dag.of(edges).leaves == leaves


def test_dag_is_shown_as_torchserve_shows_it() -> None:
    assert str(Dag.of({**DIAMOND, "agg": ()})) == "{pre=[m1, m2], m1=[agg], m2=[agg]}"


@pytest.mark.parametrize(
    ("edges", "said"),
    [
        pytest.param({}, "no nodes", id="empty"),
        pytest.param({"a": ("a",)}, "a has an edge to itself", id="self loop"),
        pytest.param({"a": ("b",), "b": ("a",)}, "cycle: ", id="two-cycle"),
        pytest.param(
            {"s": ("a",), "a": ("b",), "b": ("c",), "c": ("a",)}, "a -> b -> c -> a", id="cycle behind a start"
        ),
        pytest.param({"a": ("c",), "b": ("c",)}, r"2 start nodes \(a, b\)", id="two starts"),
        pytest.param({"a": ("b", "b")}, "from a to b stands in the dag twice", id="double edge"),
    ],
)
def test_graph_that_is_no_workflow_is_refused_by_name(edges: dict[str, tuple[str, ...]], said: str) -> None:
    with pytest.raises(InvalidDAG, match=said):
        Dag.of(edges)
