"""`loss.alignment_weight: auto`: how much alignment, and of which modalities, is chosen on validation."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from clfa.config import RunConfig
from clfa.data.atomic import write_text
from clfa.data.splits import load_rows, source_splits
from clfa.errors import TimeUp
from clfa.metrics import METRICS, holm, is_claim, mean_nll, nll_difference
from clfa.model.classifier import Classifier
from clfa.model.pipeline import Pipeline
from clfa.runs import Run
from clfa.training.setup import check_alignment

WEIGHTS = (1.0, 0.3, 0.1)
"""Tried beside 0, the paper's first: where the time is short, the rest is left out."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """A weight, and the modalities that it is for."""

    weight: float
    modalities: tuple[str, ...]
    first: bool = False
    """Alignment before classification, see `clfa.config.LossConfig.alignment_schedule`."""

    @property
    def name(self) -> str:
        """As people read it, and the folder of its run."""
        if not self.weight:
            return "no alignment"
        return f"alignment {self.weight:g} of {' and '.join(self.modalities)}{' first' if self.first else ''}"


def train_with_chosen_alignment(config: RunConfig, run: Run, train: Callable[..., Path], deadline: float) -> None:
    """Train with no alignment, with each weight, and with the best weight for each modality alone and before classification;
    the simplest whose NLL on validation is not claimed to be worse than the best one's becomes the run.

    No alignment is the simplest, then a modality alone, then all of them, then all of them first; p is corrected for all
    that were tried (Holm). So alignment is taken only where validation tells that it helps, and costs nothing but time where
    it does not.

    Args:
        config: of the run, with the weight `auto`.
        run: it has begun; the runs that were tried are kept in its folder `candidates`, where a stopped one goes on.
        train: `clfa.training.train.train`.
        deadline: as there; what is not trained by then is not among the choices, no alignment must be.
    """
    check_alignment(config)
    aligned = tuple(name for name, modality in config.model.modalities.items() if modality.align)
    validation = load_rows(config.data, "validation")
    found: dict[Choice, Float[NDArray, "posts classes"]] = {}

    def add(choice: Choice) -> None:
        child = _child(config, choice, run.path / "candidates" / choice.name.replace(" ", "_"))
        log.info("%s: %s", run, choice.name)
        try:
            if found and time.monotonic() > deadline and not Run(child.output).is_finished:
                raise TimeUp  # before the data are set up
            pipeline = Pipeline.load(train(child, resume=True, deadline=deadline))
        except TimeUp:
            if not found:
                raise
            log.info("%s: the time is up, %s is not among the choices", run, choice.name)
            return
        pipeline.cache(Path(config.data.path), source_splits(config.data, ["validation"]))
        found[choice] = pipeline.logits(validation, "validating").double().log_softmax(1).numpy()

    add(Choice(0.0, ()))
    always_first = config.loss.alignment_schedule == "first"
    for weight in WEIGHTS:
        add(Choice(weight, aligned, always_first))
    weighted = [choice for choice in found if choice.weight]
    if weighted:
        best = min(weighted, key=lambda choice: mean_nll(validation.labels, found[choice]))
        for name in aligned if len(aligned) > 1 else ():
            add(Choice(best.weight, (name,), always_first))
        if not always_first:
            add(Choice(best.weight, aligned, first=True))
    chosen, told = choose(found, validation.labels)
    for line in told:
        log.info("%s: %s", run, line)
    child = Run(_child(config, chosen, run.path / "candidates" / chosen.name.replace(" ", "_")).output)
    Classifier.from_pretrained(child.path).save_pretrained(run.path)
    write_text(run.log_file, child.log_file.read_text(encoding="utf-8"))
    run.finish(child.metrics()["training"] | {"alignment": chosen.name, "tried": told})


def choose(found: dict[Choice, NDArray], labels: NDArray[np.int64]) -> tuple[Choice, list[str]]:
    """What was tried with its (N, C) log probabilities of validation posts -> the choice, and a line for each."""
    nlls = {choice: mean_nll(labels, of) for choice, of in found.items()}
    best = min(found, key=lambda choice: nlls[choice])
    others = [choice for choice in found if choice != best]
    gaps = [nll_difference(labels, found[best], found[other]) for other in others]
    equals, lines = [best], {best: "the best"}
    for other, (gap, _), p in zip(others, gaps, holm([p for _, p in gaps])):
        worse = is_claim(gap, p)
        equals += [] if worse else [other]
        lines[other] = f"{'worse' if worse else 'cannot tell'}: {gap.text(METRICS['nll'].unit, signed=True)}"
    chosen = min(equals, key=_complexity)
    told = [
        f"{choice.name}: validation NLL {nlls[choice]:.3f}, {lines[choice]}{', taken' if choice == chosen else ''}"
        for choice in found
    ]
    return chosen, told


def _complexity(choice: Choice) -> tuple[int, bool, float]:
    return (len(choice.modalities), choice.first, choice.weight)


def _child(config: RunConfig, choice: Choice, output: Path) -> RunConfig:
    modalities = {
        name: replace(modality, align=modality.align and name in choice.modalities)
        for name, modality in config.model.modalities.items()
    }
    return replace(
        config,
        output=str(output),
        data=config.data if choice.weight else replace(config.data, unlabelled=None),
        model=replace(config.model, modalities=modalities),
        loss=replace(
            config.loss, alignment_weight=choice.weight, alignment_schedule="first" if choice.first else "constant"
        ),
    )
