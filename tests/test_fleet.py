"""Fleets, sweeps over executors: one case at a time on a machine, and what is lost is one case."""

import os
import signal
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor

import pandas as pd
import pytest

import balloonlab as bl
from balloonlab.measurement import fleet

pytestmark = [pytest.mark.once, pytest.mark.filterwarnings("default")]

CASES = {"memory": ["8MiB", "16MiB"], "protocol": ["pfn", "bitmap-v4"], "repeats": 2}


class Here:
    """An executor that works when asked, and loses the cases that it is told to."""

    def __init__(self, lost=()):
        self.lost, self.n = lost, 0

    def submit(self, function, case):
        future, number = Future(), self.n
        self.n += 1
        if number in self.lost:
            future.set_exception(RuntimeError("worker lost"))
        else:
            future.set_result(function(case))
        return future


def test_rows_carry_the_machine_they_are_of():
    found = bl.sweep(**CASES, executor=Here(), progress=False)
    (name,) = found.runs
    assert os.uname().nodename in name
    assert os.uname().release in name
    assert set(found.frame["machine"]) == {name}
    assert found.frame["run_id"].nunique() == 4
    assert len(found.runs[name].checks) == 8
    assert found.lost.empty
    assert "4 cases" in repr(found)
    plain = bl.sweep(**CASES, progress=False).frame
    columns = ["memory_bytes", "protocol", "n_kicks", "wire_bytes", "n_discards"]
    counts = [
        one[columns].drop_duplicates().sort_values(columns[:2]) for one in (found.frame, plain)
    ]
    pd.testing.assert_frame_equal(*(one.reset_index(drop=True) for one in counts))


def test_a_lost_worker_loses_the_case_in_hand_and_the_next_call_measures_it(tmp_path):
    found = bl.sweep(**CASES, executor=Here(lost=[1]), out=tmp_path, progress=False)
    assert found.frame["run_id"].nunique() == 3
    assert found.lost["reason"].tolist() == ["RuntimeError: worker lost"]
    again = Here()
    whole = bl.sweep(**CASES, executor=again, out=tmp_path, progress=False)
    assert again.n == 1
    assert whole.frame["run_id"].nunique() == 4
    assert set(found.frame["run_id"]) < set(whole.frame["run_id"])


def test_unlike_machines_are_never_pooled(monkeypatch):
    kernels = iter(["Linux 1", "Linux 2", "Linux 2", "Linux 1"])
    measure_one = fleet.measure_one

    def on_another(case, **options):
        run = measure_one(case, **options)
        run.meta["kernel"] = next(kernels)
        return run

    monkeypatch.setattr(fleet, "measure_one", on_another)
    found = bl.sweep(**CASES, executor=Here(), progress=False)
    assert len(found.runs) == 2
    with pytest.raises(ValueError, match=r"unlike in kernel .*draw rows by machine"):
        _ = found.frame
    assert found.rows["machine"].nunique() == 2
    axes = bl.figures.scaling(found.rows, series=("machine", "source", "protocol"))
    assert len(axes.get_legend_handles_labels()[1]) == 4


def test_cases_follow_each_other_on_a_machine():
    with ThreadPoolExecutor(4) as executor:
        found = bl.sweep(**CASES, executor=executor, progress=False)
    assert found.lost.empty  # two at a time are refused by the runner
    assert found.frame["run_id"].nunique() == 4


def test_processes_that_die_lose_no_finished_case(tmp_path):
    with ProcessPoolExecutor(1) as executor:
        first = bl.sweep(memory="8MiB", repeats=1, executor=executor, out=tmp_path, progress=False)
        assert executor.submit(os._exit, 1).exception() is not None
    assert len(set(first.frame["run_id"])) == 1
    with ProcessPoolExecutor(1) as executor:
        whole = bl.sweep(
            memory=["8MiB", "16MiB"], repeats=1, executor=executor, out=tmp_path, progress=False
        )
    assert whole.frame["run_id"].nunique() == 2
    assert set(first.frame["run_id"]) < set(whole.frame["run_id"])


def test_what_takes_no_work_is_refused():
    with pytest.raises(TypeError, match="executor must be of concurrent"):
        bl.sweep(memory="8MiB", executor=3)


@pytest.fixture(scope="module")
def distributed():
    return pytest.importorskip("distributed")


def cluster(distributed, **options):
    return distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, **options
    )


def test_a_dask_cluster_measures_and_survives_a_lost_worker(distributed, tmp_path):
    """One of two workers is killed as soon as two of eight cases are stored."""
    cases = CASES | {"pattern": ["idle", "random"], "memory": ["64MiB", "128MiB"]}
    with (
        cluster(distributed, resources={"machine": 1}) as workers,
        distributed.Client(workers) as client,
        ThreadPoolExecutor(1) as beside,
    ):
        pid = next(iter(client.run(os.getpid).values()))
        running = beside.submit(bl.sweep, **cases, executor=client, out=tmp_path, progress=False)
        while len(list(tmp_path.glob("*/meta.json"))) < 2 and not running.done():
            time.sleep(0.01)
        stored = {
            bl.load(path.parent).frame["run_id"].iloc[0] for path in tmp_path.glob("*/meta.json")
        }
        assert not running.done()
        os.kill(pid, signal.SIGKILL)  # a worker of this test's own cluster
        found = running.result(timeout=200)
        assert found.lost.empty  # dask does the case in hand again
    assert found.frame["run_id"].nunique() == 8
    assert len(stored) >= 2
    assert stored < set(found.frame["run_id"])


def test_dask_workers_must_say_that_they_are_machines(distributed):
    with (
        cluster(distributed) as workers,
        distributed.Client(workers) as client,
        pytest.raises(ValueError, match="--resources machine=1"),
    ):
        bl.sweep(memory="8MiB", executor=client)
