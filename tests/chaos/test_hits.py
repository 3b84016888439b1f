"""What surviving caches allow, on records made up here."""

import pytest

from .hits import hits, ratio, recovered
from .side import Record


def record(start: float, conversation: int, turn: int, pod: str, prompt: int, cached: int, failure=None) -> Record:
    return Record(0, 0, conversation, turn, True, start, start + 0.1, None, 200, pod, None, prompt, cached, failure)


def test_the_longest_earlier_prompt_that_a_living_pod_holds_is_allowed():
    records = [record(0, 1, 0, "a", 100, 0), record(1, 1, 1, "b", 200, 96), record(2, 1, 2, "a", 300, 96)]
    assert [hit.allowed for hit in hits(records, [])] == [0, 96, 192]
    # With `b` gone, only what `a` had at first is left.
    assert [hit.allowed for hit in hits(records, [("b", 1.5)])] == [0, 96, 96]


def test_a_request_that_failed_found_nothing_and_holds_nothing():
    records = [record(0, 1, 0, "a", 100, 0), record(1, 1, 1, "a", 200, 96, "timeout"), record(2, 1, 2, "a", 300, 96)]
    found = hits(records, [])
    assert [(hit.found, hit.allowed) for hit in found] == [(0, 0), (0, 96), (96, 96)]


@pytest.mark.parametrize(("good_from", "expected"), [(0.0, 0.0), (1.8, 1.75), (9.0, None)])
def test_hits_are_back_when_a_window_reaches_the_share(good_from: float, expected: float | None):
    records = []
    for n in range(100):
        at = n / 10
        records += [record(at - 100, n, 0, "a", 100, 0), record(at, n, 1, "a", 200, 96 if at >= good_from else 0)]
    found = hits(records, [])
    assert recovered(found, 0.0, 8.0) == expected
    assert ratio(found, 9.5, 10.0) == 1.0
