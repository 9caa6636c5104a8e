"""Which node of a workflow gets the output of which others: a directed acyclic graph with one start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from torchserve_lite.errors import InvalidDAG


@dataclass(frozen=True, slots=True)
class Dag:
    """``edges``: each node with those that get its output, as the specification has them. ``parents``: every node with
    those whose output it gets, a node after all its parents."""

    edges: Mapping[str, tuple[str, ...]]
    parents: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, edges: Mapping[str, tuple[str, ...]]) -> Dag:
        """Raises InvalidDAG when these edges are no workflow."""
        if not edges:
            raise InvalidDAG("The dag has no nodes.")
        parents: dict[str, list[str]] = {name: [] for name in edges}
        for name, children in edges.items():
            for child in children:
                if child == name:
                    raise InvalidDAG(f"The node {name} has an edge to itself.")
                if name in parents.setdefault(child, []):
                    raise InvalidDAG(f"The edge from {name} to {child} stands in the dag twice.")
                parents[child].append(name)
        try:
            ordered = list(TopologicalSorter(parents).static_order())
        except CycleError as error:
            circle = " -> ".join(error.args[1])
            raise InvalidDAG(f"The dag has a cycle: {circle}.") from None
        starts = [name for name, before in parents.items() if not before]
        if len(starts) > 1:
            raise InvalidDAG(
                f"The dag has {len(starts)} start nodes ({', '.join(starts)}), and a workflow has one: the node that "
                "gets the request. Put a function before them that hands it on."
            )
        return cls(edges, {name: tuple(parents[name]) for name in ordered})

    @property
    def leaves(self) -> tuple[str, ...]:
        """The nodes whose output is the workflow's answer."""
        return tuple(name for name in self.parents if not self.edges.get(name))

    def __str__(self) -> str:
        """As TorchServe's description of a workflow shows it."""
        edges = (f"{name}=[{', '.join(children)}]" for name, children in self.edges.items() if children)
        return "{" + ", ".join(edges) + "}"
