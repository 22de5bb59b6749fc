"""Memory of the page's process over many photos of many sizes, each from a visitor of its own.

    python -m tests.measurements.demo_memory CHECKPOINT [--photos=300] [--every=50]

Sends photos as a browser does, and prints the resident memory of the server, the files that it holds, and the seconds
of each group of photos. Linux only.
"""

import argparse
import io
import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid

import numpy as np
from PIL import Image

from mpafer_jax.data.synthface.generate import face_of
from mpafer_jax.data.synthface.styles import STYLES

_SIZES = ((96, 96), (300, 200), (640, 480), (1000, 1500), (1920, 1080), (3000, 2000), (4032, 3024), (2448, 3264))


def photos() -> list[bytes]:
    """Drawn faces in the middle of images of all sizes, as JPEG."""
    face = Image.fromarray(face_of(0, "demo", 10, STYLES["colour"]).job.pixels(224))
    found = []
    for width, height in _SIZES:
        side = min(width, height) * 2 // 3
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)).resize((width, height))
        image.paste(face.resize((side, side)), ((width - side) // 2, (height - side) // 2))
        stream = io.BytesIO()
        image.save(stream, "JPEG")
        found.append(stream.getvalue())
    return found


def ask(url: str, photo: bytes, *, waits: bool = True) -> None:
    """Uploads a photo and waits for its answer, or is gone before it comes."""
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    body = head + uuid.uuid4().bytes.join((photo, b"")) + b"\r\n--x--\r\n"  # each another, as visitors' are
    (path,) = post(f"{url}/gradio_api/upload", body, "multipart/form-data; boundary=x")
    session = uuid.uuid4().hex
    file = {"path": path, "meta": {"_type": "gradio.FileData"}, "orig_name": "a.jpg"}
    call = {"data": [file, False], "fn_index": 0, "session_hash": session, "event_data": None, "trigger_id": None}
    post(f"{url}/gradio_api/queue/join", json.dumps(call).encode(), "application/json")
    if not waits:
        return
    with urllib.request.urlopen(f"{url}/gradio_api/queue/data?session_hash={session}", timeout=120) as stream:
        for line in stream:
            message = json.loads(line.removeprefix(b"data: ")) if line.startswith(b"data: ") else {}
            if message.get("msg") == "process_completed":
                assert message["success"], message["output"]
                return
    raise AssertionError("no answer")


def post(url: str, body: bytes, kind: str):
    """What the server answers, as JSON."""
    request = urllib.request.Request(url, body, {"Content-Type": kind})
    return json.loads(urllib.request.urlopen(request, timeout=60).read())


def resident(pid: int) -> int:
    """Resident memory in MiB."""
    fields = pathlib.Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()
    return int(fields[0]) // 1024


def main() -> None:
    """Serves, sends, prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("--photos", type=int, default=300)
    parser.add_argument("--every", type=int, default=50)
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "mpafer_jax.cli", "demo", f"--checkpoint={arguments.checkpoint}"]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(["env", f"TMPDIR={folder}", *command], stdout=subprocess.PIPE, text=True) as server,
    ):
        url = server.stdout.readline().split()[0].rstrip("/")
        sent = photos()
        print(f"before the first photo: {resident(server.pid)} MiB")
        started = time.monotonic()
        for number in range(1, arguments.photos + 1):
            ask(url, sent[number % len(sent)])
            if number % arguments.every == 0:
                files = [path for path in pathlib.Path(folder).rglob("*") if path.is_file()]
                seconds, started = time.monotonic() - started, time.monotonic()
                print(f"{number} photos: {resident(server.pid)} MiB, {len(files)} files, {seconds:.0f} s", flush=True)
        server.send_signal(signal.SIGTERM)
        server.communicate()


if __name__ == "__main__":
    main()
