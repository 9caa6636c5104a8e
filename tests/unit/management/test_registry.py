"""Which model versions are served, and which of a name is the default."""

from __future__ import annotations

import pytest

from tests.conftest import spec_of
from torchserve_lite.core.models import ModelKey, ModelSpec
from torchserve_lite.errors import Conflict, ModelNotFound, ModelVersionNotFound
from torchserve_lite.management.registry import ModelRegistry


def version(name: str, number: str) -> ModelSpec:
    return spec_of(key=ModelKey(name, number))


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


def test_new_spec_takes_the_place_of_its_version_only(registry: ModelRegistry) -> None:
    changed = spec_of(key=ModelKey("a", "2.0"), handler="changed")
    registry.replace(changed)
    assert registry.resolve("a", "2.0") is changed
    assert registry.resolve("a").key.version == "1.0"
    with pytest.raises(ModelVersionNotFound):
        registry.replace(version("a", "3.0"))


def test_lists_are_by_name(registry: ModelRegistry) -> None:
    assert registry.names() == ["a", "b"]
    assert [str(spec.key) for spec in registry.defaults()] == ["a_1.0", "b_1.0"]
    assert [spec.key.version for spec in registry.versions("a")] == ["1.0", "2.0"]
    assert sorted(str(spec.key) for spec in registry) == ["a_1.0", "a_2.0", "b_1.0"]
