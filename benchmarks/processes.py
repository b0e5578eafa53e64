"""One run by one process and by two of torchrun: posts a second, and that they train the same.

    python benchmarks/processes.py --layers 2 --json docs/results/processes.json

Full-width encoders of so many layers without dropout, one thread a process, the same batches; epochs after the first count.
Processes exchange the gradients of all weights once in a step, so their share of it falls with the posts of a batch.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

COUNTS, POSTS = (1, 2), 64
TRAIN = (
    "import sys; from clfa.config import RunConfig, build_config, read_yaml; from clfa.training.train import train; "
    "train(build_config(RunConfig, read_yaml(sys.argv[1])))"
)
CONFIG = """
import json, sys
from pathlib import Path
from clfa.config import dump_config
from clfa.studies.bench.material import config_of
folder, layers, output, batch, posts = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
still = {"model.dropout": 0, "model.fusion.dropout": 0}
config = config_of(folder, layers, posts, output=output, **still, **{"train.batch_size": batch, "train.epochs": 3})
for name in ("bert", "vit"):
    path = folder / name / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}))
print(dump_config(config))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rates: dict[tuple[int, int], list[float]] = {}
    losses: dict[tuple[int, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        for number in range(options.rounds):
            for batch in options.batch:
                for count in COUNTS[:: -1 if number % 2 else 1]:
                    lines = run(Path(name), options.layers, batch, count, number)
                    rates.setdefault((batch, count), []).extend(line["examples_per_second"] for line in lines[1:])
                    losses[batch, count] = [line["loss"] for line in lines]
                    print(batch, count, rates[batch, count], flush=True)
    middle = {key: sorted(each)[len(each) // 2] for key, each in rates.items()}
    result = {
        "date": date.today().isoformat(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "layers": options.layers,
        "posts": POSTS,
        "rounds": options.rounds,
        "batches": {
            batch: {
                "posts_a_second": {count: middle[batch, count] for count in COUNTS},
                "efficiency": middle[batch, 2] / (2 * middle[batch, 1]),
                "losses_differ_by": max(
                    abs(one - other) / one for one, other in zip(losses[batch, 1], losses[batch, 2])
                ),
            }
            for batch in options.batch
        },
    }
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def run(folder: Path, layers: int, batch: int, count: int, number: int) -> list[dict]:
    """The log of a run by so many processes."""
    output = folder / f"{batch}-{count}-{number}"
    given = [sys.executable, "-c", CONFIG, folder, layers, output, batch, POSTS]
    config = subprocess.run(list(map(str, given)), check=True, capture_output=True, text=True).stdout
    (folder / "run.yaml").write_text(config)
    (folder / "train.py").write_text(TRAIN)
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", count] if count > 1 else []
    command = [sys.executable, *several, folder / "train.py", folder / "run.yaml"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(list(map(str, command)), check=True, env=environment, stderr=subprocess.DEVNULL)
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


if __name__ == "__main__":
    main()
