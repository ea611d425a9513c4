"""What the server says of itself: which models it offers, and whether it is well."""

import logging
import platform
import time
from functools import cache

import gradio as gr
import torch
from starlette.requests import Request
from starlette.responses import JSONResponse

import brainmri
from brainmri.analysis.selfcheck import TOLERANCE, Check, check
from brainmri.ui.inference import available_models, get_model, models_loading
from brainmri.zoo.entry import ModelEntry
from brainmri.zoo.metrics import ACCURACY, AUC, THREE_SEQUENCES, VOLUMETRIC_DICE
from brainmri.zoo.registry import DEFAULT, describe, source

FIGURES = (VOLUMETRIC_DICE, AUC, ACCURACY)
STARTED = time.monotonic()

log = logging.getLogger(__name__)


def models() -> list[dict]:
    """List the models on offer: what each does, how large it is, how well it was measured to work and under which licence it is.

    Returns:
        models: for each its name (as endpoints take it), tasks, parameters, summary, metrics, licence, and whether it is default
    """
    return [
        {**describe(entry), "name": name, "default": name == DEFAULT, "metrics": headline_metrics(entry)}
        for name, entry in available_models.items()
    ]


def headline_metrics(entry: ModelEntry) -> dict | None:
    """The measured figures in short, on all three sequences; None where nothing was measured."""
    if not entry.metrics:
        return None
    measured = entry.metrics["variants"].get(THREE_SEQUENCES, {})
    shown = {name: round(measured[name]["value"], 3) for name in FIGURES if name in measured}
    return {"input": THREE_SEQUENCES, "protocol": entry.metrics["protocol"], **shown}


@cache
def default_selfcheck() -> Check:
    """How the default network answered the self-check when it was first asked."""
    return check(get_model(DEFAULT))


def health() -> dict:
    """Say whether the server is well: does it compute what it should, with which versions, on which device, since when?

    Returns:
        health: status (starting, ok or drifted), uptime in seconds, versions, device, models and where each is from, self-check
    """
    found = None if models_loading.is_set() else default_selfcheck()
    return {
        "status": "models_loading" if found is None else "ok" if found.well else "drifted",
        "uptime_s": round(time.monotonic() - STARTED, 1),
        "versions": {
            "brainmri": brainmri.__version__,
            "torch": torch.__version__,
            "gradio": gr.__version__,
            "python": platform.python_version(),
        },
        "device": found and found.device,
        "models": [{"name": e.name, "source": source(e), "sha256": e.sha256} for e in available_models.values()],
        "selfcheck": found and {"model": found.name, "drift": found.drift, "tolerance": TOLERANCE},
    }


def health_route(request: Request) -> JSONResponse:
    """`health` as a plain GET; 503 while the networks are being loaded, and where the self-check drifted."""
    found = health()
    return JSONResponse(found, status_code=200 if found["status"] == "ok" else 503)


def load_models() -> None:
    """Load what is offered, check the default, and let each be run by what is fastest here; log where each came from.

    Raises:
        ValueError: for weights that are damaged or do not fit their net.
    """
    for name, entry in available_models.items():
        device, origin = get_model(name).device.type, source(entry)
        fields = {"model": entry.name, "source": origin, "device": device, "sha256": entry.sha256}
        log.info("loaded %s: %s, on %s", entry.name, origin, device, extra={"fields": fields})
    found = default_selfcheck()
    models_loading.clear()
    log.log(
        logging.INFO if found.well else logging.ERROR, "self-check: %s", found.sentence, extra={"fields": {"drift": found.drift}}
    )
    for name in available_models:
        get_model(name).backend.select_fastest()


def service_endpoints() -> None:
    """`/models` and `/health` for programs, in the Blocks at hand."""
    gr.api(models, api_name="models", queue=False)
    gr.api(health, api_name="health", queue=False)
