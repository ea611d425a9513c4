"""The server's own endpoints, `/models` and `/health`, and loading the models at start."""

import contextlib
import gc
import logging
import platform
import time
from functools import cache

import gradio as gr
import torch
from gradio.events import api
from starlette.requests import Request
from starlette.responses import JSONResponse

import brainmri
from brainmri.analysis.selfcheck import TOLERANCE, SelfCheckResult, check
from brainmri.ui.inference import available_models, finished, get_model, models_loading
from brainmri.zoo.entry import ModelEntry
from brainmri.zoo.metrics import ACCURACY, AUC, THREE_SEQUENCES, VOLUMETRIC_DICE
from brainmri.zoo.registry import DEFAULT, describe, source

FIGURES = (VOLUMETRIC_DICE, AUC, ACCURACY)
STARTED = time.monotonic()

log = logging.getLogger(__name__)


def models() -> list[dict]:
    """List the available models with their tasks, size, metrics and licence.

    Returns:
        models: name (as the endpoints take it), tasks, parameters, summary, metrics, licence and whether it is the default
    """
    return [
        {**describe(entry), "name": name, "default": name == DEFAULT, "metrics": headline_metrics(entry)}
        for name, entry in available_models.items()
    ]


def headline_metrics(entry: ModelEntry) -> dict | None:
    """The main metrics on three sequences; None if nothing was measured."""
    if entry.metrics is None:
        return None
    measured = entry.metrics.variants.get(THREE_SEQUENCES, {})
    shown = {name: round(measured[name]["value"], 3) for name in FIGURES if name in measured}
    return {"input": THREE_SEQUENCES, "protocol": entry.metrics.protocol, **shown}


@cache
def default_selfcheck() -> SelfCheckResult:
    """The self-check of the default model, run once."""
    return check(get_model(DEFAULT))


def health() -> dict:
    """Report the server's health: self-check, versions, device, models and uptime.

    Returns:
        health: status (starting, ok or failed), uptime_s, versions, device, models and sources, finished analyses, self-check
    """
    found = None if models_loading.is_set() else default_selfcheck()
    return {
        "status": "starting" if found is None else "ok" if found.passed else "failed",
        "uptime_s": round(time.monotonic() - STARTED, 1),
        "versions": {
            "brainmri": brainmri.__version__,
            "torch": torch.__version__,
            "gradio": gr.__version__,
            "python": platform.python_version(),
        },
        "device": found and found.device,
        "models": [{"name": e.name, "source": source(e), "sha256": e.sha256} for e in available_models.values()],
        "finished": [
            {"device": device, "runtime": runtime, "analyses": count} for (device, runtime), count in finished.most_common()
        ],
        "selfcheck": found
        and {"model": found.name, "difference": found.difference, "tolerance": TOLERANCE, "drift": found.drift},
    }


def health_route(request: Request) -> JSONResponse:
    """`health` as a plain GET; 503 while the models are loading and if the self-check failed."""
    found = health()
    return JSONResponse(found, status_code=200 if found["status"] == "ok" else 503)


def load_models() -> None:
    """Load the available models, the default first, each with its fastest backend, and run the self-check of the default.

    Raises:
        ValueError: if weights are damaged or do not fit their network.
    """
    for name, entry in sorted(available_models.items(), key=lambda item: item[0] != DEFAULT):
        device, origin = get_model(name).device.type, source(entry)
        fields = {"model": entry.name, "source": origin, "device": device, "sha256": entry.sha256}
        log.info("loaded %s: %s, on %s", entry.name, origin, device, extra={"fields": fields})
    found = default_selfcheck()
    models_loading.clear()
    log.log(
        logging.INFO if found.passed else logging.ERROR,
        "self-check: %s",
        found.sentence,
        extra={"fields": {"difference": found.difference}},
    )
    with contextlib.suppress(ImportError):  # Gradio imports it, where it is installed, in the first request
        import matplotlib.pyplot  # noqa: F401
    gc.collect()
    gc.freeze()  # a full collection would otherwise pause all requests to traverse the modules and networks


def service_endpoints() -> None:
    """Add the endpoints `/models` and `/health` to the current Blocks."""
    api(models, api_name="models", queue=False)
    api(health, api_name="health", queue=False)
