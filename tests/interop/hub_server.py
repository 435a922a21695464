"""A hub on the loopback that speaks the protocol of huggingface.co: revisions, trees, files with ranges, commits."""

import base64
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin")
"""Endings of files that are kept by sha256 (LFS), as on the hub."""


def etag(name: str, data: bytes) -> str:
    """What the hub names a file by."""
    if name.endswith(LARGE):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Hub:
    """Repositories by name; use it as a context manager.

    Attributes:
        commits: repository -> commit -> name -> content.
        branches: repository -> branch -> commit.
        wrong: name -> what is sent in the place of its content.
        cuts: name -> how often the connection is still to be cut in the middle of that file.
        private: repositories that are 401 to everybody without the token.
        requests: "METHOD path" of all requests.
    """

    token = "hf_right"

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.cuts: dict[str, int] = {}
        self.wrong: dict[str, bytes] = {}
        self.private: set[str] = set()
        self.requests: list[str] = []
        self.uploaded: dict[str, bytes] = {}
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.endpoint = f"http://127.0.0.1:{self.http.server_address[1]}"

    def __enter__(self) -> "Hub":
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def add(self, repo: str, files: Mapping[str, bytes], branch: str = "main") -> str:
        """A commit on a branch; its id."""
        commit = hashlib.sha1(repr((repo, branch, sorted(files.items()))).encode()).hexdigest()
        self.commits.setdefault(repo, {})[commit] = dict(files)
        self.branches.setdefault(repo, {})[branch] = commit
        return commit

    def head(self, repo: str) -> dict[str, bytes]:
        """The files of the main branch."""
        return self.commits[repo][self.branches[repo]["main"]]

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def answer(self, status: int, body: bytes | dict | list = b"", **headers: Any) -> None:
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                sent = {"Content-Length": len(data), "Content-Type": "application/json"}
                for name, value in (sent | {key.replace("_", "-"): value for key, value in headers.items()}).items():
                    self.send_header(name, str(value))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def refuse(self, status: int, code: str) -> None:
                self.answer(status, {"error": code}, X_Error_Code=code, X_Error_Message=code)

            def allowed(self, repo: str) -> bool:
                return repo not in hub.private or self.headers.get("Authorization") == f"Bearer {hub.token}"

            def handle_one(self) -> None:
                path = unquote(urlsplit(self.path).path)
                hub.requests.append(f"{self.command} {path}")
                length = int(self.headers.get("Content-Length") or 0)
                self.body = self.rfile.read(length)
                for pattern, method in ROUTES:
                    if match := re.fullmatch(pattern, f"{self.command} {path}"):
                        getattr(self, method)(*match.groups())
                        return
                self.refuse(404, "RepoNotFound")

            do_GET = do_HEAD = do_POST = do_PUT = handle_one

            def commit_of(self, repo: str, revision: str) -> str | None:
                """The commit; answers with the error where there is none."""
                if not self.allowed(repo):
                    self.refuse(401, "RepoNotFound")
                elif repo not in hub.commits:
                    self.refuse(404, "RepoNotFound")
                elif (commit := hub.branches[repo].get(revision, revision)) not in hub.commits[repo]:
                    self.refuse(404, "RevisionNotFound")
                else:
                    return commit
                return None

            def info(self, repo: str, revision: str = "main") -> None:
                if commit := self.commit_of(repo, revision):
                    names = [{"rfilename": name} for name in hub.commits[repo][commit]]
                    own = {"id": repo, "modelId": repo, "sha": commit, "siblings": names, "tags": []}
                    self.answer(200, own | {"private": repo in hub.private})

            def tree(self, repo: str, revision: str) -> None:
                if commit := self.commit_of(repo, revision):
                    rows = []
                    for name, data in hub.commits[repo][commit].items():
                        row: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                        if name.endswith(LARGE):
                            row["lfs"] = {"oid": etag(name, data), "size": len(data), "pointerSize": 130}
                        else:
                            row["oid"] = etag(name, data)
                        rows.append(row)
                    self.answer(200, rows)

            def file(self, _: str, repo: str, revision: str, name: str) -> None:
                commit = self.commit_of(repo, revision)
                if commit is None:
                    return
                if name not in hub.commits[repo][commit]:
                    return self.refuse(404, "EntryNotFound")
                data = hub.commits[repo][commit][name]
                headers = {"ETag": f'"{etag(name, data)}"', "X_Repo_Commit": commit, "Accept_Ranges": "bytes"}
                data = hub.wrong.get(name, data)
                start = 0
                if found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
                    start = int(found[1])
                    headers["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
                if self.command == "GET" and hub.cuts.get(name, 0) > 0:
                    hub.cuts[name] -= 1
                    self.send_response(206 if start else 200)
                    self.send_header("Content-Length", str(len(data) - start))
                    self.end_headers()
                    self.wfile.write(data[start : start + (len(data) - start) // 2])
                    self.wfile.flush()
                    self.close_connection = True
                    return
                self.answer(206 if start else 200, data[start:], **headers)

            def create(self) -> None:
                asked = json.loads(self.body)
                repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
                if self.headers.get("Authorization") != f"Bearer {hub.token}":
                    return self.refuse(401, "Unauthorized")
                if repo in hub.commits:
                    return self.answer(409, {"error": "exists", "url": f"{hub.endpoint}/{repo}"})
                hub.add(repo, {})
                if asked.get("private") or asked.get("visibility") == "private":
                    hub.private.add(repo)
                self.answer(200, {"url": f"{hub.endpoint}/{repo}", "name": repo})

            def validate(self) -> None:
                self.answer(200, {"errors": [], "warnings": []})

            def preupload(self, repo: str, revision: str) -> None:
                if self.commit_of(repo, revision):
                    files = [
                        {
                            "path": row["path"],
                            "uploadMode": "lfs" if row["path"].endswith(LARGE) else "regular",
                            "shouldIgnore": False,
                        }
                        for row in json.loads(self.body)["files"]
                    ]
                    self.answer(200, {"files": files})

            def batch(self, repo: str) -> None:
                rows = [
                    row | {"actions": {"upload": {"href": f"{hub.endpoint}/upload/{row['oid']}", "header": {}}}}
                    for row in json.loads(self.body)["objects"]
                ]
                self.answer(200, {"transfer": "basic", "objects": rows})

            def upload(self, oid: str) -> None:
                hub.uploaded[oid] = self.body
                self.answer(200)

            def commit(self, repo: str, revision: str) -> None:
                parent = self.commit_of(repo, revision)
                if parent is None:
                    return
                files = dict(hub.commits[repo][parent])
                for line in self.body.splitlines():
                    row = json.loads(line)
                    if row["key"] == "file":
                        files[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
                    elif row["key"] == "deletedFile":
                        del files[row["value"]["path"]]
                    elif row["key"] == "lfsFile":
                        files[row["value"]["path"]] = hub.uploaded[row["value"]["oid"]]
                made = hub.add(repo, files)
                self.answer(200, {"commitUrl": f"{hub.endpoint}/{repo}/commit/{made}", "commitOid": made})

        return Handler


REPO = r"([^/]+/[^/]+)"
ROUTES = (
    (rf"GET /api/models/{REPO}", "info"),
    (rf"GET /api/models/{REPO}/revision/(.+)", "info"),
    (rf"GET /api/models/{REPO}/tree/([^/]+)", "tree"),
    (rf"(GET|HEAD) /{REPO}/resolve/([^/]+)/(.+)", "file"),
    (r"POST /api/repos/create", "create"),
    (r"POST /api/validate-yaml", "validate"),
    (rf"POST /api/models/{REPO}/preupload/(.+)", "preupload"),
    (rf"POST /{REPO}\.git/info/lfs/objects/batch", "batch"),
    (r"PUT /upload/(\w+)", "upload"),
    (rf"POST /api/models/{REPO}/commit/(.+)", "commit"),
)
