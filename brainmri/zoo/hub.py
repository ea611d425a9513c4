"""Download entries from the Hugging Face Hub and publish them; no other module uses the Hub.

Everything goes through the public `huggingface_hub` client, its cache and its environment (`HF_HOME`, `HF_TOKEN`,
`HF_HUB_OFFLINE`, `HF_ENDPOINT`). Failures are raised as `HubError`, with a message of one sentence.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from brainmri.zoo.entry import CARD, CONFIG, SPLIT, WEIGHTS, file_sha256, read_entry

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

LOGIN = "`hf auth login` or HF_TOKEN"
ATTEMPTS = 2  # a damaged download is repeated once, then refused


class HubError(RuntimeError):
    """A repo cannot be read or written."""


class HubUnreachable(HubError):
    """The Hub does not answer, and the local cache has no copy."""


def fetch(repo: str, revision: str | None = None, token: str | None = None, cached_only: bool = False) -> Path:
    """Download the missing files of an entry and check all of them; they are from one commit.

    Args:
        repo: "owner/name".
        revision: branch, tag or commit; None for the main branch. A cached full commit needs no connection.
        token: for private and gated repos; None for the token of `hf auth login` or `HF_TOKEN`.
        cached_only: use only the local cache.

    Returns:
        The folder in the local cache.

    Raises:
        HubUnreachable: if the Hub does not answer and the cache has no copy.
        HubError: if the repo is missing or closed, does not have this layout, or is damaged twice in a row.
    """
    from huggingface_hub.errors import RemoteEntryNotFoundError

    cached_only = cached_only or not (_is_cached(repo, revision) or _is_reachable())

    def get(name: str, at: str | None) -> Path:
        return _download(repo, name, at, token, cached_only)

    config = get(CONFIG, revision)
    commit = config.parent.name
    get(WEIGHTS, commit)
    for name in (SPLIT, CARD):  # optional: other people's repos may lack them
        try:
            get(name, commit)
        except HubError as error:
            if not isinstance(error.__cause__, RemoteEntryNotFoundError) and not cached_only:
                raise
    try:
        entry = read_entry(config.parent)
    except ValueError as error:
        raise HubError(f"{repo} on the Hub is not a model of this layout: {error}") from error
    for name, sha256 in entry.hashes.items():
        if file_sha256(get(name, commit)) != sha256:
            raise HubError(f"{repo}: {name} does not have the SHA-256 that its {CONFIG} names; its author must upload it again")
    return config.parent


def cached(folder: Path) -> tuple[str, str] | None:
    """OWNER/NAME and commit of a folder in the local cache; None for any other folder."""
    if folder.parent.name != "snapshots" or not (repo := folder.parents[1].name).startswith("models--"):
        return None
    return repo.removeprefix("models--").replace("--", "/"), folder.name


def _is_cached(repo: str, revision: str | None) -> bool:
    """Whether the local cache has the configuration; then the client uses the cache at once if the Hub does not answer."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(repo, CONFIG, revision=revision), str)
    except HFValidationError:  # `_download` reports it
        return True


def _is_reachable() -> bool:
    """Whether the Hub answers at all. Without an answer, the client would retry for 24 s, and for minutes behind a firewall."""
    from huggingface_hub import constants, get_session

    for attempt in range(1, ATTEMPTS + 1):
        try:
            get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        except Exception:  # offline, refused, no such host, too late
            if attempt < ATTEMPTS and not constants.HF_HUB_OFFLINE:
                time.sleep(1)
        else:
            return True
    return False


def _download(repo: str, name: str, revision: str | None, token: str | None, cached_only: bool) -> Path:
    """Download one file and check it against its hash on the Hub."""
    from huggingface_hub import hf_hub_download

    for attempt in range(1, ATTEMPTS + 1):
        try:
            path = Path(hf_hub_download(repo, name, revision=revision, token=token, local_files_only=cached_only))
        except Exception as error:
            if attempt < ATTEMPTS and _is_transient(error):
                continue
            raise _explain_download_error(error, repo, name, revision) from error
        if _intact(path):
            return path
        # remove it from the cache
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        if cached_only:
            raise HubUnreachable(f"the cached {name} of {repo} is damaged and was removed")
    raise HubError(f"{repo}: {name} was damaged in {ATTEMPTS} downloads in a row and was removed; try again later")


def _intact(path: Path) -> bool:
    """Whether a cached file matches its name in the cache: its SHA-256 if it is large, else its Git blob hash."""
    name = path.resolve().name
    if len(name) == 64:
        return file_sha256(path) == name
    return len(name) != 40 or git_blob_hash(path.read_bytes()) == name


def git_blob_hash(content: bytes) -> str:
    """The hex SHA-1 of a small file in Git and on the Hub."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _is_transient(error: Exception) -> bool:
    """Whether a retry may help: a broken transfer or a server error, but not a refusal."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code in (408, 429)
    return isinstance(error, OSError) and not isinstance(error, LocalEntryNotFoundError)  # the client already retried the latter


def _explain_download_error(error: Exception, repo: str, name: str, revision: str | None) -> HubError:
    """The client's error as one sentence with advice."""
    from huggingface_hub import errors

    what = f"{name} of {repo}" + (f" at {revision}" if revision else "")
    match error:
        case errors.GatedRepoError():
            return HubError(f"{repo} is gated: accept its terms on the Hub, then log in with {LOGIN}")
        case errors.RepositoryNotFoundError():
            return HubError(f"{repo} is not on the Hub, or private; to read a private one, log in with {LOGIN}")
        case errors.RevisionNotFoundError():
            return HubError(f"{repo} has no revision {revision!r}")
        case errors.RemoteEntryNotFoundError():
            return HubError(f"{repo} is not a model of this layout: {name} is missing")
        case errors.HFValidationError():
            return HubError(f"expected OWNER/NAME, got {repo!r}")
        case errors.LocalEntryNotFoundError() if isinstance(error.__cause__, errors.HfHubHTTPError):
            return HubUnreachable(
                f"the Hub answered {error.__cause__.response.status_code} for {what}, and it is not in the local cache"
            )
        case errors.LocalEntryNotFoundError() | errors.OfflineModeIsEnabled():
            return HubUnreachable(f"the Hub could not be reached for {what}, and it is not in the local cache")
        case errors.HfHubHTTPError():
            status = error.response.status_code
            if status in (401, 403):
                return HubError(f"the Hub refused {what} (status {status}); use a token with read access: {LOGIN}")
            return HubUnreachable(f"the Hub answered {status} for {what}; try again later")
    return HubUnreachable(f"{what} could not be downloaded ({type(error).__name__}: {str(error).splitlines()[0]})")


@dataclass(frozen=True, kw_only=True)
class Published:
    """The result of `publish`.

    Attributes:
        repo: "owner/name".
        commit: the 40-hex commit of the repo's main branch; None after a dry run with changes.
        sent: files uploaded, or to be uploaded after a dry run.
        kept: files that the repo already had, byte for byte.
        removed: other files that the repo had.
    """

    repo: str
    commit: str | None
    sent: tuple[str, ...]
    kept: tuple[str, ...]
    removed: tuple[str, ...]


def publish(
    repo: str,
    files: dict[str, Path | bytes],
    *,
    tag: str | None = None,
    space: bool = False,
    hardware: str | None = None,
    private: bool = False,
    dry_run: bool = False,
) -> Published:
    """Make a repo contain exactly these files, in one commit; upload only changed files.

    Args:
        repo: "owner/name".
        files: content by path in the repo.
        tag: of the commit. An existing tag is never moved: changed files need a new one.
        space: publish a Gradio Space instead of a model.
        hardware: of the Space, for example "cpu-basic"; None for ZeroGPU on a new Space and no change on an existing one.
        private: create a private repo, if there is none yet.
        dry_run: change nothing.

    Raises:
        HubError: if the Hub cannot be reached or refuses, or the tag exists with other files.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, SpaceHardware
    from huggingface_hub.hf_api import RepoFile

    api = HfApi(library_name="brainmri")
    kind = "space" if space else "model"
    try:
        exists = api.repo_exists(repo, repo_type=kind)
        if not exists and not dry_run:
            api.create_repo(
                repo,
                repo_type=kind,
                private=private,
                exist_ok=True,
                space_sdk="gradio" if space else None,
                space_hardware=SpaceHardware(hardware or SpaceHardware.ZERO_A10G) if space else None,
            )
        existing, head, tags = {}, None, {}
        if exists or not dry_run:
            tree = api.list_repo_tree(repo, recursive=True, repo_type=kind)
            existing = {f.path: f.lfs.sha256 if f.lfs else f.blob_id for f in tree if isinstance(f, RepoFile)}
            head = api.repo_info(repo, repo_type=kind).sha
            tags = {t.name: t.target_commit for t in api.list_repo_refs(repo, repo_type=kind).tags}
        kept = tuple(sorted(path for path, content in files.items() if path in existing and _same(content, existing[path])))
        sent = tuple(sorted(set(files) - set(kept)))
        removed = tuple(sorted(set(existing) - set(files) - {".gitattributes"}))
        changed = bool(sent or removed)
        if tag in tags and (changed or tags[tag] != head):
            raise HubError(f"{repo} already has {tag} with other files; raise the version to publish these")
        if changed and not dry_run:
            operations = [CommitOperationAdd(path, files[path]) for path in sent]
            operations += [CommitOperationDelete(path) for path in removed]
            head = api.create_commit(repo, operations, commit_message=tag or "Update", repo_type=kind).oid
        if tag and tag not in tags and not dry_run:
            api.create_tag(repo, tag=tag, revision=head, repo_type=kind)
        if exists and hardware and not dry_run:
            api.request_space_hardware(repo, SpaceHardware(hardware))
    except HubError:
        raise
    except Exception as error:
        raise _explain_publish_error(error, repo) from error
    return Published(repo=repo, commit=None if changed and dry_run else head, sent=sent, kept=kept, removed=removed)


def is_private(repo: str) -> bool:
    """Whether a model's repo is private.

    Raises:
        HubError: if the Hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi

    try:
        return bool(HfApi(library_name="brainmri").model_info(repo).private)
    except Exception as error:
        raise _explain_publish_error(error, repo) from error


def _same(content: Path | bytes, digest: str) -> bool:
    """Whether content has a hash of the Hub: 64 hex digits for a large file, 40 for a small one."""
    data = content.read_bytes() if isinstance(content, Path) else content
    return digest == (hashlib.sha256(data).hexdigest() if len(digest) == 64 else git_blob_hash(data))


def _server_message(error: HfHubHTTPError) -> str:
    """What the Hub says about a refusal, to be appended to a sentence; empty if it says nothing."""
    words = (error.server_message or "").strip().rstrip(".")
    return f": {words}" if words else ""


def _explain_publish_error(error: Exception, repo: str) -> HubError:
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    if isinstance(error, LocalTokenNotFoundError):
        return HubError(f"publishing {repo} needs a token with write access: {LOGIN}")
    refusal = error.__cause__ if isinstance(error.__cause__, HfHubHTTPError) else error  # as failed uploads are wrapped
    if isinstance(refusal, HfHubHTTPError):
        status, words = refusal.response.status_code, _server_message(refusal)
        if status == 402:
            return HubError(f"the Hub requires payment to publish {repo}{words}; choose other hardware, or another plan")
        if status in (401, 403):
            return HubError(f"the Hub refused to publish {repo} (status {status}){words}; use a token with write access: {LOGIN}")
        return HubError(f"the Hub answered {status} while publishing {repo}; run it again; only missing files are uploaded")
    first = str(error).splitlines()[0] if str(error) else ""
    return HubError(f"{repo} could not be published ({type(error).__name__}: {first}); run the command again")
