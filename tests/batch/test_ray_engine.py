"""A cohort on a Ray cluster of several nodes: driver and node are killed, and no study is lost, half written or told twice."""

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
PATIENCE = 300  # s, on a machine that has other things to do


def until(there: Callable[[], object], wanted: str) -> object:
    """What the function returns once that is true."""
    deadline = time.monotonic() + PATIENCE
    while not (found := there()):
        assert time.monotonic() < deadline, f"{wanted} did not come"
        time.sleep(0.02)
    return found


def parent(process: int) -> int | None:
    """The process that started this one; None when it has ended, which it may while it is being asked."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> list[str]:
    """Small synthetic studies, each of other slices, and one that is none, in a folder; and a slice beside it."""
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


def started(cluster, **held):
    """A node of the cluster; Ray allows it half a minute to start, which a busy machine may not keep at once."""
    for _ in range(3):
        try:
            return cluster.add_node(**held)
        except Exception as error:
            if "timed out" not in str(error):
                raise
    raise TimeoutError("no Ray node starts on this machine")


@pytest.fixture(scope="module")
def night(cohort, tmp_path_factory):
    """A run whose driver is killed with the first studies done, and the next one, in which a node dies over a study."""
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    out = tmp_path_factory.mktemp("night")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # by default whatever else the machine does goes first
        patch.setenv("PYTHONPATH", str(ROOT))  # as if the package were installed on every node
        cluster = Cluster()
        try:
            # a node that is gone is missed sooner than by default
            started(cluster, num_cpus=1, _system_config={"health_check_period_ms": 500})
            doomed = started(cluster, num_cpus=1)
            command = ["predict", *cohort, "--out", str(out), "--device", "cpu", "--engine", "ray", "--address", cluster.address]
            yield _kills(cluster, doomed, command, out)
        finally:
            cluster.shutdown()


def _kills(cluster, doomed, command: list[str], out: Path) -> SimpleNamespace:
    def done() -> dict[str, int]:
        return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("*/study.json")}

    driver = subprocess.Popen([sys.executable, "-m", "brainmri", *command], cwd=ROOT)
    until(lambda: driver.poll() is not None or len(done()) > 1, "the first studies")
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    table = (out / "studies.parquet").exists()
    raylet = doomed.all_processes["raylet"][0].process.pid

    def at_work() -> tuple[str, int] | None:
        """A study that a worker of the doomed node is at, and the worker's process."""
        for begun in out.glob(".attempts/*"):
            with suppress(FileNotFoundError):  # the study may be done while it is being asked
                for line in begun.read_text().splitlines():
                    process = int(line.split()[1])
                    if parent(process) == raylet:
                        return begun.name, process
        return None

    before, killed = {}, []

    def kill() -> None:
        while not killed:
            before.update(done())
            name, process = until(at_work, "work for the doomed node")
            cluster.remove_node(doomed, allow_graceful=False)
            with suppress(ProcessLookupError):  # it may follow its node by itself
                os.kill(process, signal.SIGKILL)
            killed.append(name)

    killer = threading.Thread(target=kill)
    killer.start()
    answer = main(command)
    killer.join()
    return SimpleNamespace(out=out, answer=answer, table=table, before=before, after=done(), killed=killed)


def test_a_killed_driver_leaves_no_table_and_whole_studies(night):
    assert 2 <= len(night.before) < len(STUDIES)
    assert not night.table


def test_what_was_done_before_a_kill_is_not_done_again(night):
    assert {name: night.after[name] for name in night.before} == night.before
    table = pandas.read_parquet(night.out / "studies.parquet").set_index("input")
    assert (table["status"][list(night.before)] == "done before").all()


def test_a_killed_node_costs_no_study(night):
    assert night.killed
    table = pandas.read_parquet(night.out / "studies.parquet")
    assert table["input"].tolist() == INPUTS
    assert table["status"].ne("failed").tolist() == [False, *[True] * (len(INPUTS) - 1)]
    assert not list(night.out.rglob(".*"))


def test_a_bad_study_is_a_row_with_its_reason(night):
    assert night.answer == 1
    bad = pandas.read_parquet(night.out / "studies.parquet").set_index("input").loc["bad"]
    assert (bad["status"], bad["kind"]) == ("failed", "study")
    assert "no slices and no volume came" in bad["problem"]


def test_both_engines_leave_the_same(night, local):
    def files(out: Path) -> set[str]:
        return {str(path.relative_to(out)) for path in out.rglob("*")}

    assert files(night.out) == files(local)
    masks = [*local.rglob("mask.nii.gz"), *local.rglob("*.mask.png")]
    assert len(masks) == len(INPUTS) - 1
    for mask in masks:
        assert (night.out / mask.relative_to(local)).read_bytes() == mask.read_bytes()
    ours, theirs = (pandas.read_parquet(out / "studies.parquet").drop(columns="status") for out in (local, night.out))
    pandas.testing.assert_frame_equal(ours, theirs)
    assert ours["lesion_voxels"].sum() > 0


# --- without a cluster ----------------------------------------------------------------------------------------------------


def test_an_input_that_kills_its_workers_is_given_up(cohort, tmp_path):
    """What is left of attempts that ended with their process counts; an attempt that ends leaves nothing."""
    attempts = tmp_path / "attempts"
    attempts.mkdir()
    actor = _Actor(tmp_path, NETWORKS, torch.get_num_threads(), attempts)
    job = {"path": str(Path(cohort[0]) / "bad"), "name": "bad"}
    (attempts / "bad").write_text("node 1\n" * (ATTEMPTS - 1))
    assert "no slices and no volume came" in actor(job)["problem"]
    assert not list(attempts.iterdir())
    (attempts / "bad").write_text("node 1\n" * ATTEMPTS)
    row = actor(job)
    assert (row["input"], row["status"]) == ("bad", "failed")
    assert row["problem"] == "its worker process died 3 times; it may need more memory than there is"


@pytest.mark.parametrize(
    ("nodes", "workers", "accelerated", "expected"),
    [
        ([(2, 0)], None, True, (2, 1, 0)),  # one a CPU
        ([(2, 0)], 1, True, (1, 2, 0)),
        ([(4, 0), (4, 0)], 3, True, (3, 2, 0)),  # with three CPUs each, two would fit
        ([(16, 1)], None, True, (4, 4, 0.25)),
        ([(2, 1)], None, True, (2, 1, 0.25)),
        ([(16, 2), (64, 0)], 3, True, (3, 5, 0.5)),  # where the GPUs are
        ([(16, 2)], None, False, (16, 1, 0)),
        ([(16, 4)], 2, True, (2, 8, 1)),
    ],
)
def test_actors_share_a_cluster(nodes, workers, accelerated, expected):
    assert divide_cluster(nodes, workers, accelerated) == expected


@pytest.mark.parametrize("workers", [0, 4])
def test_more_actors_than_there_is_room_for_are_refused(workers):
    with pytest.raises(ValueError, match=f"expected 1 to 3 workers, .* got {workers}"):
        divide_cluster([(2, 0), (1, 0)], workers, False)


def refusal(capsys, *options: str) -> str:
    with pytest.raises(SystemExit):
        main(["predict", str(EXAMPLES / "large-lesion.png"), *options])
    return capsys.readouterr().err


def test_without_ray_a_sentence_says_how_to_get_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert 'pip install "ray[data]"' in refusal(capsys, "--out", str(tmp_path), "--engine", "ray")


def test_the_local_engine_takes_no_cluster(tmp_path, capsys):
    assert "are for --engine ray" in refusal(capsys, "--out", str(tmp_path), "--workers", "2")


def test_the_folder_for_the_results_is_no_study(tmp_path):
    out = tmp_path / "results"
    (tmp_path / "notes").mkdir()
    for _ in range(2):
        assert main(["predict", str(tmp_path), "--out", str(out), "--device", "cpu"]) == 1
        assert pandas.read_csv(out / "studies.csv")["input"].tolist() == ["notes"]


def test_a_slice_is_not_analysed_twice(tmp_path):
    command = ["predict", str(EXAMPLES / "large-lesion.png"), "--out", str(tmp_path), "--device", "cpu"]
    record, mask = (tmp_path / f"large-lesion.{end}" for end in ("finding.json", "mask.png"))
    stamps = set()
    for _ in range(2):
        assert main(command) == 0
        stamps.add(record.stat().st_mtime_ns)
    assert len(stamps) == 1
    kept = mask.read_bytes()
    mask.write_bytes(b"")
    record.write_text(record.read_text()[:-20])  # half a record is none
    assert main(command) == 0
    assert mask.read_bytes() == kept
