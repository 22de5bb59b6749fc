"""What the page's server refuses, deletes and gives back; without the page."""

import asyncio
import platform
import socket
import subprocess
import sys
import time

import pytest

from mpafer_jax.inference.demo import page
from mpafer_jax.inference.demo.guard import Guard, Hosts
from mpafer_jax.runtime.errors import ConfigError


def status(hosts, headers, kind="http", path="/gradio_api/upload"):
    """What a guarded server answers: an HTTP status, or 'accepted' and 'closed' of a web socket."""
    sent = []

    async def page(scope, receive, send):
        start = {"type": "http.response.start", "status": 200, "headers": []}
        await send(start if kind == "http" else {"type": "websocket.accept"})

    async def send(message):
        sent.append(message)

    scope = {"type": kind, "path": path, "headers": [(n.lower().encode(), v.encode()) for n, v in headers]}
    asyncio.run(Guard(page, hosts)(scope, None, send))
    if kind == "websocket":
        return {"websocket.accept": "accepted", "websocket.close": "closed"}[sent[0]["type"]]
    policies = [value for name, value in sent[0]["headers"] if name == b"content-security-policy"]
    assert len(policies) == (sent[0]["status"] == 200)
    return sent[0]["status"]


@pytest.mark.parametrize(
    ("listens", "allowed", "host", "answered"),
    [
        ("127.0.0.1", (), "127.0.0.1:7860", True),
        ("127.0.0.1", (), "LocalHost:7860", True),
        ("127.0.0.1", (), "localhost.", True),
        ("127.0.0.1", (), "[::1]:7860", True),
        ("127.0.0.1", (), "rebound.example", False),
        ("127.0.0.1", (), "127.0.0.1.rebound.example:7860", False),
        ("127.0.0.1", (), "localhost.rebound.example", False),
        ("127.0.0.1", (), "rebound.example@localhost", False),
        ("127.0.0.1", (), "192.168.1.5:7860", False),
        ("127.0.0.1", (), "", False),
        ("127.0.0.1", (), "[::1", False),
        ("127.0.0.1", ("Faces.example.org",), "faces.example.org", True),
        ("192.168.1.5", (), "192.168.1.5:7860", True),
        ("faces.local", (), "faces.local:7860", True),
        ("::1", (), "[::1]:7860", True),
        ("0.0.0.0", (), "192.168.1.5:7860", True),  # an address can be nobody else's name
        ("::", (), "[fe80::1]:7860", True),
        ("0.0.0.0", (), f"{platform.node()}:7860", True),
        ("0.0.0.0", (), "rebound.example", False),
    ],
)
def test_hosts(listens, allowed, host, answered):
    hosts = Hosts(listens, allowed)
    for path in ("/", "/gradio_api/upload", "/gradio_api/file=/etc/passwd"):
        assert status(hosts, [("Host", host)], path=path) == (200 if answered else 403)
    assert status(hosts, [("Host", host)], kind="websocket") == ("accepted" if answered else "closed")


def test_origins():
    hosts = Hosts("127.0.0.1", ("faces.example.org",))
    own = ("Host", "localhost:7860")
    assert status(hosts, [own, ("Origin", "http://localhost:7860")]) == 200
    assert status(hosts, [("Host", "127.0.0.1:80"), ("Origin", "https://faces.example.org")]) == 200  # a proxy's page
    for other in ("http://other.example", "http://localhost:3000", "http://127.0.0.1:7860", "null", ""):
        assert status(hosts, [own, ("Origin", other)]) == 403
    assert status(hosts, []) == 403
    assert status(hosts, [own, ("Host", "rebound.example")]) == 403


def test_an_address_that_cannot_be_listened_on_is_refused_at_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            ConfigError, match=rf"--port={port}: 127\.0\.0\.1 cannot be listened on there .*another port"
        ):
            page.check_address("127.0.0.1", port)
    page.check_address("127.0.0.1", port)
    page.check_address("127.0.0.1", 0)
    with pytest.raises(ConfigError, match="--host=::1: Gradio serves no IPv6 address"):
        page.check_address("::1", 0)


def test_old_photos_are_deleted_and_what_they_leave_empty(tmp_path):
    (tmp_path / "hash").mkdir()
    for path in (tmp_path / "hash" / "photo.png", tmp_path / "upload"):
        path.write_bytes(b"x")
    page.delete_older(tmp_path, 60)
    assert (tmp_path / "hash" / "photo.png").is_file()
    page.delete_older(tmp_path, -1)
    assert list(tmp_path.iterdir()) == []
    page.delete_older(tmp_path / "gone", -1)  # is no error


def test_photos_are_deleted_again_and_again(tmp_path):
    page.delete_in_time(tmp_path, 0.02)
    for number in range(3):
        photo = tmp_path / f"{number}.png"
        photo.write_bytes(b"x")
        limit = time.monotonic() + 60
        while photo.exists():
            assert time.monotonic() < limit
            time.sleep(0.01)


@pytest.mark.processes
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_freed_blocks_go_back_to_the_system():
    program = """
import pathlib, numpy
from mpafer_jax.inference.demo import page
def resident():
    return int(pathlib.Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) >> 10
def decode():
    photos = [numpy.ones(8 << 20, numpy.uint8) for _ in range(20)]
    return numpy.ones(1000)  # lies above them
page.return_large_blocks()
numpy.ones(30 << 20, numpy.uint8)  # from here on glibc would keep blocks of that size
before = resident()
left = decode()
print(resident() - before)
"""
    grown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert int(grown) < 16
