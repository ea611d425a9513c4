"""The optional dependencies: what to install for a feature whose package is missing."""

from __future__ import annotations


def explain_missing(feature: str, package: str, extra: str) -> str:
    """One sentence, without a full stop, for the error of a missing package.

    >>> explain_missing("the page", "Gradio", "app")
    'the page needs Gradio, which is not installed; run pip install "brainmri[app]"'

    Args:
        feature: what needs the package.
        package: its published name.
        extra: the extra of this package that installs it.
    """
    return f'{feature} needs {package}, which is not installed; run pip install "brainmri[{extra}]"'
