"""The only room that talks to the Hugging Face Hub: an entry's files from a repo, whole and checked, and a folder to a repo.

Everything goes through the public `huggingface_hub` client, its cache and its environment (`HF_HOME`, `HF_TOKEN`,
`HF_HUB_OFFLINE`, `HF_ENDPOINT`). What goes wrong comes out as a `HubError` whose message is one sentence.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from brainmri.zoo.entry import CARD, CONFIG, SPLIT, WEIGHTS, file_sha256, read_entry

LOGIN = "`hf auth login` or HF_TOKEN"
ATTEMPTS = 2  # a file that arrives broken is fetched once more, then refused


class HubError(RuntimeError):
    """A repo could not be read or written; the message says why in one sentence."""


class HubUnreachable(HubError):
    """The Hub did not answer and nothing usable lies in the local cache."""


def fetch(repo: str, revision: str | None = None, token: str | None = None, cached_only: bool = False) -> Path:
    """Download what is missing of an entry and check it; all its files are of one commit.

    Args:
        repo: "owner/name".
        revision: branch, tag or commit; the main branch when None. A full commit that is cached needs no network.
        token: for private and gated repos; the one that `hf auth login` or `HF_TOKEN` gave when None.
        cached_only: don't ask the Hub.

    Returns:
        The folder in the local cache.

    Raises:
        HubUnreachable: when neither the Hub nor the cache has it.
        HubError: when the repo is missing, closed, not in this layout, or broken twice in a row.
    """
    from huggingface_hub.errors import RemoteEntryNotFoundError

    def get(name: str, at: str | None) -> Path:
        return _download(repo, name, at, token, cached_only)

    config = get(CONFIG, revision)
    commit = config.parent.name
    get(WEIGHTS, commit)
    for name in (SPLIT, CARD):  # good to have; somebody else's repo may lack them
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
    """OWNER/NAME and commit of a folder that `fetch` gave; None for any other."""
    repo = folder.parents[1].name
    if folder.parent.name != "snapshots" or not repo.startswith("models--"):
        return None
    return repo.removeprefix("models--").replace("--", "/"), folder.name


def _download(repo: str, name: str, revision: str | None, token: str | None, cached_only: bool) -> Path:
    """One file, compared with the hash under which the Hub keeps it."""
    from huggingface_hub import hf_hub_download

    for attempt in range(1, ATTEMPTS + 1):
        try:
            path = Path(hf_hub_download(repo, name, revision=revision, token=token, local_files_only=cached_only))
        except Exception as error:
            if attempt < ATTEMPTS and _passing(error):
                continue
            raise _explained(error, repo, name, revision) from error
        if _intact(path):
            return path
        # nobody may find it in the cache again
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        if cached_only:
            raise HubUnreachable(f"the cached {name} of {repo} is damaged and was removed")
    raise HubError(f"{repo}: {name} came damaged {ATTEMPTS} times in a row and was thrown away; try again later")


def _intact(path: Path) -> bool:
    """Whether a cached file has the content its name in the cache promises: SHA-256 if large, Git's blob hash otherwise."""
    name = path.resolve().name
    if len(name) == 64:
        return file_sha256(path) == name
    return len(name) != 40 or git_blob_hash(path.read_bytes()) == name


def git_blob_hash(content: bytes) -> str:
    """Hex SHA-1 under which Git, hence the Hub, keeps a small file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _passing(error: Exception) -> bool:
    """Whether asking again may help: a broken transfer or a server in trouble, not a refusal."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code in (408, 429)
    return isinstance(error, OSError) and not isinstance(error, LocalEntryNotFoundError)  # the client has retried the latter


def _explained(error: Exception, repo: str, name: str, revision: str | None) -> HubError:
    """The client's error as one sentence that says what to do."""
    from huggingface_hub import errors

    what = f"{name} of {repo}" + (f" at {revision}" if revision else "")
    match error:
        case errors.GatedRepoError():
            return HubError(f"{repo} is gated: accept its terms on the Hub, then log in by {LOGIN}")
        case errors.RepositoryNotFoundError():
            return HubError(f"{repo} is not on the Hub, or private; to read a private one, log in by {LOGIN}")
        case errors.RevisionNotFoundError():
            return HubError(f"{repo} has no revision {revision!r}")
        case errors.RemoteEntryNotFoundError():
            return HubError(f"{repo} is not a model of this layout: {name} is missing")
        case errors.HFValidationError():
            return HubError(f"{repo!r} is no name of a Hub repo; OWNER/NAME is accepted")
        case errors.LocalEntryNotFoundError() if isinstance(error.__cause__, errors.HfHubHTTPError):
            return HubUnreachable(
                f"the Hub answered {error.__cause__.response.status_code} for {what}, and it is not in the local cache"
            )
        case errors.LocalEntryNotFoundError() | errors.OfflineModeIsEnabled():
            return HubUnreachable(f"the Hub could not be reached for {what}, and it is not in the local cache")
        case errors.HfHubHTTPError():
            status = error.response.status_code
            if status in (401, 403):
                return HubError(f"the Hub refused {what} (status {status}); a token that may read it is needed: {LOGIN}")
            return HubUnreachable(f"the Hub answered {status} for {what}; try again later")
    return HubUnreachable(f"{what} could not be downloaded ({type(error).__name__}: {str(error).splitlines()[0]})")


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a publication did.

    Attributes:
        commit: 40-hex commit that the repo's main branch is at now; None after a dry run of a new or changed repo.
        sent: files uploaded, or to be uploaded after a dry run.
        kept: files that were there already, byte for byte.
        removed: files that the repo had beside these.
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
    private: bool = False,
    dry_run: bool = False,
) -> Published:
    """Make a repo hold exactly these files, in one commit, uploading only what it lacks.

    Args:
        files: content by path in the repo.
        tag: for the commit. A tag stays where it is: changed files want a new one.
        space: a Gradio Space rather than a model.
        private: when the repo has to be created.
        dry_run: change nothing.

    Raises:
        HubError: when the Hub cannot be reached or refuses, or the tag stands at other files.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    api = HfApi(library_name="brainmri")
    kind = "space" if space else "model"
    try:
        if not dry_run:
            api.create_repo(repo, repo_type=kind, private=private, exist_ok=True, space_sdk="gradio" if space else None)
        try:
            there = {f.path: f.lfs.sha256 if f.lfs else f.blob_id
                     for f in api.list_repo_tree(repo, recursive=True, repo_type=kind) if hasattr(f, "blob_id")}  # fmt: skip
            head = api.repo_info(repo, repo_type=kind).sha
            tags = {t.name: t.target_commit for t in api.list_repo_refs(repo, repo_type=kind).tags}
        except RepositoryNotFoundError:
            if not dry_run:
                raise
            there, head, tags = {}, None, {}
        kept = tuple(sorted(path for path, content in files.items() if path in there and _same(content, there[path])))
        sent = tuple(sorted(set(files) - set(kept)))
        removed = tuple(sorted(set(there) - set(files) - {".gitattributes"}))
        changed = bool(sent or removed)
        if tag in tags and (changed or tags[tag] != head):
            raise HubError(f"{repo} has {tag} already, with other files: raise the version to publish these")
        if changed and not dry_run:
            operations = [CommitOperationAdd(path, files[path]) for path in sent]
            operations += [CommitOperationDelete(path) for path in removed]
            head = api.create_commit(repo, operations, commit_message=tag or "Update", repo_type=kind).oid
        if tag and tag not in tags and not dry_run:
            api.create_tag(repo, tag=tag, revision=head, repo_type=kind)
    except HubError:
        raise
    except Exception as error:
        raise _unpublished(error, repo) from error
    return Published(repo=repo, commit=None if changed and dry_run else head, sent=sent, kept=kept, removed=removed)


def _same(content: Path | bytes, there: str) -> bool:
    """Whether content has the hash under which the Hub keeps a file: 64 hex digits if large, 40 otherwise."""
    data = content.read_bytes() if isinstance(content, Path) else content
    return there == (hashlib.sha256(data).hexdigest() if len(there) == 64 else git_blob_hash(data))


def _unpublished(error: Exception, repo: str) -> HubError:
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    if isinstance(error, LocalTokenNotFoundError):
        return HubError(f"publishing {repo} needs a token that may write: {LOGIN}")
    refusal = error.__cause__ if isinstance(error.__cause__, HfHubHTTPError) else error  # as failed uploads are wrapped
    if isinstance(refusal, HfHubHTTPError):
        status = refusal.response.status_code
        if status in (401, 403):
            return HubError(f"the Hub refused to publish {repo} (status {status}); a token that may write is needed: {LOGIN}")
        return HubError(f"the Hub answered {status} while publishing {repo}; run it again, only what is missing is uploaded")
    first = str(error).splitlines()[0] if str(error) else ""
    return HubError(f"{repo} could not be published ({type(error).__name__}: {first}); run the command again")
