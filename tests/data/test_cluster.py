"""Caches that the workers of a cluster fill."""

import json
import shutil
import signal
import time
from functools import partial

import numpy as np
import psutil
import pytest
from conftest import make_dataset, picture, text

from clfa.config import dump_config
from clfa.data.cache import Cache
from clfa.data.records import Record

SMALL = """
import clfa.data.cache as cache
cache.WINDOW = 8
from clfa.cli import run
run()
"""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def posts(tmp_path):
    """A dataset directory of 120 posts."""

    def post(split, number):
        seed = number + 100 * len(split)
        image = picture(seed) if number % 7 else None
        return Record(f"{split}-{number}", text(seed, 3 + number % 5), image, ["no", "yes"][number % 2], {})

    return make_dataset(tmp_path / "posts", {"train": 100, "validation": 20, "test": 20}, post)


@pytest.fixture
def start(start_process):
    """`start(*command)`: a process that computes in small windows."""
    return partial(start_process, "-c", SMALL)


def finished(child):
    out, said = child.communicate(timeout=300)
    assert child.returncode == 0, said[-3000:]
    return json.loads(out)


def tensors(folder):
    """Cache -> keys and values, in their order."""
    caches = {}
    for place in sorted({path.parent for path in folder.rglob("*.safetensors")}):
        cache = Cache(place)
        keys = [key.tobytes() for shard in cache.shards for key in shard.keys().view(np.dtype(("V", 16)))]
        caches[place.relative_to(folder).as_posix()] = {key: cache.read(n).numpy() for n, key in enumerate(keys)}
    return caches


def assert_close(own, expected):
    assert own.keys() == expected.keys()
    for name, values in expected.items():
        assert own[name].keys() == values.keys()
        assert max(np.abs(own[name][key] - value).max() for key, value in values.items()) < 2e-3


def test_a_teacher_embeds_on_a_cluster_although_a_worker_and_the_driver_die(encoders, posts, start, tmp_path):
    shutil.copytree(posts, tmp_path / "there")
    command = ("teacher", "embed", "--teacher", encoders / "clip", "--splits", "train", "--json")
    done = finished(start(*command, posts))
    command += (tmp_path / "there", "--engine", "ray", "--precision", "fp32_by_bf16")
    child = start(*command)
    until_shards(tmp_path / "there", 2, child)
    children = psutil.Process(child.pid).children(recursive=True)
    workers = [one for one in children if "_Worker" in " ".join(one.cmdline())]
    workers[0].kill()
    before = until_shards(tmp_path / "there", 4, child)
    child.send_signal(signal.SIGKILL)
    child.wait()
    left = finished(start(*command))["computed"]["train"]
    assert 0 < left < done["computed"]["train"]
    assert {name: (tmp_path / "there" / name).read_bytes() for name in before} == before  # kept, not computed again
    assert_close(tensors(tmp_path / "there" / "teachers"), tensors(posts / "teachers"))


def test_a_cluster_computes_the_states_of_frozen_layers(run_config, posts, start, tmp_path):
    shutil.copytree(posts, tmp_path / "there")
    changes = {"text__frozen": True, "image__trained_layers": 1}
    config = run_config(loss__alignment_weight=0, **{f"model__modalities__{n}": v for n, v in changes.items()})
    (tmp_path / "run.yaml").write_text(dump_config(config))
    command = ("cache", "--config", tmp_path / "run.yaml", "--json")
    counts = finished(start(*command, "--data.path", posts))
    command += ("--train.precision", "fp32_by_bf16")
    assert counts["text"] == 120
    assert 90 < counts["image"] < 120
    assert finished(start(*command, "--data.path", tmp_path / "there", "--engine", "ray")) == counts
    assert_close(tensors(tmp_path / "there" / "states"), tensors(posts / "states"))


def until_shards(folder, count, child):
    """Names and bytes of the shards, when there are so many."""
    while len(found := list(folder.rglob("[0-9]*.safetensors"))) < count:
        assert child.poll() is None, child.stderr.read()[-3000:]
        time.sleep(0.01)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


DEAD = """
import psutil, ray
import clfa.data.cluster as cluster
init = ray.init
def dies(*address, **options):
    ray.init = init
    init(*address, **options)
    next(each for each in psutil.Process().children(recursive=True) if each.name() == "raylet").kill()
ray.init = dies
with cluster.cluster() as workers:
    print(*sorted(cluster.spread(enumerate("abcd"), workers, lambda: lambda number, letter: letter)))
"""


def test_a_node_that_dies_while_it_starts_is_begun_again(start_process):
    child = start_process("-c", DEAD)
    out, said = child.communicate(timeout=300)
    assert child.returncode == 0, said[-3000:]
    assert "a b c d" in out.splitlines()
    assert "did not start, and is begun again: The task's local raylet died" in said


def test_a_cluster_of_its_own_is_not_one_that_others_run_here(start_process):
    from ray.cluster_utils import Cluster

    others = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        out, said = start_process("-c", OWN).communicate(timeout=300)
    finally:
        others.shutdown()
    assert "a b c d" in out.splitlines(), said[-3000:]


OWN = """
import clfa.data.cluster as cluster
with cluster.cluster() as workers:
    print(*sorted(cluster.spread(enumerate("abcd"), workers, lambda: lambda number, letter: letter)))
"""
LOST = """
import os
import clfa.data.cluster as cluster
cluster.RETRIES = 1
def begin():
    def work(number, contents):
        if contents == "b":
            os._exit(1)
        return contents
    return work
def upper(contents, error):
    assert "a worker of the cluster" in str(error)
    return contents.upper()
with cluster.cluster() as workers:
    print(*sorted(cluster.spread(enumerate("abcd"), workers, begin, lost=upper)))
"""


def test_a_job_whose_workers_die_costs_no_other_job(start_process):
    child = start_process("-c", LOST)
    out, said = child.communicate(timeout=300)
    assert child.returncode == 0, said[-3000:]
    assert "B a c d" in out.splitlines()  # Ray says beside it that a worker died
