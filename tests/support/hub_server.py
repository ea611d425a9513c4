"""A Hugging Face Hub in memory, on a free local port, for the real `huggingface_hub` client.

It implements the routes for publishing and loading models and Spaces, keeps all files in memory, counts uploaded bytes, and
injects faults on demand. Clients find it by HF_ENDPOINT. It stores large files by Git LFS, so clients need HF_HUB_DISABLE_XET=1.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

import uvicorn
import yaml
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from tests.support.hub_faults import Fault, FaultInjector, HubError

Json = dict[str, Any]

LFS_SIZE = 100_000  # bytes; larger files are stored by Git LFS, whatever their suffix
LFS_SUFFIXES = (".safetensors", ".onnx")


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(path: str, size: int) -> bool:
    """Whether a file is stored by LFS; the client never uploads empty files there."""
    return size >= LFS_SIZE or (size > 0 and path.endswith(LFS_SUFFIXES))


def etag(path: str, content: bytes) -> str:
    """The hash of a file on the Hub: SHA-256 for a large file, Git's SHA-1 for a small one."""
    return hashlib.sha256(content).hexdigest() if is_large(path, len(content)) else git_sha1(content)


def file_entry(path: str, content: bytes) -> Json:
    """A file in a tree listing; the Git blob of a large file is its LFS pointer."""
    size, oid = len(content), etag(path, content)
    entry = {"type": "file", "path": path, "size": size, "oid": oid}
    if is_large(path, size):
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n".encode()
        entry |= {"oid": git_sha1(pointer), "lfs": {"oid": oid, "size": size, "pointerSize": len(pointer)}}
    return entry


def card_data(card: str) -> Json:
    """The YAML front matter of a README.md; empty if there is none."""
    front = re.match(r"---\r?\n(.*?)\r?\n---\s*(\n|$)", card, re.DOTALL)
    data = yaml.safe_load(front[1]) if front else {}
    if not isinstance(data, dict):
        raise yaml.YAMLError("the metadata must be a mapping")
    return data


def key(request: Request) -> str:
    """The key in `Hub.repos` of the repository in a request's path."""
    kind, owner, name = (request.path_params.get(part, "models") for part in ("kind", "owner", "name"))
    return f"{owner}/{name}" if kind == "models" else f"{kind}/{owner}/{name}"


@dataclass
class Repo:
    """A model or a Space. Each commit, oldest first, has all files of the repository by path."""

    key: str  # as in URLs: owner/name for a model, spaces/owner/name for a space
    private: bool = False
    gated: bool = False
    hardware: str | None = None  # of a Space
    readers: set[str] = field(default_factory=set)  # users who may read it although it is private or gated, besides the owner
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # large files by sha256, committed or not
    awaited: set[str] = field(default_factory=set)  # large files that were announced and may be uploaded

    @property
    def owner(self) -> str:
        return self.key.removeprefix("spaces/").split("/")[0]

    @property
    def head(self) -> str:
        return next(reversed(self.commits))

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.head]

    def commit(self, files: dict[str, bytes]) -> str:
        """Make `files` the whole content of main."""
        self.objects |= {etag(path, content): content for path, content in files.items() if is_large(path, len(content))}
        parent = next(reversed(self.commits), "")
        tree = sorted((path, git_sha1(content)) for path, content in files.items())
        oid = hashlib.sha1(repr((self.key, parent, tree)).encode()).hexdigest()
        self.commits[oid] = dict(files)
        return oid

    def resolve(self, revision: str) -> str:
        oid = self.head if revision == "main" else self.tags.get(revision, revision)
        if oid not in self.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid


class Hub:
    """The Hub's state and routes. `tokens` maps access tokens to user names; everyone owns the repositories under their name.

    `requests` has the method, path and status of every response; `uploaded_bytes` counts the received bytes of files.
    """

    def __init__(self, tokens: dict[str, str] | None = None) -> None:
        self.tokens = {"hf_owner": "owner"} if tokens is None else tokens
        self.repos: dict[str, Repo] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, int]] = []
        self.uploaded_bytes = 0

        self.app = FastAPI(debug=True)  # the client's exception then has the traceback of an error in this file
        self.app.add_middleware(FaultInjector, hub=self)
        self.app.add_exception_handler(HubError, lambda _, error: error.response)
        api, repo = "/api/{kind}/{owner}/{name}", "/{owner}/{name}"
        routes = [
            ("GET", "/api/whoami-v2", self.whoami),
            ("POST", "/api/repos/create", self.create),
            ("POST", "/api/validate-yaml", self.validate_yaml),
            ("GET", api, self.info),
            ("GET", api + "/revision/{revision}", self.info),
            ("GET", api + "/tree/{revision}", self.tree),
            ("GET", api + "/tree/{revision}/{folder:path}", self.tree),
            ("GET", api + "/refs", self.refs),
            ("POST", api + "/tag/{revision}", self.tag),
            ("POST", api + "/preupload/{revision}", self.preupload),
            ("POST", api + "/commit/{revision}", self.commit),
            ("POST", api + "/hardware", self.hardware),
        ]
        for prefix in (repo, "/{kind}" + repo):
            routes += [
                ("POST", prefix + ".git/info/lfs/objects/batch", self.lfs_batch),
                ("PUT", prefix + ".git/info/lfs/objects/{oid}", self.lfs_put),
                ("GET", prefix + "/resolve/{revision}/{path:path}", self.file),
                ("HEAD", prefix + "/resolve/{revision}/{path:path}", self.file),
            ]
        for method, path, handler in routes:
            self.app.add_api_route(path, handler, methods=[method], response_model=None)

    def add_repo(self, repo_id: str, files: dict[str, bytes], private: bool = False, gated: bool = False) -> str:
        """Add a repository (for a Space, "spaces/" before its id) and return its commit."""
        self.repos[repo_id] = Repo(repo_id, private, gated)
        return self.repos[repo_id].commit(files)

    def take_fault(self, method: str, path: str) -> Fault | None:
        for at, fault in enumerate(self.faults):
            if fault.hits(method, path):
                if fault.times is not None:
                    self.faults[at : at + 1] = [replace(fault, times=fault.times - 1)] if fault.times > 1 else []
                return fault
        return None

    # Authentication and lookup

    def user(self, request: Request) -> str | None:
        authorization = request.headers.get("authorization")
        if authorization is None:
            return None
        if (token := authorization.removeprefix("Bearer ")) not in self.tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.tokens[token]

    def signed_in(self, request: Request) -> str:
        if (user := self.user(request)) is None:
            raise HubError(401, "Invalid username or password.")
        return user

    def repo(self, request: Request) -> Repo:
        """The repository in the path if the user may see it; for others, a private repository looks like a missing one."""
        user, repo = self.user(request), self.repos.get(key(request))
        if repo is None or (repo.private and user not in {repo.owner, *repo.readers}):
            raise HubError(401 if user is None else 404, "Repository not found", "RepoNotFound")
        return repo

    def own_repo(self, request: Request) -> Repo:
        repo = self.repo(request)
        if self.signed_in(request) != repo.owner:
            raise HubError(403, "You don't have the rights to write to this repository")
        return repo

    # Routes

    async def whoami(self, request: Request) -> Json:
        user = self.signed_in(request)
        return {"type": "user", "name": user, "fullname": user, "orgs": [], "auth": {"accessToken": {"role": "write"}}}

    async def create(self, request: Request) -> Response:
        user, wanted = self.signed_in(request), await request.json()
        if (owner := wanted.get("organization") or user) != user:
            raise HubError(403, f"You don't have the rights to create a repository under the namespace {owner}")
        space = wanted.get("type") == "space"
        new = Repo(f"{'spaces/' if space else ''}{owner}/{wanted['name']}", wanted.get("visibility") == "private")
        url = f"{request.base_url}{new.key}"
        if new.key in self.repos:
            return JSONResponse({"error": "You already created this repository", "url": url}, 409)
        # As on the Hub, a new repository is not empty
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
        card = {"README.md": f"---\nsdk: {wanted['sdk']}\n---\n".encode()} if space else {}
        new.commit({".gitattributes": attributes.encode()} | card)
        new.hardware = wanted.get("hardware")
        self.repos[new.key] = new
        return JSONResponse({"url": url})

    async def hardware(self, request: Request) -> Json:
        repo = self.own_repo(request)
        repo.hardware = (await request.json())["flavor"]
        return {"stage": "BUILDING", "hardware": {"current": None, "requested": repo.hardware}}

    async def validate_yaml(self, request: Request) -> Response:
        try:
            data = card_data((await request.json())["content"])
        except yaml.YAMLError as error:
            return JSONResponse({"errors": [{"message": str(error)}], "warnings": []}, 400)
        warnings = [] if data else [{"message": "empty or missing yaml metadata in repo card"}]
        return JSONResponse({"errors": [], "warnings": warnings})

    async def info(self, request: Request, revision: str = "main") -> Json:
        repo = self.repo(request)
        oid = repo.resolve(revision)
        files = repo.commits[oid]
        return {
            "id": repo.key.removeprefix("spaces/"),
            "author": repo.owner,
            "sha": oid,
            "private": repo.private,
            "gated": "auto" if repo.gated else False,
            "siblings": [{"rfilename": path} for path in sorted(files)],
            "cardData": (card := card_data(files.get("README.md", b"").decode())),
            "sdk": card.get("sdk"),  # of a space
        }

    async def tree(self, request: Request, revision: str, folder: str = "", recursive: bool = False) -> list[Json]:
        repo = self.repo(request)
        prefix = f"{folder}/" if folder else ""
        files = {path: content for path, content in repo.commits[repo.resolve(revision)].items() if path.startswith(prefix)}
        if folder and not files:
            raise HubError(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        parents = {str(parent) for path in files for parent in PurePosixPath(path).parents} - {"."}
        folders = sorted(path for path in parents if path.startswith(prefix))
        entries = [{"type": "directory", "path": path, "size": 0, "oid": git_sha1(path.encode())} for path in folders]
        entries += [file_entry(path, content) for path, content in sorted(files.items())]
        return [entry for entry in entries if recursive or "/" not in entry["path"].removeprefix(prefix)]

    async def refs(self, request: Request) -> Json:
        repo = self.repo(request)
        tags = [{"name": name, "ref": f"refs/tags/{name}", "targetCommit": oid} for name, oid in repo.tags.items()]
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repo.head}
        return {"branches": [main], "converts": [], "tags": tags, "pullRequests": []}

    async def tag(self, request: Request, revision: str) -> Json:
        repo, name = self.own_repo(request), (await request.json())["tag"]
        oid = repo.resolve(revision)
        if name in repo.tags:
            raise HubError(409, "Tag reference exists already")
        repo.tags[name] = oid
        return {"tag": name, "targetCommit": oid}

    async def preupload(self, request: Request, revision: str) -> Json:
        repo = self.own_repo(request)
        present = repo.commits[repo.resolve(revision)]
        files = []
        for wanted in (await request.json())["files"]:
            path = wanted["path"]
            mode = "lfs" if is_large(path, wanted["size"]) else "regular"
            oid = etag(path, present[path]) if path in present else None
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": files}

    async def lfs_batch(self, request: Request) -> Json:
        repo, objects = self.own_repo(request), (await request.json())["objects"]
        missing = {wanted["oid"] for wanted in objects} - set(repo.objects)
        repo.awaited |= missing
        for wanted in objects:
            if wanted["oid"] in missing:
                href = f"{request.base_url}{repo.key}.git/info/lfs/objects/{wanted['oid']}"
                wanted["actions"] = {"upload": {"href": href}}
        return {"transfer": "basic", "objects": objects}

    async def lfs_put(self, request: Request, oid: str) -> Response:
        """Store a large file. The client sends no token here; it refuses files that were not announced to the batch route."""
        content = await request.body()
        self.uploaded_bytes += len(content)
        repo = self.repos[key(request)]
        if oid not in repo.awaited:
            raise HubError(403, "This upload was not announced")
        if hashlib.sha256(content).hexdigest() != oid:
            raise HubError(400, "The content does not have the announced sha256")
        repo.objects[oid] = content
        repo.awaited.remove(oid)
        return Response()

    async def commit(self, request: Request, revision: str) -> Json:
        """Apply a commit's operations, sent one JSON object a line, to main: the only branch."""
        repo = self.own_repo(request)
        if revision != "main":
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        files = dict(repo.files)
        for line in (await request.body()).splitlines():
            operation = json.loads(line)
            value = operation["value"]
            path = value.get("path", "")
            match operation["key"]:
                case "header":
                    if not repo.head.startswith(value.get("parentCommit", "")):
                        raise HubError(412, "A commit has happened since. Please refresh and try again.")
                case "file":
                    files[path] = base64.b64decode(value["content"])
                    self.uploaded_bytes += len(files[path])
                case "lfsFile":
                    if value["oid"] not in repo.objects:
                        raise HubError(400, f"The LFS object of {path} was not uploaded")
                    files[path] = repo.objects[value["oid"]]
                case "deletedFile":
                    if files.pop(path, None) is None:
                        raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
                case "deletedFolder":
                    files = {name: content for name, content in files.items() if not name.startswith(path.rstrip("/") + "/")}
        oid = repo.commit(files)
        return {"success": True, "commitOid": oid, "commitUrl": f"{request.base_url}{repo.key}/commit/{oid}"}

    async def file(self, request: Request, revision: str, path: str) -> Response:
        """A file's content, or the requested range of it."""
        repo = self.repo(request)
        user = self.user(request)
        if repo.gated and user not in {repo.owner, *repo.readers}:
            raise HubError(401 if user is None else 403, f"Access to {repo.key} is restricted", "GatedRepo")
        oid = repo.resolve(revision)
        content = repo.commits[oid].get(path)
        if content is None:
            # With the commit, the client remembers that the file is missing
            raise HubError(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": oid})
        size, tag = len(content), f'"{etag(path, content)}"'
        headers = {"X-Repo-Commit": oid, "ETag": tag, "Accept-Ranges": "bytes"}
        if is_large(path, size):
            headers |= {"X-Linked-Etag": tag, "X-Linked-Size": str(size)}
        status = 200
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", "")):
            start, stop = int(wanted[1]), min(int(wanted[2] or size) + 1, size)
            if start >= stop:
                return Response(status_code=416, headers={"Content-Range": f"bytes */{size}"})
            status, content = 206, content[start:stop]
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return Response(content, status, headers, media_type="application/octet-stream")


@contextmanager
def serve(hub: Hub) -> Iterator[str]:
    """Run the Hub in this process, where its state can be read and changed meanwhile, and yield its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    config = uvicorn.Config(hub.app, lifespan="off", log_config=None, log_level="critical", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while thread.is_alive() and not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
