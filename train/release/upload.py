"""Upload the files of a repo and print what was, or would be, uploaded and removed."""

from __future__ import annotations

from pathlib import Path

from brainmri.zoo.hub import Published, publish


def upload(repo: str, files: dict[str, Path | bytes], *, dry_run: bool, **options) -> Published:
    """Publish files (`brainmri.zoo.hub.publish`, which takes the options) and print a summary in a few lines."""
    done = publish(repo, files, dry_run=dry_run, **options)
    sizes = {path: len(file) if isinstance(file, bytes) else file.stat().st_size for path, file in files.items()}
    print(f"{done.repo}: " + (f"commit {done.commit}" if done.commit else "no commit yet"))
    for path in done.sent:
        print(f"  {'would upload' if dry_run else 'uploaded'} {path} ({sizes[path] / 1e6:.2f} MB)")
    for path in done.removed:
        print(f"  {'would remove' if dry_run else 'removed'} {path}")
    if done.kept:
        print(f"  already there: {', '.join(done.kept)}")
    return done
