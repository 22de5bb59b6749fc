"""A small server on the loopback that speaks OpenAI's chat/completions protocol, and misbehaves as it is told.

Protocol: POST /v1/chat/completions with JSON, answered with a `chat.completion`; GET /v1/models; errors are
{"error": {"message", "type", "param", "code"}}.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.http_server import Handler, serving

MODEL = "tiny-1"
REPORTED = "tiny-1-2026-05-01"


@dataclass
class Say:
    """An answer of the model's."""

    text: str | None
    finish_reason: str = "stop"
    refusal: str | None = None


@dataclass
class Fail:
    """An error of the server's."""

    status: int
    message: str = "it went wrong"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Raw:
    """Any body, with status 200."""

    body: str
    content_type: str = "application/json"


@dataclass
class Silence:
    """No answer for some seconds, or until the server stops."""

    seconds: float


@dataclass
class Request:
    """What the server was asked: body as JSON, headers in lower case, and when."""

    body: dict
    headers: dict[str, str]
    at: float

    @property
    def asked(self) -> str:
        """The first question of the conversation."""
        return next(message["content"] for message in self.body["messages"] if message["role"] == "user")


Behaviour = Callable[[Request], Say | Fail | Raw | Silence]


@dataclass
class Server:
    """Attributes: `url` for the client; the requests so far; how to behave, called for each request."""

    url: str
    behave: Behaviour
    requests: list[Request] = field(default_factory=list)

    def questions(self) -> list[str]:
        return [request.asked for request in self.requests]


def good(request: Request) -> Say:
    """A usable answer: as many different texts as were asked for, other ones for each question."""
    count = int(re.search(r"Give (\d+|one) description", request.asked)[1].replace("one", "1"))
    shade = ("pale", "soft", "dark", "thin", "broad", "long", "small")[len(request.asked) % 7]
    texts = [f"{shade} lines {'and folds ' * i}on the skin" for i in range(count)]
    return Say(json.dumps({"descriptions": [{"text": text, "action_units": [12, 6]} for text in texts]}))


def in_turn(*steps, then: Behaviour = good) -> Behaviour:
    """Each step once, a step being a thing to do or a behaviour; then another behaviour for good."""
    left = list(steps)

    def behave(request):
        step = left.pop(0) if left else then
        return step(request) if callable(step) else step

    return behave


@contextmanager
def serve(behave: Behaviour = good) -> Iterator[Server]:
    """Runs the server in a thread until the block ends."""
    stopping = threading.Event()
    state = Server("", behave)

    class ChatHandler(Handler):
        def do_GET(self):  # noqa: N802 - http.server's name
            if self.path != "/v1/models":
                return self.fail(404, "no such page")
            return self.json({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

        def do_POST(self):  # noqa: N802
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != "/v1/chat/completions":
                return self.fail(404, "no such page")
            request = Request(body, {k.lower(): v for k, v in self.headers.items()}, time.monotonic())
            state.requests.append(request)
            if body["model"] != MODEL:
                return self.fail(404, f"no model {body['model']}")
            action = state.behave(request)
            match action:
                case Silence(seconds):
                    stopping.wait(seconds)
                    self.close_connection = True
                    return None
                case Fail(status, message, headers):
                    return self.fail(status, message, headers)
                case Raw(text, content_type):
                    return self.send(200, text.encode(), {"Content-Type": content_type})
            message = {"role": "assistant", "content": action.text, "refusal": action.refusal}
            choice = {"index": 0, "message": message, "finish_reason": action.finish_reason}
            kind = {"id": "1", "object": "chat.completion", "created": 1, "model": REPORTED}
            return self.json({**kind, "choices": [choice]})

        def fail(self, status, message, headers=None):
            self.json({"error": {"message": message}}, status, headers)

        def json(self, value, status=200, headers=None):
            self.send(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    with serving(ChatHandler) as url:
        state.url = f"{url}/v1"
        try:
            yield state
        finally:
            stopping.set()
