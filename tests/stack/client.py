"""Requests, as a client would send them: standard library only, one connection a request."""

import http.client
import json
from dataclasses import dataclass, field


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict:
        return json.loads(self.body)

    @property
    def pod(self) -> str:
        """The pod that answered, by its own word."""
        return self.headers.get("x-sim-pod", "")

    @property
    def reason(self) -> str:
        return self.headers.get("x-warmpath-reason", "")

    @property
    def decision(self) -> dict[str, str]:
        """What the debug headers say of it, by the names that logs and spans have."""
        fields = ("reason", "choice", "prompt_tokens", "matched_tokens", "predicted_ttft_ms")
        return {field: self.headers["x-warmpath-" + field.replace("_", "-")] for field in fields}

    @property
    def cached(self) -> int:
        return self.json()["usage"]["prompt_tokens_details"]["cached_tokens"]


def chat_body(text: str, model: str = "sim", **more) -> dict:
    return {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 2, **more}


@dataclass
class Client:
    """Talks to one address."""

    url: str
    timeout: float = 20.0
    headers: dict[str, str] = field(default_factory=dict)

    def send(self, method: str, path: str, body=None, headers: dict | None = None, chunked: bool = False) -> Answer:
        host = self.url.removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=self.timeout)
        try:
            connection.request(method, path, body, {**self.headers, **(headers or {})}, encode_chunked=chunked)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def post(self, path: str, body: dict | bytes, headers: dict | None = None) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.send("POST", path, data, {"content-type": "application/json", **(headers or {})})

    def chat(self, text: str, headers: dict | None = None, **more) -> Answer:
        return self.post("/v1/chat/completions", chat_body(text, **more), headers)

    def explain(self, text: str, secret: str, **more) -> Answer:
        """Where that chat would go, which goes nowhere: the plugin's `explain_secret` answers."""
        return self.chat(text, {"x-warmpath-explain": secret}, **more)
