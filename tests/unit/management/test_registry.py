"""Which model versions are served, and which of a name is the default."""

from __future__ import annotations

import pytest

from tests.conftest import deployment_of
from torchserve_lite.core.models import ModelKey
from torchserve_lite.errors import Conflict, DefaultVersionKept, ModelNotFound, ModelVersionNotFound, UnknownDefault
from torchserve_lite.management.deployments import Deployment
from torchserve_lite.management.registry import ModelRegistry


def version(name: str, number: str) -> Deployment:
    return deployment_of(key=ModelKey(name, number))


@pytest.fixture
def registry() -> ModelRegistry:
    """``a`` in two versions, ``b`` in one; registered in another order than by name."""
    made = ModelRegistry()
    for name, number in (("b", "1.0"), ("a", "1.0"), ("a", "2.0")):
        made.add(version(name, number))
    return made


@pytest.mark.parametrize(
    ("name", "asked", "found"),
    [("a", None, "1.0"), ("a", "1.0", "1.0"), ("a", "2.0", "2.0"), ("b", None, "1.0")],
)
def test_version_is_the_one_asked_for_or_the_default(
    registry: ModelRegistry, name: str, asked: str | None, found: str
) -> None:
    assert registry.resolve(name, asked).key == ModelKey(name, found)


def test_version_that_wants_to_be_the_default_is(registry: ModelRegistry) -> None:
    registry.add(version("a", "3.0"), default=True)
    assert registry.resolve("a").key.version == "3.0"


def test_unknown_model_and_unknown_version_are_told_apart(registry: ModelRegistry) -> None:
    with pytest.raises(ModelNotFound, match="Model not found: c"):
        registry.resolve("c", "1.0")
    with pytest.raises(ModelVersionNotFound, match=r"Model version: 1 does not exist for model: a"):
        registry.resolve("a", "1")


def test_version_can_be_registered_once(registry: ModelRegistry) -> None:
    with pytest.raises(Conflict, match=r"Model version 2\.0 is already registered for model a"):
        registry.add(version("a", "2.0"))


def test_default_version_of_several_is_kept_until_it_is_the_last(registry: ModelRegistry) -> None:
    with pytest.raises(DefaultVersionKept, match="Cannot remove default version for model a"):
        registry.remove(registry.resolve("a", "1.0"))
    registry.remove(registry.resolve("a", "2.0"))
    registry.remove(registry.resolve("a", "1.0"))
    assert registry.names() == ["b"]


def test_new_default_answers_for_the_model(registry: ModelRegistry) -> None:
    registry.set_default("a", "2.0")
    assert registry.resolve("a").key.version == "2.0"
    with pytest.raises(UnknownDefault, match=r"Model version 7\.0 does not exist for model a"):
        registry.set_default("a", "7.0")
    with pytest.raises(ModelNotFound):
        registry.set_default("c", "1.0")


def test_version_that_drains_is_not_found_and_not_registered_again_until_it_is_forgotten(
    registry: ModelRegistry,
) -> None:
    leaving = registry.resolve("b")
    registry.remove(leaving)
    with pytest.raises(ModelNotFound):
        registry.resolve("b")
    assert registry.locate(leaving.spec).folder == "unpacked"
    with pytest.raises(Conflict, match="being unregistered"):
        registry.add(version("b", "1.0"))
    registry.forget(leaving)
    registry.add(version("b", "1.0"))


def test_lists_are_by_name(registry: ModelRegistry) -> None:
    assert registry.names() == ["a", "b"]
    assert [str(one.key) for one in registry.defaults()] == ["a_1.0", "b_1.0"]
    assert [one.key.version for one in registry.versions("a")] == ["1.0", "2.0"]
    assert sorted(str(one.key) for one in registry) == ["a_1.0", "a_2.0", "b_1.0"]
