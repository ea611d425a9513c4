"""A cohort on a Ray cluster of two nodes: after a killed driver and a killed node, each study is complete and listed once."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pandas
import pytest
import torch

from brainmri.__main__ import main
from brainmri.batch.ray_engine import ATTEMPTS, _Actor, divide_cluster

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "assets" / "examples"
STUDIES = [f"study-{number}" for number in range(8)]
INPUTS = ["bad", *STUDIES, "large-lesion"]
NETWORKS = {"segmenter": None, "classifier": None, "device": "cpu"}
TIMEOUT = 300  # s, for busy machines


def wait_for(condition: Callable[[], object], what: str) -> object:
    """Call the function until its value is true, and return the value."""
    deadline = time.monotonic() + TIMEOUT
    while not (found := condition()):
        assert time.monotonic() < deadline, f"timed out waiting for {what}"
        time.sleep(0.02)
    return found


def parent_of(process: int) -> int | None:
    """The id of the process's parent; None if the process has ended."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> list[str]:
    """A folder of small studies with different slices and one folder that is not a study, and a slice outside it."""
    root = tmp_path_factory.mktemp("cohort")
    example = nibabel.load(EXAMPLES / "study-flair.nii.gz")
    for number, name in enumerate(STUDIES):
        (root / name).mkdir()
        part = np.asarray(example.dataobj)[..., number : number + 4]
        nibabel.save(nibabel.Nifti1Image(part, example.affine), root / name / "flair.nii.gz")
    (root / "bad").mkdir()
    (root / "bad" / "notes.txt").write_text("nothing to see")
    return [str(root), str(EXAMPLES / "large-lesion.png")]


@pytest.fixture(scope="module")
def local(cohort, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("local")
    assert main(["predict", *cohort, "--out", str(out), "--device", "cpu"]) == 1
    return out


def add_node(cluster, **options):
    """Add a node to the cluster; try again if it takes longer than Ray allows, as on busy machines."""
    for _ in range(3):
        try:
            return cluster.add_node(**options)
        except Exception as error:
            if "timed out" not in str(error):
                raise
    raise TimeoutError("Ray nodes do not start on this machine")


@pytest.fixture(scope="module")
def interrupted_run(cohort, tmp_path_factory):
    """A run whose driver is killed after the first studies, and its repetition, during which a node is killed."""
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    out = tmp_path_factory.mktemp("interrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # Ray gives workers a low priority by default
        patch.setenv("PYTHONPATH", str(ROOT))  # nodes import the package of this checkout
        cluster = Cluster()
        try:
            # detect a dead node sooner than by default
            add_node(cluster, num_cpus=1, _system_config={"health_check_period_ms": 500})
            doomed = add_node(cluster, num_cpus=1)
            command = ["predict", *cohort, "--out", str(out), "--device", "cpu", "--engine", "ray", "--address", cluster.address]
            yield _interrupt(cluster, doomed, command, out)
        finally:
            cluster.shutdown()


def _interrupt(cluster, doomed, command: list[str], out: Path) -> SimpleNamespace:
    """Kill the driver of a first run, then a node during a second run; return what both left."""

    def finished() -> dict[str, int]:
        return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("*/study.json")}

    driver = subprocess.Popen([sys.executable, "-m", "brainmri", *command], cwd=ROOT)
    wait_for(lambda: driver.poll() is not None or len(finished()) > 1, "the first studies")
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    table = (out / "studies.parquet").exists()
    raylet = doomed.all_processes["raylet"][0].process.pid

    def current_study() -> tuple[str, int] | None:
        """A study in work on the doomed node, and the id of the worker process."""
        for attempts in out.glob(".attempts/*"):
            with suppress(FileNotFoundError):  # the study may finish meanwhile
                for line in attempts.read_text().splitlines():
                    process = int(line.split()[1])
                    if parent_of(process) == raylet:
                        return attempts.name, process
        return None

    before, killed = {}, []

    def kill_node() -> None:
        while not killed:
            before.update(finished())
            name, process = wait_for(current_study, "a study on the doomed node")
            cluster.remove_node(doomed, allow_graceful=False)
            with suppress(ProcessLookupError):  # it may end with its node
                os.kill(process, signal.SIGKILL)
            killed.append(name)

    killer = threading.Thread(target=kill_node)
    killer.start()
    exit_code = main(command)
    killer.join()
    return SimpleNamespace(out=out, exit_code=exit_code, table=table, before=before, after=finished(), killed=killed)


def test_killed_driver_leaves_complete_studies_and_no_table(interrupted_run):
    assert 2 <= len(interrupted_run.before) < len(STUDIES)
    assert not interrupted_run.table


def test_studies_finished_before_the_kill_are_not_repeated(interrupted_run):
    assert {name: interrupted_run.after[name] for name in interrupted_run.before} == interrupted_run.before
    table = pandas.read_parquet(interrupted_run.out / "studies.parquet").set_index("input")
    assert (table["status"][list(interrupted_run.before)] == "done before").all()


def test_studies_survive_a_killed_node(interrupted_run):
    assert interrupted_run.killed
    table = pandas.read_parquet(interrupted_run.out / "studies.parquet")
    assert table["input"].tolist() == INPUTS
    assert table["status"].ne("failed").tolist() == [False, *[True] * (len(INPUTS) - 1)]
    assert not list(interrupted_run.out.rglob(".*"))


def test_bad_study_is_a_failed_row_with_its_reason(interrupted_run):
    assert interrupted_run.exit_code == 1
    bad = pandas.read_parquet(interrupted_run.out / "studies.parquet").set_index("input").loc["bad"]
    assert (bad["status"], bad["kind"]) == ("failed", "study")
    assert "MRI file" in bad["problem"]


def test_both_engines_write_the_same_files(interrupted_run, local):
    def files(out: Path) -> set[str]:
        return {str(path.relative_to(out)) for path in out.rglob("*")}

    assert files(interrupted_run.out) == files(local)
    written = [path for path in local.rglob("*") if path.is_file() and path.stem != "studies"]
    assert {"mask.nii.gz", "probability.nii.gz", "study.json", "large-lesion.finding.json"} <= {path.name for path in written}
    for path in written:
        assert (interrupted_run.out / path.relative_to(local)).read_bytes() == path.read_bytes(), path.name
    expected, table = (
        pandas.read_parquet(out / "studies.parquet").drop(columns="status") for out in (local, interrupted_run.out)
    )
    pandas.testing.assert_frame_equal(table, expected)
    assert expected["lesion_voxels"].sum() > 0


# --- without a cluster ----------------------------------------------------------------------------------------------------


def test_input_that_kills_its_workers_fails_after_three_attempts(cohort, tmp_path):
    """Only attempts whose process died are counted; an attempt that ends removes its file."""
    attempts = tmp_path / "attempts"
    attempts.mkdir()
    actor = _Actor(tmp_path, NETWORKS, torch.get_num_threads(), attempts)
    job = {"paths": [str(Path(cohort[0]) / "bad")], "name": "bad"}
    (attempts / "bad").write_text("node 1\n" * (ATTEMPTS - 1))
    (row,) = actor(job)
    assert "MRI file" in row["problem"]
    assert not list(attempts.iterdir())
    (attempts / "bad").write_text("node 1\n" * ATTEMPTS)
    (row,) = actor(job)
    assert (row["input"], row["status"]) == ("bad", "failed")
    assert row["problem"] == "its worker process died 3 times; it may need more memory than is available"


@pytest.mark.parametrize(
    ("nodes", "workers", "accelerated", "expected"),
    [
        ([(2, 0)], None, True, (2, 1, 0)),  # one per CPU
        ([(2, 0)], 1, True, (1, 2, 0)),
        ([(4, 0), (4, 0)], 3, True, (3, 2, 0)),  # with three CPUs each, only two fit
        ([(16, 1)], None, True, (4, 4, 0.25)),
        ([(2, 1)], None, True, (2, 1, 0.25)),
        ([(16, 2), (64, 0)], 3, True, (3, 5, 0.5)),  # only on the node with GPUs
        ([(16, 2)], None, False, (16, 1, 0)),
        ([(16, 4)], 2, True, (2, 8, 1)),
    ],
)
def test_actors_share_the_cluster(nodes, workers, accelerated, expected):
    assert divide_cluster(nodes, workers, accelerated) == expected


@pytest.mark.parametrize("workers", [0, 4])
def test_number_of_workers_must_fit_the_cluster(workers):
    with pytest.raises(ValueError, match=f"expected 1 to 3 workers, .* got {workers}"):
        divide_cluster([(2, 0), (1, 0)], workers, False)
