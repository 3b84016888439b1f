"""How much of the prompts was found in caches, beside what the caches that survived allowed.

A pod holds a prompt that it has answered, for as long as it lives: nothing is evicted here. So what a request could find
at best is the longest of its conversation's earlier prompts that some pod still holds, or what all prompts begin with.
"""

from collections import defaultdict
from dataclasses import dataclass

from .side import Record

BLOCK = 16
# What a chat template adds behind a prompt, and the next turn's prompt does not have there: less than a block.
TAIL = 4
SHARE = 0.95
WINDOW_S = 2.0
STEP_S = 0.25


@dataclass(frozen=True)
class Hit:
    """One request: when it was sent, tokens that it found, and could have found."""

    at: float
    found: int
    allowed: int


def hits(records: list[Record], lost: list[tuple[str, float]]) -> list[Hit]:
    """In order of sending. A request that failed found nothing."""
    shared = max((r.cached_tokens or 0 for r in records if r.turn == 0), default=0)
    of_pod = defaultdict(list)
    for pod, at in lost:
        of_pod[pod].append(at)

    def kept(record: Record, until: float) -> bool:
        return not any(record.start <= at <= until for at in of_pod[record.pod])

    held: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        if not record.failure:
            held[record.conversation].append(record)
    result = []
    for record in sorted(records, key=lambda r: r.start):
        before = [r for r in held[record.conversation] if r.end <= record.start and kept(r, record.start)]
        longest = max((r.prompt_tokens - TAIL for r in before), default=0)
        allowed = max(longest // BLOCK * BLOCK, shared)
        cached = 0 if record.failure else record.cached_tokens or 0
        result.append(Hit(record.start, min(cached, allowed), allowed))
    return result


def ratio(found: list[Hit], start: float, end: float) -> float | None:
    """Of the tokens that were allowed, those found, of requests sent in that time."""
    within = [h for h in found if start <= h.at < end]
    allowed = sum(h.allowed for h in within)
    return sum(h.found for h in within) / allowed if allowed else None


def recovered(found: list[Hit], ended: float, until: float) -> float | None:
    """Seconds after the fault's end from which on, for `WINDOW_S`, the share is reached; `None` where it never is."""
    after = 0.0
    while ended + after + WINDOW_S <= until:
        share = ratio(found, ended + after, ended + after + WINDOW_S)
        if share is not None and share >= SHARE:
            return after
        after += STEP_S
    return None
