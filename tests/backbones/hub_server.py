"""A small Hub on the loopback: repositories are folders, and it answers what huggingface_hub asks for.

Protocol: HEAD and GET /{owner}/{name}/resolve/{revision}/{file} with ETag, X-Repo-Commit and Content-Length; GET
/api/models/{owner}/{name}/revision/{revision} and .../tree/{revision} list a repository's files as JSON; errors carry
X-Error-Code as the Hub's do. Repositories of the owner 'gated' ask for a log-in; of those of the owner 'cut' every
download of the weights breaks off half way.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Attributes: root holds folders owner/name; downloads lists the GET requests' 'owner/name/file' in order."""

    root: Path
    url: str = ""
    downloads: list[str] = field(default_factory=list)


@contextmanager
def serve(root: Path) -> Iterator[Hub]:
    """Runs a Hub in a thread; it is stopped when the block ends."""
    hub = Hub(root)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, *, with_body: bool) -> None:
            parts = self.path.partition("?")[0].strip("/").split("/")
            match parts:
                case [owner, name, "resolve", revision, file]:
                    pass
                case ["api", "models", owner, name, ("revision" | "tree"), revision]:
                    file = ""
                case _:
                    return self.refuse(400, "BadRequest")
            if not (root / owner / name).is_dir():
                return self.refuse(401, "RepoNotFound")  # the Hub does not say 404, lest private names leak
            if owner == "gated" and file:
                return self.refuse(403, "GatedRepo")
            if revision not in ("main", COMMIT):
                return self.refuse(404, "RevisionNotFound")
            if not file:
                return self.list(root / owner / name, tree=parts[4] == "tree")
            path = root / owner / name / file
            if not path.is_file():
                return self.refuse(404, "EntryNotFound")
            content = path.read_bytes()
            self.send_response(200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if with_body:
                hub.downloads.append(f"{owner}/{name}/{file}")
                if owner == "cut" and file == "model.safetensors":
                    self.wfile.write(content[: len(content) // 2])
                    self.close_connection = True
                else:
                    self.wfile.write(content)
            return None

        def list(self, folder: Path, *, tree: bool) -> None:
            files = sorted(folder.iterdir())
            names = [{"rfilename": path.name} for path in files]
            entries = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0" * 40} for f in files]
            info = {"id": "/".join(folder.parts[-2:]), "sha": COMMIT, "siblings": names}
            content = json.dumps(entries if tree else info).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
