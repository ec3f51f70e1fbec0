"""A server on this machine that keeps repositories as the Hugging Face hub does."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import yaml

COMMIT = "a" * 40


@dataclass
class HubServer:
    """The content of each file by repository and path, and which repositories are private."""

    address: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """Run the server until the block ends."""
    hub = HubServer()

    class Handler(_Handler):
        server_state = hub

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: HubServer

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        hub, parts = self.server_state, self._parts()
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name not in hub.repositories:
                hub.repositories[name] = {}
                if asked.get("private") or asked.get("visibility") == "private":
                    hub.private.add(name)
            self._answer({"url": f"{hub.address}/{name}"})
            return
        if parts == ["api", "validate-yaml"]:
            card = yaml.safe_load(json.loads(body)["content"].split("---")[1])
            errors = [] if isinstance(card, dict) else [{"message": "The metadata is no mapping."}]
            self._answer({"errors": errors, "warnings": []})
            return
        name = "/".join(parts[2:4])
        if parts[4] == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self._answer({"files": files})
        elif parts[4] == "commit":
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    hub.repositories[name][entry["value"]["path"]] = content
            url = f"{hub.address}/{name}/commit/{COMMIT}"
            self._answer({"commitUrl": url, "commitOid": COMMIT, "hookOutput": ""})
        else:
            self._missing("RepoNotFound")

    def do_GET(self) -> None:
        parts = self._parts()
        name, path = "/".join(parts[:2]), "/".join(parts[4:])
        files = self.server_state.repositories.get(name)
        if files is None:
            self._missing("RepoNotFound")
        elif parts[3] not in ("main", COMMIT):
            self._missing("RevisionNotFound")
        elif path not in files:
            self._missing("EntryNotFound")
        else:
            self._send(200, files[path], {"ETag": f'"{hashlib.sha256(files[path]).hexdigest()}"'})

    def do_HEAD(self) -> None:
        self.do_GET()

    def _parts(self) -> list[str]:
        return urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).strip("/").split("/")

    def _missing(self, code: str) -> None:
        self._send(404, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def _answer(self, value: dict[str, Any]) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in (headers | {"X-Repo-Commit": COMMIT}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
