"""Settings and fixtures of the whole test suite."""

import os
import tempfile

import pytest

# the suite runs in two processes; by default, torch would use all cores in each of them and in each server they start
os.environ.setdefault("OMP_NUM_THREADS", "1")
# no process benchmarks the backends at its start; tests/zoo/test_backends.py removes this
os.environ.setdefault("BRAINMRI_RUNTIME", "torch")


COSTLY = ("slow", "browser", "ray", "hub")


def pytest_collection_modifyitems(config, items):
    """In two processes, start the modules with costly tests first, so that no long one is left for one process at the end."""
    if hasattr(config, "workerinput"):
        costly = {item.path for item in items if any(item.get_closest_marker(name) for name in COSTLY)}
        items.sort(key=lambda item: item.path not in costly)


@pytest.fixture(scope="session")
def page_url():
    """URL of the real page on a free port, launched with the options of `app.py`."""
    with tempfile.TemporaryDirectory() as cache, pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", cache)
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        patch.setenv("HF_HUB_OFFLINE", "1")
        from brainmri.ui import page as app

        page = app.build()
        _, url, _ = page.launch(**app.launch_options(), server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
        yield url
        page.close(verbose=False)
