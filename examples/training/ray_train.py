"""One run by several workers of a Ray cluster (RAY_ADDRESS, or this machine): each takes its share of every batch.

    python examples/training/ray_train.py run.yaml 2

All machines see the same file system, and run.yaml names folders there.
"""

import os
import sys
from pathlib import Path

import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer


def work(given: dict[str, str]) -> None:
    """What each worker does; those of Ray Train are connected when it begins."""
    import clfa
    from clfa.config import RunConfig, build_config, read_yaml

    os.chdir(given["folder"])
    clfa.train(build_config(RunConfig, read_yaml(given["config"])), resume=True)


ray.init(os.environ.get("RAY_ADDRESS", "local"))
config, workers = Path(sys.argv[1]).resolve(), int(sys.argv[2])
trainer = TorchTrainer(
    work,
    train_loop_config={"config": str(config), "folder": str(Path.cwd())},
    scaling_config=ScalingConfig(num_workers=workers),  # use_gpu=True where there are GPUs
    run_config=RunConfig(storage_path=str(Path.cwd() / "ray")),
)
trainer.fit()
print("trained by", workers, "workers")
