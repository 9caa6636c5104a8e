"""Which requests are profiled, and how many profiles are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import deployment_of
from torchserve_lite.core.jobs import Job
from torchserve_lite.core.requests import InferenceRequest, InferenceResponse, Verb
from torchserve_lite.telemetry.profiles import HEADER, Profiles

SPEC = deployment_of().spec


def asking(name: str = "id", value: str = "true", verb: Verb = Verb.PREDICT) -> InferenceRequest:
    return InferenceRequest(name, "tiny", None, verb, (), ((HEADER.title(), value),))


def test_request_that_is_profiled_is_alone_in_its_batch(tmp_path: Path) -> None:
    request, other = asking(), asking(value="false")
    for one in (request, other):
        Profiles(tmp_path / "profiles").begin(one, SPEC)
    assert Path(request.profile).parent == tmp_path / "profiles"
    assert [Job(one, SPEC.key, 0.0).batchable for one in (request, other)] == [False, True]


def test_answer_names_the_file_when_the_worker_has_written_it(tmp_path: Path) -> None:
    profiles, request = Profiles(tmp_path), asking()
    profiles.begin(request, SPEC)
    answers = [InferenceResponse(b""), InferenceResponse(b"")]
    profiles.tell(request, answers[0])
    Path(request.profile).touch()
    profiles.tell(request, answers[1])
    assert [answer.headers for answer in answers] == [(), ((HEADER, Path(request.profile).name),)]


def test_the_newest_profiles_are_kept(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"20260101T0000{number:02}-tiny.json").touch()
    profiles, request = Profiles(tmp_path), asking()
    profiles.begin(request, SPEC)
    Path(request.profile).touch()
    kept = sorted(file.name for file in tmp_path.iterdir())
    assert (len(kept), kept[0]) == (20, "20260101T000011-tiny.json")


def test_folder_that_cannot_be_made_costs_the_profile_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    request = asking()
    Profiles(tmp_path / "file").begin(request, SPEC)
    assert request.profile == ""
    assert "is not profiled" in caplog.text
