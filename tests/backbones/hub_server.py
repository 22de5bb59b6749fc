"""A small Hub on the loopback: repositories are folders, and it answers what huggingface_hub asks for.

Protocol: HEAD and GET /{owner}/{name}/resolve/{revision}/{file} with ETag, X-Repo-Commit and Content-Length; GET
/api/models/{owner}/{name}/revision/{revision} and .../tree/{revision} list a repository's files as JSON; of datasets
/datasets/{owner}/... and /api/datasets/...; errors carry X-Error-Code as the Hub's do. Repositories of the owner
'gated' ask for a log-in; of those of the owner 'cut' every download of the weights breaks off half way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.http_server import Handler, serving

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

    class HubHandler(Handler):
        def do_GET(self) -> None:  # noqa: N802 - http.server's name
            match self.path.partition("?")[0].strip("/").removeprefix("datasets/").split("/"):
                case [owner, name, "resolve", revision, *parts]:
                    kind, file = "file", "/".join(parts)
                case ["api", ("models" | "datasets"), owner, name, ("revision" | "tree") as kind, revision]:
                    file = ""
                case _:
                    return self.refuse(400, "BadRequest")
            folder = root / owner / name
            if not folder.is_dir():
                return self.refuse(401, "RepoNotFound")  # the Hub does not say 404, lest private names leak
            if owner == "gated" and file:
                return self.refuse(403, "GatedRepo")
            if revision not in ("main", COMMIT):
                return self.refuse(404, "RevisionNotFound")
            sizes = {
                f.relative_to(folder).as_posix(): f.stat().st_size for f in sorted(folder.rglob("*")) if f.is_file()
            }
            if kind == "revision":
                names = [{"rfilename": name} for name in sizes]
                return self.json({"id": f"{owner}/{name}", "sha": COMMIT, "siblings": names})
            if kind == "tree":
                blank = {"type": "file", "oid": "0" * 40}
                return self.json([{**blank, "path": name, "size": size} for name, size in sizes.items()])
            if not (folder / file).is_file():
                return self.refuse(404, "EntryNotFound")
            content = (folder / file).read_bytes()
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
            if self.command == "GET":
                hub.downloads.append(f"{owner}/{name}/{file}")
            if cut := owner == "cut" and file == "model.safetensors":
                self.close_connection = True
            return self.send(200, content, headers, len(content) // 2 if cut else None)

        def json(self, value: object) -> None:
            self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def refuse(self, status: int, code: str) -> None:
            self.send(status, headers={"X-Error-Code": code, "X-Error-Message": code, "X-Repo-Commit": COMMIT})

    with serving(HubHandler) as hub.url:
        yield hub
