"""One run by one process and by two of torchrun: posts a second, and that they train the same.

    python benchmarks/processes.py --layers 2 --json docs/results/processes.json

Full-width encoders of so many layers, one thread a process, the same batches of eight posts; epochs after the first count.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

COUNTS = (1, 2)
TRAIN = (
    "import sys; from clfa.config import RunConfig, build_config, read_yaml; from clfa.training.train import train; "
    "train(build_config(RunConfig, read_yaml(sys.argv[1])))"
)
CONFIG = (
    "import sys; from pathlib import Path; from clfa.config import dump_config; "
    "from clfa.studies.bench.material import config_of; folder = Path(sys.argv[1]); "
    "quiet = {'model.dropout': 0, 'model.fusion.dropout': 0, 'train.batch_size': 8, 'train.epochs': 3}; "
    "config = config_of(folder, int(sys.argv[2]), 64, output=sys.argv[3], **quiet); print(dump_config(config))"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rates: dict[int, list[float]] = {count: [] for count in COUNTS}
    losses: dict[int, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "train.py").write_text(TRAIN)
        for number in range(options.rounds):
            for count in COUNTS[:: -1 if number % 2 else 1]:
                output = folder / f"{count}-{number}"
                given = [sys.executable, "-c", CONFIG, folder, options.layers, output]
                config = subprocess.run(list(map(str, given)), check=True, capture_output=True, text=True).stdout
                (folder / "run.yaml").write_text(config)
                several = (
                    ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", count] if count > 1 else []
                )
                command = [sys.executable, *several, folder / "train.py", folder / "run.yaml"]
                environment = os.environ | {"OMP_NUM_THREADS": "1"}
                subprocess.run(list(map(str, command)), check=True, env=environment, stderr=subprocess.DEVNULL)
                lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
                rates[count] += [line["examples_per_second"] for line in lines[1:]]
                losses[count] = [line["loss"] for line in lines]
    middle = {count: sorted(each)[len(each) // 2] for count, each in rates.items()}
    found = {
        "date": date.today().isoformat(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "layers": options.layers,
        "posts_a_second": middle,
        "efficiency": middle[2] / (2 * middle[1]),
        "losses": losses,
    }
    print(json.dumps(found, indent=1))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
