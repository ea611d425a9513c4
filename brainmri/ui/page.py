"""The web page, one module per tab: build it, launch it, serve it until a signal comes.

Requests leave only temporary files (`brainmri.ui.cache`). The only state is the list of available models with their loaded
networks, and which input each session gave last (`brainmri.ui.latest`).
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from html import escape
from pathlib import Path

import gradio as gr
from gradio import themes
from gradio.http_server import INITIAL_PORT_VALUE as PORT  # GRADIO_SERVER_PORT, or 7860
from gradio.http_server import LOCALHOST_NAME as HOST
from starlette.middleware import Middleware
from starlette.routing import Route

from brainmri.io.limits import ACCEPTED, ACCEPTED_STUDIES, describe_os_error
from brainmri.report.templates import TEMPLATES
from brainmri.ui import cache, fetch, logs
from brainmri.ui.analyse_tab import AnalyseTab
from brainmri.ui.blocks import Page
from brainmri.ui.common import ANALYSE, ASSETS
from brainmri.ui.compare_tab import compare_tab
from brainmri.ui.decoding import decoder_pool
from brainmri.ui.document import DocumentHead
from brainmri.ui.endpoints import analysis_endpoints
from brainmri.ui.guard import RequestGuard
from brainmri.ui.inference import ZERO_GPU, models_loading, set_available_models
from brainmri.ui.models_tab import models_tab
from brainmri.ui.service import health_route, load_models, service_endpoints
from brainmri.zoo.registry import DEVICE, resolve_device

CLEANUP_INTERVAL, MAX_FILE_AGE = 10, 60 * cache.KEEP_MINUTES - 10  # seconds
QUEUE_SIZE = 32
POLL_SECONDS = 0.02  # between looks into the queue, also an empty one; Gradio looks a thousand times a second by default
DRAIN_SECONDS = 60  # to finish running requests after a stop signal

INTRO = f"""<header>{(ASSETS / "logo.svg").read_text(encoding="utf-8")}<h1>Brain MRI tumour detection</h1>
<p>Drop an MRI slice or a whole study: tumours are outlined and measured, and unclear cases flagged for review.</p></header>"""
DISCLAIMER = "<p><b>Research demo, not a medical device.</b> Not for diagnosis.</p>"
ABOUT = f"""
**Limits.** The default model was trained on lower-grade gliomas in adults (TCGA-LGG; FLAIR, T1 and post-contrast T1), on gliomas,
meningiomas and pituitary tumours on post-contrast T1, and on heads without a tumour. It was not trained on tumours in T2 or PD:
such slices are flagged for review where it recognises the sequence. The models named *-lgg* were trained on axial FLAIR of
lower-grade gliomas only. Results are unreliable for other tumours, children and post-operative scans. A *no tumour* result does
not rule out a tumour.

**Input.** Slice: {ACCEPTED}. In a colour image, red is pre-contrast T1, green FLAIR and blue post-contrast T1. The default model
recognises the sequence of a greyscale image; the others treat it as FLAIR. Images under 80 pixels, colour maps and pictures with
coloured marks are flagged for review. Study: {escape(ACCEPTED_STUDIES)}.

**Probability.** Calibrated on patients not used for training (see the Models tab). The verdict is *please review* when the
probability lies in the review band (hatched on the scale) or when verdict and mask disagree. A study counts as *tumour* when two
neighbouring slices do. An image that does not look like a brain MRI slice (for the *-lgg* models: an upright axial one) is
flagged for review, and is left out of a study's verdict.

**Measurements.** Volumes and diameters are computed from the mask, in mL and mm only if the files give the voxel size. Left and
right are the patient's.

**Your data.** Uploads are processed on the server that hosts this page and are not sent anywhere else. Nothing is collected,
and no run is recorded. Patient names and dates in DICOM headers are not read; a patient's ID is used only as a digest that
tells patients apart. Uploads and results are stored in temporary files and deleted within
{cache.KEEP_MINUTES} minutes. Until then, anyone who has a file's full address or a result's link can open it. Please do not
upload anything that identifies a patient. A DICOM segmentation references its images by UID and holds no patient name or ID, so
an archive stores it beside the study, not in it.
"""


def build(models: list[str] | None = None, from_hub: bool = False) -> Page:
    """Build the page without launching it.

    Args:
        models: local folders or Hub repos (OWNER/NAME) to offer in addition to the zoo.
        from_hub: take the zoo from the Hub or its cache, never the embedded copies.
    """
    set_available_models(models or [], from_hub)
    decoder_pool()
    fetch.install()
    with Page(title="Brain MRI demo", analytics_enabled=False) as page:
        gr.HTML(DISCLAIMER, elem_id="disclaimer", padding=False)
        gr.HTML(INTRO, elem_id="intro", padding=False)
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Analyse", id=ANALYSE):
                analyse = AnalyseTab(page)
                analysis_endpoints()
            with gr.Tab("Compare"):
                compare_tab()
            with gr.Tab("Models") as models_page:
                models_tab(models_page, tabs, analyse)
        with gr.Accordion("About, limits and your data", open=False, elem_id="about"):
            gr.Markdown(ABOUT)
        service_endpoints()
    page.queue(max_size=QUEUE_SIZE)
    page._queue.sleep_when_free = POLL_SECONDS
    return page


def launch_options() -> dict:
    """Options for `Page.launch`, the same at home, on a Space and in tests."""
    theme = themes.Default(
        primary_hue="teal", secondary_hue="teal", neutral_hue="slate", radius_size="lg",
        font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace"),  # system fonts, nothing is fetched
    ).set(
        # darker than the default theme, for enough contrast
        button_primary_background_fill="*primary_700", button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800", button_primary_background_fill_hover_dark="*primary_600",
        body_text_color_subdued="*neutral_600", block_info_text_color="*neutral_600", link_text_color="*secondary_700",
    )  # fmt: skip
    return {
        "theme": theme,
        "css_paths": [ASSETS / "page.css", TEMPLATES / "viewer.css"],
        "js": (ASSETS / "page.js").read_text(encoding="utf-8"),
        "allowed_paths": [str(ASSETS / "examples")],
        "favicon_path": ASSETS / "favicon.png",
        "max_file_size": fetch.MAX_FILE,
        "footer_links": ["api"],
        "run_history": False,
        "enable_monitoring": False,
        "ssr_mode": False,
        "mcp_server": True,
        "state_session_capacity": 100,  # sessions hold no visitor data, only memory
        "app_kwargs": {
            "middleware": [Middleware(RequestGuard), Middleware(DocumentHead)],
            "routes": [Route("/health", health_route)],
        },
    }


def serve(page: Page, folder: Path) -> None:
    """Serve until SIGINT or SIGTERM, then finish the running requests and stop.

    The networks are loaded while the page already answers. On ZeroGPU they are loaded before the launch.

    Args:
        page: the page to launch.
        folder: the page's temporary files; expired ones are deleted, and the oldest if there are too many.

    Raises:
        ValueError: if weights are damaged or do not fit their network.
    """
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    if ZERO_GPU:
        load_models()
    else:
        models_loading.set()
    page.launch(**launch_options(), server_port=PORT, prevent_thread_lock=True)
    if models_loading.is_set():
        load_models()
    examples = {path for block in page.blocks.values() for path in block.keep_in_cache}
    swept = time.monotonic()
    while not ended.wait(1):  # short waits, since Windows handles Ctrl-C only between them
        if time.monotonic() > swept + CLEANUP_INTERVAL:
            cache.delete_expired(folder, MAX_FILE_AGE, examples)
            cache.limit_size(folder, keep=examples)
            swept = time.monotonic()
    page.drain(DRAIN_SECONDS)
    page.close()


def check_port() -> None:
    """Refuse to start on a taken port; Gradio would silently take the next one.

    Raises:
        ValueError: if the port cannot be used.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that has just stopped does not count
        try:
            probe.bind((HOST, PORT))
        except OSError as error:
            reason = describe_os_error(error)
            raise ValueError(f"cannot use port {PORT} of {HOST} ({reason}); set GRADIO_SERVER_PORT to another one") from error


def run(models: list[str], device: str, from_hub: bool = False) -> None:
    """Load and check the models, and serve the page.

    Args:
        models: local folders or Hub repos (OWNER/NAME) to offer in addition to the zoo.
        device: "auto", "cpu", "cuda", "mps"; of every model that the page loads.
        from_hub: take the zoo from the Hub or its cache, never the embedded copies.

    Raises:
        ValueError: for an unknown device, a port or a temporary folder that cannot be used, or weights that are damaged or do
            not fit their network.
        FileNotFoundError: if a folder lacks a file.
        brainmri.zoo.hub.HubError: if the Hub is needed and the download fails.
    """
    logs.configure()
    os.environ[DEVICE] = str(resolve_device(device))
    folder = cache.create_cache()
    page = build(models, from_hub)
    check_port()
    serve(page, folder)
