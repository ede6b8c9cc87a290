"""A stand-in for the hub on this machine: repositories that are created, filled and read by huggingface_hub."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_right"
COMMIT = "0" * 39 + "1"


class _Hub(BaseHTTPRequestHandler):
    repositories: dict  # name -> {file: bytes}
    objects: dict  # sha256 -> bytes

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._json({"error": "Invalid token"}, 401)
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            if name in self.repositories:
                return self._json({"error": "exists", "url": f"{self._here()}/{name}"}, 409)
            self.repositories[name] = {}
            return self._json({"url": f"{self._here()}/{name}", "name": name})
        if self.path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if match := re.fullmatch(r"/api/models/(.+)/preupload/main", self.path):
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": p, "uploadMode": "lfs" if p.endswith("tensors") else "regular"} for p in files]
            return self._json({"files": [mode | {"shouldIgnore": False} for mode in modes]})
        if match := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", self.path):
            put = [
                {"oid": item["oid"], "size": item["size"], "actions": {"upload": {"href": f"{self._here()}/lfs"}}}
                for item in json.loads(body)["objects"]
            ]
            return self._json({"transfer": "basic", "objects": put})
        if match := re.fullmatch(r"/api/models/(.+)/commit/main", self.path):
            for line in body.splitlines():
                kind, value = (entry := json.loads(line))["key"], entry["value"]
                if kind == "file":
                    self.repositories[match[1]][value["path"]] = base64.b64decode(value["content"])
                if kind == "lfsFile":
                    self.repositories[match[1]][value["path"]] = self.objects[value["oid"]]
            return self._json({"success": True, "commitOid": COMMIT, "commitUrl": f"{self._here()}/{match[1]}"})
        return self._json({"error": f"unknown {self.path}"}, 404)

    def do_PUT(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.objects[hashlib.sha256(data).hexdigest()] = data
        self._json({})

    def do_GET(self):
        if match := re.match(r"/api/models/([^/]+/[^/]+)/tree/", self.path):
            files = self.repositories[match[1]]
            return self._json([{"type": "file", "path": n, "size": len(d), "oid": "0" * 40} for n, d in files.items()])
        if match := re.match(r"/api/models/([^/]+/[^/?]+)", self.path):
            if match[1] not in self.repositories:
                return self._json({"error": "not here"}, 404)
            names = [{"rfilename": name} for name in self.repositories[match[1]]]
            return self._json({"id": match[1], "sha": COMMIT, "siblings": names, "private": False, "tags": []})
        if match := re.match(r"/([^/]+/[^/]+)/resolve/[^/]+/([^?]+)", self.path):
            data = self.repositories.get(match[1], {}).get(match[2])
            if data is None:
                return self._json({"error": "no such file"}, 404, {"X-Error-Code": "EntryNotFound"})
            more = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
            return self._send(data, 200, more | {"Content-Type": "application/octet-stream"})
        return self._json({"error": f"unknown {self.path}"}, 404)

    do_HEAD = do_GET

    def _here(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def _json(self, value, status=200, more=None):
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json"} | (more or {}))

    def _send(self, data, status, headers):
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_):
        pass


@contextmanager
def hub():
    """(address, repositories) of a hub that runs within the block."""
    handler = type("Hub", (_Hub,), {"repositories": {}, "objects": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.repositories
    finally:
        server.shutdown()
        server.server_close()
