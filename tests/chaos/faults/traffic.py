"""Clients that behave badly, and a clock that jumps."""

import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.request import urlopen

from stack.client import chat_body
from stack.process import wait_for

from ..side import Side
from .fault import fault

IDLE = 5_000
# Clients that leave, each again and again.
LEAVERS = 8


def _connect(side: Side) -> socket.socket:
    return socket.create_connection(("127.0.0.1", side.envoy.port), timeout=5)


@fault()
def idle_connections(side: Side) -> Iterator[None]:
    """Open connections that send nothing."""
    sockets = []
    try:
        for _ in range(IDLE):
            sockets.append(_connect(side))
        side.notes["idle"] = len(sockets)
        yield
    finally:
        for one in sockets:
            one.close()


def _request(text: str, **more) -> bytes:
    body = json.dumps(chat_body(text, **more)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _mid_body(side: Side) -> None:
    whole = _request("half of a body " * 2000)
    with _connect(side) as one:
        one.sendall(whole[: len(whole) // 2])
        time.sleep(0.02)


def _mid_stream(side: Side) -> None:
    with _connect(side) as one:
        one.sendall(_request("half of a stream " * 50, stream=True, max_tokens=400))
        one.recv(4096)


def _leaving(name: str, leave: Callable[[Side], None]) -> None:
    def run(side: Side) -> Iterator[None]:
        over = threading.Event()
        left = [0] * LEAVERS

        def again(n: int) -> None:
            while not over.wait(0.05):
                try:
                    leave(side)
                    left[n] += 1
                except OSError:
                    pass

        threads = [threading.Thread(target=again, args=(n,), daemon=True) for n in range(LEAVERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()
        side.notes["left"] = sum(left)

    run.__name__ = name
    fault()(run)


_leaving("clients_leave_mid-body", _mid_body)
_leaving("clients_leave_mid-stream", _mid_stream)

_CLOCK = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
/* Seconds that are added to the time of day, in a file that somebody else writes. */
static volatile long *offset;
__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CHAOS_CLOCK");
    int file = path ? open(path, O_RDONLY) : -1;
    void *at = file < 0 ? MAP_FAILED : mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    if (at != MAP_FAILED) offset = at;
}
int clock_gettime(clockid_t id, struct timespec *t) {
    int failed = syscall(SYS_clock_gettime, id, t);
    if (!failed && offset && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) t->tv_sec += *offset;
    return failed;
}
int gettimeofday(struct timeval *t, void *zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    t->tv_sec = now.tv_sec;
    t->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *t) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (t) *t = now.tv_sec;
    return now.tv_sec;
}
"""


def _clocked(ends: ExitStack, plain: bool, folder: Path) -> dict:
    """Envoy and sidecar with a clock that a file moves."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "clock.c").write_text(_CLOCK)
    library = folder / "clock.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, folder / "clock.c"], check=True)
    _step(folder, 0)
    return {"env": {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(folder / "clock")}}


def _step(folder: Path, seconds: int) -> None:
    """In place: processes have mapped the file."""
    file = folder / "clock"
    with file.open("r+b" if file.exists() else "wb") as clock:
        clock.write(seconds.to_bytes(8, "little", signed=True))


@fault(options=_clocked)
def clock_stepped_by_an_hour(side: Side) -> Iterator[None]:
    """Forward as it begins, back as it ends, of Envoy and sidecar."""
    _step(side.folder.parent / f"{side.folder.name}-parts", 3600)
    wait_for("Envoy's clock to have moved", lambda: _hour_off(side))
    yield
    _step(side.folder.parent / f"{side.folder.name}-parts", 0)


def _hour_off(side: Side) -> bool:
    """By the date that Envoy writes into its answers."""
    with urlopen(f"http://127.0.0.1:{side.envoy.admin}/ready", timeout=5) as answer:
        said = parsedate_to_datetime(answer.headers["date"]).timestamp()
    return said - time.time() > 3000
