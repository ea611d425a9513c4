"""brainmri: a tumour verdict, a mask and an overlay for brain MR slices, and the model zoo behind them.

    import brainmri
    pipe = brainmri.Pipeline()
    finding = pipe("slice.png")

Research software, not a medical device.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from brainmri.entry import ModelEntry
    from brainmri.findings import Finding, Study
    from brainmri.predict import Pipeline
    from brainmri.zoo import list_models, load

__version__ = "0.1.0"
__all__ = ["Finding", "ModelEntry", "Pipeline", "Study", "list_models", "load"]

_DEFERRED = {
    "Finding": "findings",
    "ModelEntry": "entry",
    "Pipeline": "predict",
    "Study": "findings",
    "list_models": "zoo",
    "load": "zoo",
}


def __getattr__(name: str):
    """Import what is asked for when it is first asked for, so that importing the package is quick, and so is listing the zoo."""
    if name in _DEFERRED:
        from importlib import import_module

        return getattr(import_module(f"brainmri.{_DEFERRED[name]}"), name)
    raise AttributeError(f"module 'brainmri' has no attribute {name!r}")
