"""A system: the predictions of its runs on the same posts, pooled from run directories or stored in one small file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clfa.data.atomic import replacing
from clfa.errors import UserError
from clfa.runs import Predictions, Run


@dataclass(frozen=True)
class System:
    """The runs of one system on the same posts, one a seed; the folds of a seed are one run."""

    name: str
    ids: list[str]
    """Ids of the N posts."""
    class_names: list[str]
    labels: NDArray[np.int64]
    """(N,) class numbers."""
    predictions: NDArray[np.int64]
    """(R, N) class numbers."""
    seeds: list[int]
    """Seed of each run."""


def pool_runs(name: str, runs: Sequence[Run], split: str) -> System:
    """The predictions of the runs of one system: folds of a seed one after the other, one row a seed.

    Posts are in the order of the first seed; others are brought into it by their ids.

    Raises:
        UserError: a run has no predictions, folds are missing, or the seeds were evaluated on different posts.
    """
    by_seed: dict[int, dict[int, Run]] = {}
    folds = 1
    for run in runs:
        config = run.config()
        folds = max(folds, config.data.folds)
        by_seed.setdefault(config.seed, {})[config.data.fold if config.data.folds else 0] = run
    pooled = []
    for seed, of_fold in by_seed.items():
        if len(of_fold) < folds and len(runs) > 1:
            raise UserError(f"{name}: seed {seed} has {len(of_fold)} of {folds} folds; run the sweep to its end")
        pooled.append(_join([of_fold[fold].predictions(split) for fold in sorted(of_fold)]))
    if not pooled:
        raise UserError(f"{name}: no runs")
    first = pooled[0]
    predictions = np.stack([_predicted_in_order(first.ids, each, name) for each in pooled])
    return System(name, first.ids, first.class_names, first.labels, predictions, list(by_seed))


def write_system(system: System, path: Path) -> None:
    """Write the predictions of a system as one small Parquet file: `id, label, seed-<k> …`, classes by their names."""
    names = pa.array(system.class_names)

    def classes(numbers: NDArray[np.int64]) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(numbers, pa.int8()), names)

    columns = {"id": pa.array(system.ids), "label": classes(system.labels)}
    columns |= {f"seed-{seed}": classes(predicted) for seed, predicted in zip(system.seeds, system.predictions)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        pq.write_table(pa.table(columns), partial, compression="zstd")


def read_system(path: Path) -> System:
    """Read what `write_system` wrote.

    Raises:
        UserError: it is no such file.
    """
    try:
        table = pq.read_table(path)
        labels = table.column("label").combine_chunks()
        seeds = [name for name in table.column_names if name.startswith("seed-")]
        predictions = np.stack([table.column(name).combine_chunks().indices.to_numpy() for name in seeds])
        ids, class_names, numbers = table.column("id").to_pylist(), labels.dictionary.to_pylist(), labels.indices
    except (OSError, KeyError, ValueError, AttributeError, pa.ArrowException) as error:
        raise UserError(
            f"{path} holds no predictions of a system (id, label, seed-0 …): {str(error).splitlines()[0]}; make one with "
            "`clfa compare RUN RUN --save FOLDER`"
        ) from None
    of_seeds = [int(name.removeprefix("seed-")) for name in seeds]
    return System(path.stem, ids, class_names, numbers.to_numpy().astype(int), predictions.astype(int), of_seeds)


def _join(folds: list[Predictions]) -> Predictions:
    return Predictions(
        [id for fold in folds for id in fold.ids],
        folds[0].class_names,
        np.concatenate([fold.labels for fold in folds]),
        np.concatenate([fold.probabilities for fold in folds]),
        np.concatenate([fold.predicted for fold in folds]),
    )


def _predicted_in_order(ids: list[str], predictions: Predictions, name: str) -> NDArray[np.int64]:
    """(N,) classes of the same posts in the order of `ids`."""
    if predictions.ids == ids:
        return predictions.predicted
    if sorted(predictions.ids) != sorted(ids):
        raise UserError(f"{name}: its runs were evaluated on different posts: delete the old ones")
    place = {id: number for number, id in enumerate(predictions.ids)}
    return predictions.predicted[[place[id] for id in ids]]
