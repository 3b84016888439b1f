"""What istio/observe/ adds to a gateway, and requests that can be found again in logs and spans."""

import secrets
from dataclasses import dataclass, field

import yaml

from .paths import ROOT

FOLDER = ROOT / "istio" / "observe"
FIELDS = ("reason", "choice", "prompt_tokens", "matched_tokens", "cached_tokens", "predicted_ttft_ms", "ttft_ms")


def merged(name: str) -> dict:
    """What an EnvoyFilter of the folder merges into the HTTP connection manager."""
    (patch,) = yaml.safe_load((FOLDER / name).read_text())["spec"]["configPatches"]
    assert (patch["applyTo"], patch["patch"]["operation"]) == ("NETWORK_FILTER", "MERGE")
    value = dict(patch["patch"]["value"]["typed_config"])
    assert value.pop("@type").endswith("HttpConnectionManager")
    return value


@dataclass(frozen=True)
class Traced:
    """A request that belongs to a trace of its client's."""

    trace: str = field(default_factory=lambda: secrets.token_hex(16))
    span: str = field(default_factory=lambda: secrets.token_hex(8))
    sampled: bool = True

    @property
    def parent(self) -> str:
        return f"00-{self.trace}-{self.span}-{'01' if self.sampled else '00'}"

    @property
    def headers(self) -> dict[str, str]:
        return {"traceparent": self.parent, "tracestate": "vendor=1"}
