"""Checks Host and Origin headers of the demo's requests and sets its security headers."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import urllib.parse
from collections.abc import Sequence
from typing import Any, cast

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
# Browsers load nothing from other servers, whatever Gradio's pages reference.
_POLICY = (
    "default-src 'self' blob: data: 'unsafe-inline' 'unsafe-eval'; connect-src 'self' blob: data: ws: wss:; "
    "frame-ancestors 'self'; base-uri 'self'; form-action 'self'"
)


class Hosts:
    """The names of a server.

    Protects from DNS rebinding: a foreign page whose name resolves to 127.0.0.1 could reach this server. It cannot do
    so with an IP address in place of a name.
    """

    def __init__(self, host: str, allowed: Sequence[str]) -> None:
        """Of a server that listens on `host` and is also reached under the names `allowed`."""
        self._open = _is_unspecified(host)
        names = (socket.gethostname(),) if self._open else (host,)
        self._allowed = {_name(name) for name in allowed}
        self._names = {*_LOOPBACK, *(_name(name) for name in names), *self._allowed}

    def are(self, host: str) -> bool:
        """Whether a Host header, `name` or `name:port`, names this server."""
        name = _name(host)
        return name in self._names or (self._open and _is_address(name))

    def may_ask(self, origin: str, host: str) -> bool:
        """Whether a page of this origin may send requests to this host: same origin, or an allowed host."""
        place = urllib.parse.urlsplit(origin).netloc
        return place.lower() == host.lower() or _name(place) in self._allowed


class Guard:
    """ASGI middleware: refuses requests with a foreign Host or Origin."""

    def __init__(self, app: Any, hosts: Hosts) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Refuses a request or passes it on."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
        elif reason := self._refusal(scope["headers"]):
            await _refuse(scope, send, reason)
        else:
            await self._app(scope, receive, _with_policy(send) if scope["type"] == "http" else send)

    def _refusal(self, headers: Sequence[tuple[bytes, bytes]]) -> str:
        """Why a request is refused; '' if it is not."""
        hosts, origins = (
            [value.decode("latin-1") for name, value in headers if name.lower() == wanted]
            for wanted in (b"host", b"origin")
        )
        if len(hosts) != 1 or not self._hosts.are(hosts[0]):
            named = ", ".join(hosts) or "no host"
            return f"This server is not {named}; if it is to be, start it with --allowed_hosts=NAME."
        if any(not self._hosts.may_ask(origin, hosts[0]) for origin in origins):
            return f"Pages of {', '.join(origins)} may not ask this server."
        return ""


async def _refuse(scope: dict[str, Any], send: Any, reason: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": ""})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": f"{reason}\n".encode()})


def _with_policy(send: Any) -> Any:
    async def with_policy(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = cast(list[tuple[bytes, bytes]], message.setdefault("headers", []))
            headers.append((b"content-security-policy", _POLICY.encode("ascii")))
            headers.append((b"referrer-policy", b"no-referrer"))
        await send(message)

    return with_policy


def _name(host: str) -> str:
    """`name` of `name` or `name:port`, in lower case, an address without brackets; '' if malformed."""
    if "@" in host:  # user information is invalid in Host and Origin
        return ""
    with contextlib.suppress(ValueError):  # unbalanced brackets
        bare = f"[{host}]" if host.count(":") > 1 and "[" not in host else host
        return (urllib.parse.urlsplit(f"//{bare}").hostname or "").removesuffix(".")
    return ""


def _is_address(name: str) -> bool:
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(name)
        return True
    return False


def _is_unspecified(host: str) -> bool:
    """Whether listening on `host` means every address of the machine."""
    return host == "" or (_is_address(host) and ipaddress.ip_address(host).is_unspecified)
