"""Gateways of 2 and 16 workers in front of 10 and 1,000 pods: part of `make bench-scale`, by itself it prints its rows. What
an idle one costs (the table comes up to ten times a second), what goes over the feed, and what a request costs: chats of
8 KB, paced, over 64 connections."""

import asyncio
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from decision_in_envoy import body, quantiles  # noqa: E402
from stack.envoy import Envoy, assert_sound  # noqa: E402
from stack.process import cpu_s, memory_bytes, wait_for  # noqa: E402
from stack.sidecar import Sidecar  # noqa: E402

PAGE = (ROOT / "metrics-sidecar" / "fixtures" / "vllm-0.32.0.txt").read_bytes()
MODELS = b'{"data":[{"id":"m"}]}'
ANSWER = json.dumps({"object": "chat.completion", "choices": [], "usage": {"prompt_tokens": 2000, "completion_tokens": 1}}).encode()
PODS = (10, 1000)
WORKERS = (2, 16)
SECONDS = 10.0
REQUESTS_PER_S = 200
CONNECTIONS = 64


class Pods:
    """Every address of 127.1.0.0/16 is a pod, at one port."""

    async def __aenter__(self) -> "Pods":
        self.server = await asyncio.start_server(self.serve, "0.0.0.0", 0, backlog=4096)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_) -> None:
        self.server.close()

    def addresses(self, pods: int) -> list[str]:
        return [f"127.1.{n >> 8}.{n & 255}:{self.port}" for n in range(pods)]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head, _ = await message(reader)
                answer = PAGE if b"/metrics" in head else MODELS if b"/v1/models" in head else ANSWER if b"POST" in head else b""
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(answer), answer))
                await writer.drain()
        writer.close()


async def message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """An HTTP/1.1 message with a length: its head and its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    _, has_body, length = head.lower().partition(b"content-length:")
    return head, await reader.readexactly(int(length.split(b"\r", 1)[0]) if has_body else 0)


async def client(port: int, number: int, answered: list[bytes]) -> None:
    """One connection's share of the requests, each at its time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    every = CONNECTIONS / REQUESTS_PER_S
    due = time.monotonic() + every * number / CONNECTIONS
    for turn in range(int(SECONDS / every)):
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        due += every
        data = json.dumps(body(8_000, number * 1000 + turn)).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % len(data) + data)
        await writer.drain()
        head, _ = await message(reader)
        answered.append(head.split(b" ", 2)[1])
    writer.close()


def feed_bytes(envoy: Envoy) -> tuple[int, int]:
    """Received and sent by the connections to the sidecar."""
    found = json.loads(envoy.get("/stats?format=json&filter=cluster.warmpath-sidecar.upstream_cx_.x_bytes_total"))
    values = {stat["name"].rsplit("_", 3)[1]: stat["value"] for stat in found["stats"]}
    return values["rx"], values["tx"]


async def gateway(addresses: list[str], workers: int, folder: Path) -> dict:
    sidecar = await asyncio.to_thread(lambda: Sidecar(folder, addresses).ready())
    try:
        envoy = await asyncio.to_thread(Envoy, folder, "streaming", addresses, sidecar.feed, None, workers)
        try:
            return await measure(envoy, len(addresses), workers)
        finally:
            envoy.stop()
    finally:
        sidecar.stop()


async def measure(envoy: Envoy, pods: int, workers: int) -> dict:
    await asyncio.to_thread(wait_for, "the table", lambda: envoy.stats().get("endpoints") == pods, 60.0)
    await asyncio.sleep(2)
    pid = envoy.process.pid
    at, cpu, (down, _) = time.monotonic(), cpu_s(pid), await asyncio.to_thread(feed_bytes, envoy)
    await asyncio.sleep(SECONDS)
    at, cpu, down = time.monotonic() - at, cpu_s(pid) - cpu, (await asyncio.to_thread(feed_bytes, envoy))[0] - down
    idle = cpu / at
    answered: list[bytes] = []
    began, cpu, (_, up) = time.monotonic(), cpu_s(pid), await asyncio.to_thread(feed_bytes, envoy)
    await asyncio.gather(*(client(envoy.port, number, answered) for number in range(CONNECTIONS)))
    took, cpu, up = time.monotonic() - began, cpu_s(pid) - cpu, (await asyncio.to_thread(feed_bytes, envoy))[1] - up
    if wrong := [status for status in answered if status != b"200"]:
        raise AssertionError(f"{len(wrong)} of {len(answered)} requests failed: {wrong[:3]}")
    # Histograms are merged when stats are flushed, twice a second.
    await asyncio.sleep(1.5)
    p50, _, p99 = await asyncio.to_thread(quantiles, envoy, "decide_us")
    assert_sound(envoy)
    return {
        "pods": pods,
        "workers": workers,
        "memory_bytes": memory_bytes(pid),
        "idle_cores": round(idle, 4),
        "feed_down_bytes_per_s": round(down / at),
        "feed_up_bytes_per_s": round(up / took),
        "requests_per_s": round(len(answered) / took, 1),
        "cpu_us_per_request": round((cpu - idle * took) / len(answered) * 1e6),
        "decide_us_p50": float(p50),
        "decide_us_p99": float(p99),
    }


async def gateways() -> list[dict]:
    rows = []
    async with Pods() as pods:
        for number in PODS:
            for workers in WORKERS:
                with tempfile.TemporaryDirectory() as folder:
                    rows.append(await gateway(pods.addresses(number), workers, Path(folder)))
                print(json.dumps(rows[-1]), flush=True)
    return rows


if __name__ == "__main__":
    asyncio.run(gateways())
