"""What our errors say: what was wrong, by name, and how to mend it."""

from __future__ import annotations

import pytest

from torchserve_lite import errors


@pytest.mark.parametrize(
    ("error", "texts"),
    [
        (errors.BodyTooLarge(100), ["max_request_size=100"]),
        (errors.ModelVersionNotFound("m", "2.0"), ["2.0", "m"]),
        (errors.InvalidArchive("m.mar", "is empty"), ["m.mar", "is empty"]),
        (errors.NoWorkers("m"), ['"m"', "scale workers API"]),
        (errors.QueueFull("m", 7), ['"m"', "job_queue_size=7"]),
        (errors.ModelFailed("m", "no such weights"), ['"m"', "no such weights", "Scale"]),
        (errors.ModelNotRegistered("m", "is empty"), ['"m"', "is empty", "restart the server"]),
        (errors.ModelLoading("m"), ['"m"', "Try again"]),
        (errors.DeadlineExceeded(0.25), ["0.25 s"]),
        (errors.WorkerRestarting("m", "no such weights"), ['"m"', "tried again", "no such weights"]),
        (errors.SlotFailed(ValueError("planted")), ["ValueError", "planted", "scaling"]),
        (errors.WorkerDied("It was shot."), ["Worker died.", "It was shot."]),
        (errors.ReaderTooSlow(), ["too slowly", "generator"]),
        (errors.AnswerNotTaken(1000, 30.0), ["1000 bytes", "30 s", "slow_client_seconds"]),
        (errors.ResponseTimeout(120.0, "inference"), ["Worker died.", "responseTimeout=120 s", "inference"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_error_names_what_was_wrong(error: Exception, texts: list[str]) -> None:
    assert all(text in str(error) for text in texts)


def test_death_without_a_cause_is_torchserves_text() -> None:
    assert str(errors.WorkerDied()) == "Worker died."
