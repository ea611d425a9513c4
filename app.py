"""The web page; its tabs are in `brainmri.ui`.

    python app.py [--models DIR_OR_REPO…]        # http://127.0.0.1:7860, or the port in GRADIO_SERVER_PORT

Nothing of a request outlives it but the files it offers for download: the only state is what models are offered, and their
networks.
"""

from __future__ import annotations

import argparse
import signal
import threading
import time
from html import escape
from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware
from starlette.routing import Route

from brainmri.io.limits import ACCEPTED_STUDIES
from brainmri.io.reading import ACCEPTED
from brainmri.report.html import TEMPLATES
from brainmri.ui import cache, logs
from brainmri.ui.blocks import Page
from brainmri.ui.common import ASSETS
from brainmri.ui.compare_tab import compare_tab
from brainmri.ui.decoding import decoder_pool
from brainmri.ui.guard import MAX_UPLOAD, RequestGuard, install_public_transport
from brainmri.ui.inference import ZERO_GPU, models_loading, set_available_models
from brainmri.ui.models_tab import models_tab
from brainmri.ui.service import health_route, load_models, service_endpoints
from brainmri.ui.slice_tab import slice_tab
from brainmri.ui.study_tab import study_tab
from brainmri.zoo.hub import HubError

CLEANUP_INTERVAL, MAX_FILE_AGE = (
    5 * 60,
    25 * 60,
)  # seconds between sweeps of the temporary files, and the age at which a sweep deletes them
QUEUE_SIZE = 32
DRAIN_SECONDS = 60  # seconds that a server which is told to end gives to what is at work

INTRO = """
# Brain MRI: tumour or not, and where
Give it an axial brain MR slice or a whole study. It says whether there is a lower-grade glioma and outlines it; where verdict and
outline disagree, it asks for a human. **A research demo, not a medical device: not for diagnosis.**
"""
ABOUT = f"""
**Limits.** Trained on lower-grade gliomas of adults (TCGA-LGG, axial slices; pre-contrast T1, FLAIR and post-contrast T1 as red,
green and blue). Other tumours, other sequences, children and post-operative scans were not seen in training, and
the answer on them means little. A healthy-looking answer does not rule a tumour out.

**Input.** One slice: {ACCEPTED}. A greyscale picture is taken for FLAIR. A study: {escape(ACCEPTED_STUDIES)}.

**Probability.** Calibrated on patients whom the networks had not seen (Models tab). Inside the review band (hatched on the
scale), or when verdict and mask disagree, the answer is *please review*. A study shows a tumour when two neighbouring slices do.
What does not look like an axial brain MR slice, nose up, gets *please review* with that reason and is not counted in a study.

**Measures.** Volumes and diameters are the mask's, in millimetres only where the files tell how large a voxel is. Left and right
are the patient's.

**Your data.** What you upload is processed on the machine that serves this page and sent nowhere else; nothing is collected and
no run is recorded. Names, numbers and dates in DICOM headers are not read. The upload and the results lie in temporary files
there, reachable by whoever has their long address, and are deleted within {(CLEANUP_INTERVAL + MAX_FILE_AGE) // 60} minutes. Please upload nothing
that names a patient. A DICOM segmentation references its images by their UIDs and carries no patient's name or number, so an
archive files it beside the study, not in it.
"""


def build(models: list[str] | None = None) -> Page:
    """The page, not launched yet.

    Args:
        models: folders or OWNER/NAME on the Hub to offer beside the zoo.
    """
    set_available_models(models or [])
    decoder_pool()
    install_public_transport()
    with Page(title="Brain MRI demo", analytics_enabled=False) as page:
        gr.Markdown(INTRO, elem_id="intro")
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("Slice"):
                slice_tab()
            with gr.Tab("Study"):
                study_tab()
            with gr.Tab("Compare"):
                compare_tab()
            with gr.Tab("Models"):
                models_tab()
        with gr.Accordion("About, limits and your data", open=False):
            gr.Markdown(ABOUT)
        service_endpoints()
    return page.queue(max_size=QUEUE_SIZE)


def launch_options() -> dict:
    """How the page is served, wherever it is served."""
    theme = gr.themes.Default(
        primary_hue="teal", secondary_hue="teal", neutral_hue="slate", radius_size="lg",
        font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace"),  # none fetched from elsewhere
    ).set(
        # white on the lighter teal of the default is hard to read, and so are its light grey and teal on white
        button_primary_background_fill="*primary_700", button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800", button_primary_background_fill_hover_dark="*primary_600",
        body_text_color_subdued="*neutral_600", block_info_text_color="*neutral_600", link_text_color="*secondary_700",
    )  # fmt: skip
    return {
        "theme": theme,
        "css_paths": [ASSETS / "page.css", TEMPLATES / "viewer.css"],
        "js": (ASSETS / "page.js").read_text(encoding="utf-8"),
        "allowed_paths": [str(ASSETS / "examples")],
        "max_file_size": MAX_UPLOAD,
        "footer_links": ["api"],
        "run_history": False,
        "enable_monitoring": False,
        "ssr_mode": False,
        "mcp_server": True,
        "state_session_capacity": 100,  # a session holds nothing of its visitor, but memory
        "app_kwargs": {"middleware": [Middleware(RequestGuard)], "routes": [Route("/health", health_route)]},
    }


def serve(page: Page, folder: Path) -> None:
    """Serve until SIGINT or SIGTERM; what is at work then is finished first, and its answers are delivered.

    The page answers at once; its networks are loaded meanwhile, but on ZeroGPU, where they have to be there before.

    Args:
        folder: of the page's temporary files, which are swept.

    Raises:
        ValueError: for weights that are damaged or do not fit their net.
    """
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    if ZERO_GPU:
        load_models()
    else:
        models_loading.set()
    page.launch(**launch_options(), prevent_thread_lock=True)
    if models_loading.is_set():
        load_models()
    examples = {path for block in page.blocks.values() for path in block.keep_in_cache}
    swept = time.monotonic()
    while not ended.wait(1):  # by the second, since Windows tells of Ctrl-C between waits alone
        if time.monotonic() > swept + CLEANUP_INTERVAL:
            cache.delete_expired(folder, MAX_FILE_AGE, examples)
            swept = time.monotonic()
    page.drain(DRAIN_SECONDS)
    page.close()


def main() -> None:
    """Load and check what is offered, and serve the page."""
    parser = argparse.ArgumentParser(description="The demo's page. Research demo, not a medical device.")
    parser.add_argument(
        "--models", nargs="*", default=[], metavar="DIR_OR_REPO", help="more entries: folders, OWNER/NAME on the Hub"
    )
    options = parser.parse_args()
    try:
        logs.configure()
        folder = cache.create_cache()
        page = build(options.models)
        serve(page, folder)
    except (ValueError, FileNotFoundError, HubError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
