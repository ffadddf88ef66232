"""A small hub on this machine: what the clients of Hugging Face and ModelScope ask for to fetch models, and the former to
publish them.

Repositories are folders, those of data sets under `datasets/owner/name`; every commit is a copy.
Paths and headers are those that the client asks for and reads.
"""

import base64
import hashlib
import json
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit


class Hub:
    """A running hub; `requests` lists what it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[str] = []
        self.branches: dict[str, dict[str, str]] = {}
        self.gated: set[str] = set()
        handler = type("BoundHandler", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def publish(self, model_id: str, source: Path, *, branch: str = "main") -> str:
        """Makes a commit of a folder's files and lets the branch point to it."""
        number = sum(len(branches) for branches in self.branches.values()) + len(list(self.folder.glob("*")))
        commit = hashlib.sha1(f"{model_id} {number}".encode()).hexdigest()
        shutil.copytree(source, self.folder / commit)
        self.branches.setdefault(model_id, {})[branch] = commit
        return commit

    def files(self, commit: str) -> list[Path]:
        return sorted(path for path in (self.folder / commit).rglob("*") if path.is_file())


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_args):
        pass

    def reply(self, body: bytes, *, status=200, head_only=False, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if not head_only:
            self.wfile.write(body)

    def reply_json(self, value, **options):
        self.reply(json.dumps(value).encode(), Content_Type="application/json", **options)

    def refuse(self, status: int, code: str):
        self.reply(b"", status=status, X_Error_Code=code, X_Error_Message=code)

    def commit_of(self, model_id: str, revision: str) -> str | None:
        branches = self.hub.branches[model_id]
        return revision if revision in branches.values() else branches.get(revision)

    def do_HEAD(self):
        self.answer(head_only=True)

    def do_GET(self):
        self.answer()

    def answer(self, *, head_only=False):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if path.startswith("/api/v1/"):
            return self.answer_modelscope(path)
        path = re.sub("^/api/(models/|(?=datasets/))", "/api/", path)
        api = re.fullmatch(r"/api/((?:datasets/)?[^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path)
        file = re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = api or file
        if match is None or match[1] not in self.hub.branches:
            return self.refuse(404, "RepoNotFound")
        if match[1] in self.hub.gated:
            return self.refuse(403, "GatedRepo")
        revision = (api[3] or "main") if api else file[2]
        commit = self.commit_of(match[1], revision)
        if commit is None:
            return self.refuse(404, "RevisionNotFound")
        root = self.hub.folder / commit
        if file:
            target = root / file[3]
            if not target.is_file():
                return self.refuse(404, "EntryNotFound")
            data = target.read_bytes()
            etag = f'"{hashlib.sha1(data).hexdigest()}"'
            return self.reply(data, head_only=head_only, ETag=etag, X_Repo_Commit=commit)
        files = self.hub.files(commit)
        if api[2] == "tree":
            return self.reply_json(
                [
                    {
                        "type": "file",
                        "path": str(path.relative_to(root)),
                        "size": path.stat().st_size,
                        "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
                    }
                    for path in files
                ]
            )
        siblings = [{"rfilename": str(path.relative_to(root))} for path in files]
        return self.reply_json({"id": match[1], "sha": commit, "siblings": siblings, "private": False, "tags": []})

    def answer_modelscope(self, path: str):
        """The part of ModelScope's API that its client uses to fetch."""
        match = re.fullmatch(r"/api/v1/(models/|datasets/)([^/]+/[^/]+)/(repo|repo/files|repo/tree)", path)
        if match is None:
            return self.reply_json({"Code": 200, "Success": True, "Data": {}})
        asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        model_id = f"{match[1].removeprefix('models/')}{match[2]}"
        commit = self.hub.branches.get(model_id, {}).get(asked["Revision"])
        if commit is None:
            return self.reply_json({"Code": 404, "Success": False, "Message": "not found"}, status=404)
        root = self.hub.folder / commit
        if match[3] == "repo":
            return self.reply((root / asked["FilePath"]).read_bytes())
        files = [
            {
                "Name": path.name,
                "Path": str(path.relative_to(root)),
                "Type": "blob",
                "Size": path.stat().st_size,
                "Sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "Revision": commit,
            }
            for path in self.hub.files(commit)
            if path.is_relative_to(root / asked.get("Root", "").lstrip("/"))
        ]
        return self.reply_json({"Code": 200, "Success": True, "Data": {"Files": files}})

    def do_POST(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"POST {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path == "/api/repos/create":
            values = json.loads(body)
            model_id = f"{values.get('organization') or 'me'}/{values['name']}"
            if model_id in self.hub.branches:
                return self.reply_json({"url": f"{self.hub.url}/{model_id}"}, status=409)
            empty = self.hub.folder.parent / f"empty-{len(self.hub.branches)}"
            empty.mkdir()
            self.hub.publish(model_id, empty)
            return self.reply_json({"url": f"{self.hub.url}/{model_id}", "name": model_id})
        if path == "/api/validate-yaml":
            return self.reply_json({"errors": [], "warnings": []})
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/([^/]+)", path)
        if match is None or match[1] not in self.hub.branches:
            return self.refuse(404, "RepoNotFound")
        if match[2] == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for file in json.loads(body)["files"]
            ]
            return self.reply_json({"files": files})
        before = self.hub.folder / self.hub.branches[match[1]]["main"]
        staged = self.hub.folder.parent / f"staged-{len(self.hub.requests)}"
        shutil.copytree(before, staged)
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                target = staged / line["value"]["path"]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(base64.b64decode(line["value"]["content"]))
        commit = self.hub.publish(match[1], staged)
        url = f"{self.hub.url}/{match[1]}/commit/{commit}"
        return self.reply_json({"commitUrl": url, "commitOid": commit, "hookOutput": "", "success": True})
