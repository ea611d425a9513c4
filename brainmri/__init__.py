"""brainmri: tumour verdict, mask and overlay for brain MRI slices, with a model zoo.

    import brainmri
    pipe = brainmri.Pipeline()
    finding = pipe("slice.png")

Research software, not a medical device.
"""

from typing import TYPE_CHECKING

from brainmri._version import __version__

if TYPE_CHECKING:
    from brainmri.analysis.findings import Finding, Study
    from brainmri.analysis.pipeline import Pipeline
    from brainmri.zoo.entry import ModelEntry
    from brainmri.zoo.registry import list_models, load

__all__ = ["Finding", "ModelEntry", "Pipeline", "Study", "__version__", "list_models", "load"]

_DEFERRED = {
    "Finding": "analysis.findings",
    "ModelEntry": "zoo.entry",
    "Pipeline": "analysis.pipeline",
    "Study": "analysis.findings",
    "list_models": "zoo.registry",
    "load": "zoo.registry",
}


def __getattr__(name: str):
    """Import public names on first use, so that importing the package and listing the zoo are quick."""
    if name in _DEFERRED:
        from importlib import import_module

        return getattr(import_module(f"brainmri.{_DEFERRED[name]}"), name)
    raise AttributeError(f"module 'brainmri' has no attribute {name!r}")
