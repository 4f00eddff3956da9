"""A small Hub on loopback: the part of the Hub's HTTP API that an upload goes through, kept in memory.

Repositories are made, files are announced (preupload), large ones are sent to a storage of their own (Git LFS: batch,
PUT; Xet: xorbs, shards), and a commit joins them. What arrives is checked as the Hub checks it: a token, hashes, a
commit of large files only once their content is here. Faults are injected by path.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import yaml

THRESHOLD = 4000  # bytes; larger files, and safetensors, go to the storage for large ones
CAS_TOKEN = "for Xet's storage only"
LARGE = (".safetensors", ".parquet")


def blob_id(data: bytes) -> str:
    """Git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Repository:
    """Branch -> path -> content; a large file by the SHA-256 of its content."""

    private: bool = False
    branches: dict[str, dict[str, bytes | str]] = field(default_factory=lambda: {"main": {}})
    commits: list[dict[str, Any]] = field(default_factory=list)


class Hub:
    """``with Hub() as hub``: serves at ``hub.address``."""

    def __init__(self) -> None:
        self.token = "hf_" + "s" * 34
        self.rights = "write"
        self.repositories: dict[str, Repository] = {}
        self.storage: dict[str, bytes] = {}
        self.xorbs: dict[str, bytes] = {}
        self.shards: list[bytes] = []
        self.requests: list[tuple[str, str]] = []
        self.received = 0
        self.waits: list[float] = []
        self.fault: Callable[[str, str], int | str | None] = lambda method, path: None
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: Any) -> None:
                pass

            def do_POST(self) -> None:
                hub.answer(self)

            do_GET = do_PUT = do_HEAD = do_POST

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Hub:
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *arguments: Any) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(timeout=10)

    def puts(self) -> list[str]:
        """Contents sent to the storage."""
        return [path for method, path in self.requests if method == "PUT"]

    def file(self, repository: str, path: str, branch: str = "main") -> bytes:
        """A committed file's content."""
        found = self.repositories[repository].branches[branch][path]
        return self.storage[found] if isinstance(found, str) else found

    # -- answering -------------------------------------------------------------------------------------------

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        method, path = request.command, request.path.partition("?")[0]
        fault = self.fault(method, path)
        if fault == "drop before":  # the connection is lost while the client sends
            request.close_connection = True
            request.connection.shutdown(socket.SHUT_RDWR)
            return
        length = request.headers.get("Content-Length")
        body = request.rfile.read(int(length)) if length is not None else _chunked(request)
        self.requests.append((method, path))
        self.received += len(body)
        if isinstance(fault, int):
            return _send(request, fault, {"error": "a fault was injected"})
        if path.startswith("/storage/"):  # addresses there are signed; no token is shown to it
            code, answer = self.store(path.removeprefix("/storage/"), body)
        elif path.startswith("/cas/") and request.headers.get("Authorization") == f"Bearer {CAS_TOKEN}":
            code, answer = self.cas(method, path.removeprefix("/cas"), body)
        elif path == "/api/validate-yaml":
            code, answer = self.validate(json.loads(body))
        elif request.headers.get("Authorization") != f"Bearer {self.token}":
            code, answer = 401, {"error": "Invalid username or password."}
        else:
            code, answer = self.api(method, path, body)
        if fault == "drop after":  # it was done, and the answer is lost
            request.close_connection = True
            request.connection.shutdown(socket.SHUT_RDWR)
            return
        _send(request, code, answer)

    def store(self, oid: str, body: bytes) -> tuple[int, Any]:
        if hashlib.sha256(body).hexdigest() != oid:
            return 400, {"error": "the content is not what was announced"}
        self.storage[oid] = body
        return 200, {}

    def cas(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Xet's storage: blocks of chunks (xorbs), then the list of the files they make (shards)."""
        if method == "POST" and "/xorbs/" in path:
            fresh = path not in self.xorbs
            self.xorbs[path] = body
            return 200, {"was_inserted": fresh}
        if (method, path) == ("POST", "/v1/shards"):
            self.shards.append(body)
            return 200, {"result": 1}
        return 404, {"error": f"no such address: {method} {path}"}

    def validate(self, asked: dict[str, Any]) -> tuple[int, Any]:
        block = re.match(r"---\n(.*?)\n---\n", asked["content"], re.DOTALL)
        if block is None or not isinstance(yaml.safe_load(block[1]), dict):
            return 400, {"error": "no metadata", "errors": [{"message": "no metadata"}], "warnings": []}
        return 200, {"errors": [], "warnings": []}

    def api(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if self.rights != "write" and method != "GET":
            return 403, {"error": "Forbidden: you must use a write token"}
        if match := re.fullmatch(r"/(datasets/)?(.+?/.+?)\.git/info/lfs/objects/(batch|verify)", path):
            batch = match[3] == "batch"
            return self.batch(json.loads(body)) if batch else self.verify(json.loads(body))
        match = re.fullmatch(r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/([\w-]+)/(.+))?", path)
        if match is None:
            return 404, {"error": f"no such address: {method} {path}"}
        key = match[2] if match[1] == "model" else f"datasets/{match[2]}"
        if key not in self.repositories:
            return 404, {"error": "Repository not found"}
        repository, revision = self.repositories[key], unquote(match[4] or "main")
        if match[3] == "branch":
            if revision in repository.branches:
                return 409, {"error": "Reference already exists"}
            repository.branches[revision] = dict(repository.branches["main"])
            return 200, {}
        if revision not in repository.branches:
            return 404, {"error": "Invalid rev id"}
        files = repository.branches[revision]
        if match[3] == "preupload":
            return self.preupload(files, json.loads(body))
        if match[3] == "commit":
            return self.commit(key, files, [json.loads(line) for line in body.splitlines()])
        if match[3] == "xet-write-token":
            token = {"accessToken": CAS_TOKEN, "exp": 4_000_000_000, "casUrl": f"{self.address}/cas"}
            return 200, token
        if method == "GET":
            return 200, {
                "id": match[2],
                "sha": self.head(repository),
                "siblings": [],
                "private": repository.private,
            }
        return 404, {"error": f"no such address: {method} {path}"}

    def create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        name = f"{asked['organization']}/{asked['name']}"
        if self.rights != "write":
            return 403, {"error": "You don't have the rights to create a model under this namespace"}
        key = name if asked.get("type") != "dataset" else f"datasets/{name}"
        if key in self.repositories:
            return 409, {"error": "You already created this repo", "url": f"{self.address}/{key}"}
        self.repositories[key] = Repository(private=asked.get("visibility") == "private")
        return 200, {"url": f"{self.address}/{key}"}

    def preupload(self, files: dict[str, bytes | str], asked: dict[str, Any]) -> tuple[int, Any]:
        answer = []
        for file in asked["files"]:
            large = file["size"] > THRESHOLD or file["path"].endswith(LARGE)
            there = files.get(file["path"])
            oid = there if isinstance(there, str) or there is None else blob_id(there)
            entry = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            answer.append(entry | ({"oid": oid} if oid else {}))
        return 200, {"files": answer}

    def batch(self, asked: dict[str, Any]) -> tuple[int, Any]:
        objects = []
        for entry in asked["objects"]:
            found = {"oid": entry["oid"], "size": entry["size"]}
            if entry["oid"] not in self.storage:
                found["actions"] = {
                    "upload": {"href": f"{self.address}/storage/{entry['oid']}", "header": {}}
                }
            objects.append(found)
        return 200, {"transfer": "basic", "objects": objects}

    def verify(self, asked: dict[str, Any]) -> tuple[int, Any]:
        there = self.storage.get(asked["oid"])
        return (
            (200, {}) if there is not None and len(there) == asked["size"] else (404, {"error": "not here"})
        )

    def commit(self, key: str, files: dict[str, bytes | str], lines: list[dict[str, Any]]) -> tuple[int, Any]:
        repository = self.repositories[key]
        fresh: dict[str, bytes | str] = {}
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                fresh[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile" and (value["oid"] in self.storage or self.shards):
                fresh[value["path"]] = value["oid"]
            else:
                return 400, {"error": f"{value['path']}: its content was not uploaded"}
        files |= fresh
        repository.commits.append({"summary": lines[0]["value"]["summary"], "files": sorted(fresh)})
        head = self.head(repository)
        return 200, {"commitUrl": f"{self.address}/{key}/commit/{head}", "commitOid": head}

    def head(self, repository: Repository) -> str:
        return hashlib.sha1(str(len(repository.commits)).encode()).hexdigest()


def _chunked(request: BaseHTTPRequestHandler) -> bytes:
    """The body of a request that does not say how long it is."""
    if request.headers.get("Transfer-Encoding", "").lower() != "chunked":
        return b""
    parts = []
    while size := int(request.rfile.readline().strip() or b"0", 16):
        parts.append(request.rfile.read(size))
        request.rfile.readline()
    request.rfile.readline()
    return b"".join(parts)


def _send(request: BaseHTTPRequestHandler, code: int, answer: Any) -> None:
    data = json.dumps(answer).encode()
    request.send_response(code)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(data)))
    if isinstance(answer, dict) and "casUrl" in answer:
        request.send_header("X-Xet-Cas-Url", answer["casUrl"])
        request.send_header("X-Xet-Access-Token", answer["accessToken"])
        request.send_header("X-Xet-Token-Expiration", str(answer["exp"]))
    if isinstance(answer, dict) and "error" in answer:
        request.send_header("X-Error-Message", answer["error"])
        if "Repository not found" in answer["error"]:
            request.send_header("X-Error-Code", "RepoNotFound")
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(data)
