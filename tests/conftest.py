"""Settings and fixtures of the whole test suite."""

import os
import tempfile
import threading
import time

import pytest

# the suite runs in several processes; by default, torch would use all cores in each of them and in each server they start
os.environ.setdefault("OMP_NUM_THREADS", "1")
# no process benchmarks the backends at its start; tests/zoo/test_backends.py removes this
os.environ.setdefault("BRAINMRI_RUNTIME", "torch")


SLOW = ("browser", "ray", "hub")  # what takes seconds to start


def pytest_xdist_auto_num_workers(config):
    """Three processes for two cores, since many slow tests wait; two for the fast tests, which compute.

    Each process first imports all libraries, which takes a quarter of the fast tests' time.
    """
    return 2 if config.option.markexpr == "not slow" else 3


@pytest.hookimpl(tryfirst=True)  # before pytest selects by markers
def pytest_collection_modifyitems(config, items):
    """Mark tests with a browser, Ray or the Hub as slow. In several processes, start with the modules that take longest.

    Those are the ones with slow tests, of them those of the zoo and the page. Otherwise, one process could be left with a long
    module at the end.
    """
    for item in items:
        if any(item.get_closest_marker(name) for name in SLOW):
            item.add_marker(pytest.mark.slow)
    if hasattr(config, "workerinput"):
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: (item.path in slow, item.path), reverse=True)


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
        # an explanation that a test did not wait for takes seconds, and would abort at Python's exit; idle workers do not end
        latest = time.monotonic() + 15
        for thread in threading.enumerate():
            if thread.name.startswith("AnyIO worker"):
                thread.join(max(0, latest - time.monotonic()))
