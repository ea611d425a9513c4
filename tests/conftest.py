"""What several test modules share."""

import os
import tempfile

import pytest

# the suite runs in two processes, and torch would take every core for each of them and for each server they start
os.environ.setdefault("OMP_NUM_THREADS", "1")
# nor should every process time the runtimes again; test_runtime does without this
os.environ.setdefault("BRAINMRI_RUNTIME", "torch")


@pytest.fixture(scope="session")
def page_url():
    """The real page on a free port, launched with the options it is served with."""
    with tempfile.TemporaryDirectory() as cache, pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", cache)
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        patch.setenv("HF_HUB_OFFLINE", "1")
        import app

        page = app.build()
        _, url, _ = page.launch(**app.launch_options(), server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
        yield url
        page.close(verbose=False)
