"""The optional dependencies: what to install for a feature whose package is missing."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution


def install_command(extra: str) -> str:
    """The command that installs an extra: of the installed package, or in the root of the source tree that runs."""
    try:
        distribution("brainmri")
    except PackageNotFoundError:  # the package is not on PyPI
        return f'pip install ".[{extra}]"'
    return f'pip install "brainmri[{extra}]"'


def explain_missing(feature: str, package: str, extra: str) -> str:
    """One sentence, without a full stop, for the error of a missing package.

    In a source tree: `the page needs Gradio, which is not installed; run pip install ".[app]"`.

    Args:
        feature: what needs the package.
        package: its published name.
        extra: the extra of this package that installs it.
    """
    return f"{feature} needs {package}, which is not installed; run {install_command(extra)}"
