"""Predictions on a Ray cluster: the rows of this process alone, each once, whatever is killed."""

import csv
import signal
import time

import numpy as np
import psutil
import pytest
from conftest import picture, text

ROWS, SHARDS = 3_000, 24
SMALL = """
import os
import clfa.data.cluster as cluster
import clfa.serving.files as files
files.CHUNK, files.SHARD, cluster.READY = 64, 2, int(os.environ.get("READY", cluster.READY))
from clfa.cli import run
run()
"""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def posts(tmp_path):
    """A file of posts, most with an image, some with one that is missing."""
    for number in range(10):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    with open(tmp_path / "posts.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "image"])
        for number in range(ROWS):
            image = "missing.png" if number % 500 == 7 else f"{number % 10}.png" if number % 3 else ""
            writer.writerow([number, text(number, 1 + number % 9), image])
    return tmp_path / "posts.csv"


@pytest.fixture
def start(start_process, run, posts):
    """`start(output, engine)`: the command, in shards of 128 rows, as a process."""

    def begin(output, engine="ray", **environment):
        command = ["predict", run, "--input", posts, "--output", output, "--on-bad", "mask", "--engine", engine]
        return start_process("-c", SMALL, *command, **environment)

    return begin


def finished(child):
    _, said = child.communicate(timeout=300)
    assert child.returncode == 0, said[-3000:]


def wait_for(output, shards, child):
    """Until so many shards are done."""
    folder = output.with_name(output.name + ".shards")
    while len(list(folder.glob("0*.json"))) < shards:
        assert child.poll() is None, child.stderr.read()[-3000:]
        time.sleep(0.01)


def rows_of(output):
    with open(output, newline="") as file:
        return list(csv.DictReader(file))


def assert_same(output, expected):
    found, own = rows_of(output), rows_of(expected)
    assert [row["id"] for row in found] == [str(number) for number in range(ROWS)]  # each once, in order
    for name in ("text", "image", "problem"):
        assert [row[name] for row in found] == [row[name] for row in own]
    a, b = (np.array([float(row["probability_yes"]) for row in rows]) for rows in (found, own))
    assert np.abs(a - b).max() <= 2e-6  # with other numbers of threads the last bits differ
    assert not list(output.parent.glob("*.shards"))


@pytest.fixture
def expected(start, tmp_path):
    output = tmp_path / "plain.csv"
    finished(start(output, "plain"))
    assert len({row["probability_yes"] for row in rows_of(output)}) > ROWS / 4
    return output


def test_the_driver_and_a_worker_are_killed(start, expected, tmp_path):
    output = tmp_path / "ray.csv"
    child = start(output)
    wait_for(output, 5, child)
    child.send_signal(signal.SIGKILL)
    child.wait()
    done = len(list((tmp_path / "ray.csv.shards").glob("0*.json")))
    assert 5 <= done < SHARDS
    child = start(output)
    wait_for(output, min(done + 3, SHARDS - 2), child)
    workers = [
        one for one in psutil.Process(child.pid).children(recursive=True) if "_Worker" in " ".join(one.cmdline())
    ]
    assert workers
    workers[0].kill()
    finished(child)
    assert_same(output, expected)


def test_a_machine_dies(start, expected, tmp_path):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        cluster.wait_for_nodes()
        output = tmp_path / "ray.csv"
        child = start(output, RAY_ADDRESS=cluster.address)
        wait_for(output, 4, child)
        cluster.remove_node(nodes[0], allow_graceful=False)
        wait_for(output, 8, child)
        cluster.add_node(num_cpus=1)
        finished(child)
        assert_same(output, expected)
    finally:
        cluster.shutdown()


def test_what_is_wrong_with_the_cluster_is_said(start, tmp_path):
    child = start(tmp_path / "out.csv", RAY_ADDRESS="127.0.0.1:1")
    _, said = child.communicate(timeout=120)
    assert child.returncode == 2, said[-2000:]
    assert "no Ray cluster at 127.0.0.1:1" in said
    assert "Traceback" not in said


def test_a_cluster_without_a_free_core_is_no_reason_to_wait_for_ever(start, tmp_path):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        child = start(tmp_path / "out.csv", RAY_ADDRESS=cluster.address, READY="20")
        _, said = child.communicate(timeout=200)
        assert child.returncode == 2, said[-2000:]
        assert "no worker of the cluster was ready within 20 seconds" in said
    finally:
        cluster.shutdown()
