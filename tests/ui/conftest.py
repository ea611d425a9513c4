"""Fixtures of the browser tests."""

import shutil
import subprocess
from pathlib import Path

import nibabel
import pytest

from tests.support.browsing import ARGUMENTS, CHROMIUM, EXAMPLE, STUDY, visiting
from tests.support.viewing import results, save_report

AXE = "4.14.1"  # of axe-core


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, page_url):
    with visiting(browser, page_url) as visit:
        yield visit


@pytest.fixture(scope="session")
def short_study(tmp_path_factory):
    """Four slices of the example study through its lesion, for tests in which the number of slices does not matter."""
    path = tmp_path_factory.mktemp("study") / "short-study.nii.gz"
    nibabel.save(nibabel.load(STUDY).slicer[..., 5:9], path)
    return path


@pytest.fixture(scope="session")
def short_three(tmp_path_factory):
    """A zip of the same four slices in three sequences."""
    folder = tmp_path_factory.mktemp("three")
    shutil.unpack_archive(EXAMPLE.parent / "study-three.zip", folder / "example")
    (folder / "short").mkdir()
    for volume in (folder / "example").rglob("*.nii.gz"):
        nibabel.save(nibabel.load(volume).slicer[..., 5:9], folder / "short" / volume.name)
    return Path(shutil.make_archive(str(folder / "short-three"), "zip", folder / "short"))


@pytest.fixture(scope="session")
def axe(pytestconfig) -> str:
    """The source of axe-core, installed by npm once and kept in pytest's cache."""
    folder = pytestconfig.cache.mkdir(f"axe-core-{AXE}")
    script = folder / "node_modules" / "axe-core" / "axe.min.js"
    if not script.is_file():
        if not (npm := shutil.which("npm")):
            pytest.skip("needs npm, which brings axe-core (apt install npm)")
        command = [npm, "install", "--prefix", folder, "--ignore-scripts", "--no-audit", "--no-fund", f"axe-core@{AXE}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        if done.returncode:
            pytest.skip(f"npm could not install axe-core {AXE}: {done.stderr.strip()[-200:]}")
    return script.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def study():
    return results()


@pytest.fixture(scope="module")
def report(study, tmp_path_factory):
    return save_report(tmp_path_factory.mktemp("report") / "report.html", *study)


@pytest.fixture
def open_report(browser, report):
    with visiting(browser, report, ready=".viewer-caption >> text=/./") as open_page:
        yield open_page
