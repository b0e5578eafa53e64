"""Training, as a story: set-up, loop, checkpoint, best epoch. `clfa train --config run.yaml`.

The epoch is chosen on validation; the test split is never opened here (`clfa evaluate RUN --split test` does that).
"""

import io
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clfa.config import RunConfig, TrainConfig, check_ranges
from clfa.data.lock import only_one
from clfa.data.progress import track
from clfa.errors import TimeUp, UserError
from clfa.metrics import METRICS, all_scores
from clfa.model.arithmetic import arithmetic, available, products
from clfa.model.batch import NO_LABEL, Batch
from clfa.runs import Run
from clfa.training.auto import train_with_chosen_alignment
from clfa.training.average import averaged, update_average
from clfa.training.checkpoint import clear_checkpoints, load_best, load_checkpoint, save_best, save_checkpoint
from clfa.training.deterministic import deterministic
from clfa.training.memory import explained
from clfa.training.modality_dropout import expected_terms
from clfa.training.objective import aligns_alone, objective
from clfa.training.optimizer import learning_rate
from clfa.training.probe import train_probe
from clfa.training.processes import Passes, Processes, clipped, gathered, is_sharded, processes, without_exchange
from clfa.training.setup import Setup, one_pass, set_up
from clfa.training.sharded import all_put_together
from clfa.training.stopping import Stop, stoppable

NOT_FINITE = 3
"""Steps in a row whose loss or gradient is not finite that end a training."""
CHECKPOINT_SECONDS = 300
"""Between checkpoints inside of an epoch; at its end there always is one."""

log = logging.getLogger(__name__)


@dataclass
class State:
    """Where the loop stands: with the weights, the optimizer and the random generators, all that a checkpoint holds."""

    epoch: int = 0
    """Epochs done."""
    step: int = 0
    """Optimizer steps done."""
    batch: int = 0
    """Batches of the epoch that is running that are done."""
    factor: float = 0.0
    """Of the peak learning rates, in the last step."""
    sums: dict[str, float] = field(default_factory=dict)
    """Of the terms of the loss over those of them whose loss is finite."""
    lost: int = 0
    """The others of them."""
    skipped: int = 0
    """Steps of the epoch that is running that were not applied, as the loss or a gradient was not finite."""
    suspects: list[list[str]] = field(default_factory=list)
    """The posts of each such step since the last that was applied."""
    best: float | None = None
    """Best value of the monitored metric so far."""
    best_epoch: int = 0
    """The epoch that had it, from 1."""
    seconds: float = 0.0
    """Time spent in steps."""
    seconds_before: float = 0.0
    """Of them those of earlier epochs."""
    log_bytes: int = 0
    """Length of the log; what was written behind it is written again after a resume."""

    def epochs_left(self, config: TrainConfig) -> Iterator[int]:
        """The epochs to come, until the last one or until patience is spent."""
        while self.epoch < config.epochs and (self.best is None or self.epoch - self.best_epoch < config.patience):
            yield self.epoch

    def end_epoch(self, value: float | None, higher_is_better: bool) -> bool:
        """Count an epoch; whether it is the best so far. One without a value cannot be."""
        self.epoch, self.batch, self.sums, self.lost, self.skipped = self.epoch + 1, 0, {}, 0, 0
        self.seconds_before = self.seconds
        if value is None:
            return False
        if self.best is not None and (value <= self.best if higher_is_better else value >= self.best):
            return False
        self.best, self.best_epoch = value, self.epoch
        return True


def train(config: RunConfig, resume: bool = False, deadline: float = math.inf) -> Path:
    """Train one run and write its run directory.

    Args:
        config: everything.
        resume: go on from the last checkpoint of `config.output`; the result is that of an uninterrupted run.
        deadline: on the clock of `time.monotonic`; `TimeUp` is raised at the first step behind it.

    Returns:
        The run directory: `config.yaml`, `dataset.json` (the data it was made from), model files, `log.jsonl`,
        `metrics.json`, `environment.json`; `checkpoints/` until it is finished.

    Raises:
        UserError: the output holds another run, another process is at work there, data or teacher do not fit, or the loss
            stays without a finite value.
    """
    check_ranges(config)
    run = Run(config.output)
    with processes() as several, deterministic(config.train.deterministic), products(config.train.precision):
        if several and (config.model.probe or config.loss.alignment_weight == "auto"):
            raise UserError(
                "a probe, and loss.alignment_weight: auto, are trained by one process: start `clfa train` without torchrun"
            )
        with only_one(run.path, inside=True) if several.leads else nullcontext():
            if not several.all(several.leads and run.begin(config, resume))[0]:
                if several.leads:
                    clear_checkpoints(run.checkpoints)  # it may have been killed while it did so
                log.info("%s: already finished", run)
                return run.path
            torch.manual_seed(config.seed)
            if config.model.probe:
                train_probe(config, run)
            elif config.loss.alignment_weight == "auto":
                train_with_chosen_alignment(config, run, train, deadline)
            else:
                _train(config, run, resume, deadline, several)
            several.all(None)  # the first one has written everything
    return run.path


def _train(config: RunConfig, run: Run, resume: bool, deadline: float, several: Processes) -> None:
    """One network, epoch by epoch."""
    setup, settings = set_up(config, several), config.train
    state = State()
    if resume and (
        saved := load_checkpoint(run.checkpoints, setup.model, setup.optimizer, setup.average, several.leads)
    ):
        state = State(**saved)
    if len(set(several.all((state.epoch, state.step, state.batch)))) > 1:
        raise UserError(
            f"{run}: not all processes find the same checkpoint there: all machines must see the same file system"
        )
    better = METRICS[settings.monitor].higher_is_better
    board = _tensorboard(run.path) if settings.tensorboard and several.leads else None
    log.info(_opening_line(setup))
    available(settings.precision, setup.pipeline.device)

    on_cpu = setup.pipeline.device.type == "cpu"
    how = "stopping after this step: the same command with --resume goes on from there"
    log_file = _open_log(run.log_file, state.log_bytes) if several.leads else io.StringIO()
    with log_file as file, stoppable(how) as stop:
        between_steps = partial(_between_steps, setup, run, state, stop, deadline, [time.monotonic()])
        for number in state.epochs_left(settings):
            setup.sampler.set_epoch(state.epoch, state.batch)
            with one_pass(setup.batches) as batches:
                epoch = partial(_train_epoch, setup, config, state, batches, between_steps)
                trial = None if is_sharded(setup.passes) else partial(_trial, setup, config)
                losses = explained(epoch, trial, settings, on_cpu, stop)
            seconds, skipped = state.seconds - state.seconds_before, state.skipped
            try:
                with averaged(setup.model, setup.average):
                    with nullcontext() if several else stop.at_once():  # several processes end together
                        probabilities = _validation(setup)
                    scores = all_scores(setup.validation.labels, probabilities)
                    untrained = aligns_alone(config.loss, (number + 1) / settings.epochs)
                    best = state.end_epoch(None if untrained else scores[settings.monitor], better)
                    if best:
                        save_best(run.checkpoints, setup.model, several.leads)
            except (KeyboardInterrupt, SystemExit):  # it will go on with the validation
                _save(setup, run, state)
                raise
            line = {
                "epoch": state.epoch,
                "step": state.step,
                **losses,
                **({"skipped_steps": skipped} if skipped else {}),
                "learning_rate": state.factor * settings.head_learning_rate,
                "validation": scores,
                "examples_per_second": len(setup.rows) / seconds,
            }
            file.write(json.dumps(line) + "\n")
            file.flush()
            state.log_bytes = file.tell()
            _save(setup, run, state)
            log.info(_progress_line(line, state, settings))
            if board:
                for name, value in {**losses, **scores}.items():
                    board.add_scalar(name, value, state.epoch)
            _end(stop, several.largest(stop.signal or 0)[0])

    if board:
        board.close()
    if several.leads or is_sharded(setup.passes):
        _finish(setup, run, state, settings)


def _save(setup: Setup, run: Run, state: State) -> None:
    """Add a checkpoint; of several processes the first one does so."""
    leads = setup.processes.leads
    if leads or is_sharded(setup.passes):
        save_checkpoint(run.checkpoints, setup.model, setup.optimizer, asdict(state), setup.average, leads)


def _validation(setup: Setup) -> NDArray[np.float64]:
    """Probabilities of the posts to validate; of several processes each computes its share."""
    several, rows = setup.processes, setup.validation
    several.share_buffers(setup.model)
    places = several.share(len(rows))
    own = setup.pipeline.probabilities(rows.select(places) if several else rows, "validating")
    whole = np.empty((len(rows), own.shape[1]))
    for share, theirs in several.all((places, own)):
        whole[share] = theirs
    return whole


def _finish(setup: Setup, run: Run, state: State, settings: TrainConfig) -> None:
    """Save the model of the best epoch."""
    load_best(run.checkpoints, setup.model)
    setup.model.merge_adapters()
    weights = all_put_together(setup.model.state_dict(), setup.processes.leads)
    if not setup.processes.leads:
        return
    setup.model.save_with(run.path, weights)
    run.finish(
        {
            "best_epoch": state.best_epoch,
            "epoch": state.epoch,
            "seconds": state.seconds,
            f"best_validation_{settings.monitor}": state.best,
            "train_rows": len(setup.rows),
        }
    )
    clear_checkpoints(run.checkpoints)


def _trial(setup: Setup, config: RunConfig, size: int) -> None:
    """Four steps of so many posts, of other lengths each time, as memory is in pieces after the first."""
    alone = replace(setup, passes=Passes(setup.model, config.train.modality_dropout > 0), processes=Processes())
    longest = (-setup.sampler.lengths).argsort(kind="stable").tolist()
    posts: Any = setup.batches.dataset
    beside = tuple(islice(cycle(range(len(setup.rows), len(posts))), size))
    setup.optimizer.zero_grad()
    for begin in range(0, len(longest), -(-len(longest) // 4)):
        labelled = islice(cycle(longest), begin, begin + size)
        batch = setup.batches.collate_fn([posts[place] for place in (*labelled, *beside)])
        loss_terms(alone, config, batch, 0.5, [size])["loss"].backward()
        setup.optimizer.step()
        setup.optimizer.zero_grad()


def _between_steps(setup: Setup, run: Run, state: State, stop: Stop, deadline: float, saved: list[float]) -> None:
    """Save where it is time to, a signal came, or the deadline has passed; the last two end the training here."""
    now = time.monotonic()
    signal, up, due = setup.processes.largest(stop.signal or 0, now > deadline, now - saved[0] > CHECKPOINT_SECONDS)
    if signal or up or due:
        _save(setup, run, state)
        saved[0] = time.monotonic()
    _end(stop, signal)
    if up:
        raise TimeUp


def _end(stop: Stop, signal: int) -> None:
    """End here if there was a signal that all processes know of; one that came since is looked at after the next step."""
    if signal:
        stop.signal = signal
        stop.now()


def _train_epoch(
    setup: Setup, config: RunConfig, state: State, batches: Iterator[Batch], between_steps: Callable[[], None]
) -> dict[str, float]:
    """One pass over the training posts, or what is left of it; the mean of each term of the loss over its batches."""
    settings, model = config.train, setup.model
    last, total = len(setup.batches) - 1, math.ceil(len(setup.batches) / settings.accumulation) * settings.epochs
    model.train()
    computed: list[dict[str, Tensor]] = []
    since = time.monotonic()
    tracked = track(batches, f"posts of epoch {state.epoch + 1}", len(setup.rows) // setup.processes.count, _labelled)
    first = state.batch
    for number, batch in enumerate(tracked, first):
        state.factor = learning_rate(state.step, total, settings)
        for group in setup.optimizer.param_groups:
            group["lr"] = group["peak"] * state.factor
        stepped = (number + 1) % settings.accumulation == 0 or number == last
        setup.processes.seed(config.seed, state.epoch, number)
        with without_exchange(setup.passes, stepped):
            terms = loss_terms(setup, config, batch, state.step / total, setup.share.counts[number - first])
            (terms["loss"] * (setup.processes.count / settings.accumulation)).backward()
        computed.append({name: value.detach() for name, value in terms.items()})
        if stepped:
            norm = clipped(setup.passes, settings.clip, setup.processes)
            if not _count(state, computed, norm):
                _skip_step(setup, state, number - number % settings.accumulation, number)
            else:
                setup.optimizer.step()
                update_average(setup.average, model, state.step, settings.average)
                state.suspects = []
            setup.optimizer.zero_grad()
            state.step, computed = state.step + 1, []
        state.batch, state.seconds, since = number + 1, state.seconds + time.monotonic() - since, time.monotonic()
        if stepped and number != last:
            between_steps()
    finite = len(setup.batches) - state.lost
    return {name: value / finite for name, value in state.sums.items()} if finite else {"loss": math.nan}


def _count(state: State, computed: list[dict[str, Tensor]], norm: Tensor) -> bool:
    """Add the terms of the losses of a step to the sums; whether all of them and the gradient are finite.

    Here, once in a step, the process waits for the device.
    """
    flat = [value for terms in computed for value in terms.values()]
    *values, length = torch.stack([*flat, norm]).tolist()
    finite = math.isfinite(length)
    for terms in computed:
        numbers, values = dict(zip(terms, values)), values[len(terms) :]
        if math.isfinite(numbers["loss"]):
            for name, value in numbers.items():
                state.sums[name] = state.sums.get(name, 0.0) + value
        else:
            state.lost, finite = state.lost + 1, False
    return finite


def _skip_step(setup: Setup, state: State, first: int, last: int) -> None:
    """Count a step of these batches that is not applied.

    Raises:
        UserError: it is the third one in a row.
    """
    batches = setup.sampler.all_batches()[first : last + 1]
    state.skipped += 1
    state.suspects.append([setup.rows[place]["id"] for batch in batches for place in batch.tolist()])
    log.warning("step %s: the loss or a gradient is not finite, the step is not applied", state.step + 1)
    if len(state.suspects) == NOT_FINITE:
        named = ", ".join(dict.fromkeys(id for ids in state.suspects for id in ids[:20]))
        raise UserError(
            f"the loss or a gradient was not finite in {NOT_FINITE} steps in a row, the last is step {state.step + 1} in "
            f"epoch {state.epoch + 1}: lower train.head_learning_rate or train.encoder_learning_rate, or use "
            f"train.precision fp32; their posts are {named}"
        )


def _labelled(batch: Batch) -> int:
    """Number of posts with a label."""
    return 0 if batch.labels is None else int((batch.labels != NO_LABEL).sum())


def loss_terms(setup: Setup, config: RunConfig, batch: Batch, done: float, counts: list[int]) -> dict[str, Tensor]:
    """The terms of the loss over the batches of all processes, which have `counts` posts each."""
    batch = batch.to(setup.pipeline.device)
    rate = config.train.modality_dropout
    with arithmetic(config.train.precision, setup.pipeline.device):
        whole, lacking = setup.passes(batch)
    if setup.processes:
        (whole, *lacking), batch = gathered([whole, *lacking], batch, counts, setup.processes)
    given = (batch, config.loss, setup.model.config, setup.class_weights, done, setup.everyone)
    terms = objective(whole, *given)
    losses = [objective(output, *given)["classification_loss"] for output in lacking]
    return expected_terms(terms, losses, rate) if lacking else terms


def _open_log(path: Path, keep: int):
    """The log, cut to what the checkpoint knows: lines written after it are written again."""
    file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  # the caller closes it
    file.truncate(keep)
    return file


def _tensorboard(run: Path):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("train.tensorboard needs TensorBoard: pip install 'clfa[track]'") from None
    return SummaryWriter(run / "tensorboard")


def _opening_line(setup: Setup) -> str:
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in setup.model.parameters()]
    trained, total = sum(size for size, grad in sizes if grad), sum(size for size, _ in sizes)
    return (
        f"{len(setup.rows):,} posts to train on, {len(setup.validation):,} to validate; {trained / 1e6:.1f} M of "
        f"{total / 1e6:.1f} M parameters trained on {setup.pipeline.device}"
    )


def _progress_line(line: dict[str, Any], state: State, config: TrainConfig) -> str:
    left = state.seconds / state.epoch * (config.epochs - state.epoch)
    star = " *" if state.best_epoch == state.epoch else ""
    return (
        f"epoch {state.epoch:>2}/{config.epochs}  loss {line['loss']:.3f}  validation {METRICS[config.monitor].title} "
        f"{line['validation'][config.monitor]:.3f}{star}  {line['examples_per_second']:.0f} posts/s  "
        f"at most {left / 60:.1f} min left"
    )
