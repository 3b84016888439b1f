"""Pods that die, hang, answer errors, or are slow. All but a kill leave the cache as it is."""

import time
from collections.abc import Iterator

from ..side import Side
from .fault import fault


def _back(*pods) -> None:
    for pod in pods:
        pod.process.start()
    for pod in pods:
        pod.ready()


@fault()
def pod_killed(side: Side) -> Iterator[None]:
    side.kill(side.pods[0])
    yield
    _back(side.pods[0])


@fault()
def half_of_the_pods_killed(side: Side) -> Iterator[None]:
    gone = side.pods[: len(side.pods) // 2]
    side.kill(*gone)
    yield
    _back(*gone)


@fault()
def all_pods_killed(side: Side) -> Iterator[None]:
    side.kill(*side.pods)
    yield
    _back(*side.pods)


def _behaving(name: str, kind: str, **more) -> None:
    def run(side: Side) -> Iterator[None]:
        side.pods[0].behave(kind, **more)
        yield
        side.pods[0].behave("normal")

    run.__name__ = name
    fault()(run)


_behaving("pod_hangs_before_the_first_byte", "hang")
_behaving("pod_hangs_mid-stream", "hang_mid_stream")
for _code in (500, 503, 429):
    _behaving(f"pod_answers_{_code}", "status", code=_code)
_behaving("pod_resets_connections", "reset")
_behaving("pod_slow_by_10x", "slow", factor=10)


@fault()
def pod_out_of_KV_memory(side: Side) -> Iterator[None]:  # noqa: N802 - as it is written
    pod = side.pods[0]
    pod.behave("out_of_memory")
    side.lost.append((pod.address, time.time()))
    yield
    pod.behave("normal")
    side.lost.append((pod.address, time.time()))
