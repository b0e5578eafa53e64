"""One run by several processes, as torchrun starts them: each takes a share of a batch, the loss is over the whole of it.

What the model gives for its share, each process sends to all (`gathered`); the others' comes without a gradient. Each then
has the loss L of the whole batch, and the gradient of L through its own share; as L depends on the weights w through the
shares s_1 … s_P alone, these add up to that of one process:

    dL/dw = sum_p  dL/ds_p ds_p/dw

whatever L is: contrastive losses with all posts of the batch as negatives, duplicates, class weights.
DistributedDataParallel averages gradients over processes, so the loss is multiplied by their number.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from clfa.model.batch import NO_LABEL, Batch, Inputs
from clfa.model.classifier import Classifier, Output
from clfa.training.modality_dropout import forward
from clfa.training.sharded import clip_gradients, shard_encoders

PATIENCE = timedelta(hours=2)
"""How long one process waits for another, such as for one that computes a cache."""


@dataclass(frozen=True)
class Processes:
    """Those that train a run; this one is number `rank` of `count`."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether it is this one that writes."""
        return self.rank == 0

    def __bool__(self) -> bool:
        return self.count > 1

    def all(self, value: Any) -> list[Any]:
        """The values of all processes, by their numbers; each waits for the others."""
        if not self:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def largest(self, *values: int) -> list[int]:
        """The largest of all processes, for each of the values."""
        if self:
            tensor = torch.tensor(values, device=_device())
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
            return [int(value) for value in tensor.tolist()]
        return list(values)

    def seed(self, seed: int, epoch: int, batch: int) -> None:
        """Dropout of its own for each process, which is the same when the batch is repeated after a resume."""
        if self:
            torch.manual_seed((((seed * 10_007 + epoch) * 1_000_003 + batch) * self.count + self.rank) % 2**63)

    def share_buffers(self, model: nn.Module) -> None:
        """Batch norm's statistics, which each process has of its own shares, become those of the first one."""
        if self:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def share(self, size: int) -> NDArray[np.int64]:
        """The places of this one's share of so many things; all processes have equally many, some the last one twice."""
        return np.arange(self.rank, -(-size // self.count) * self.count, self.count).clip(max=size - 1)


@contextmanager
def processes() -> Iterator[Processes]:
    """The processes that torchrun has started (one without it), connected for as long as the block; or those that are
    connected already, as by Ray Train."""
    count = int(os.environ.get("WORLD_SIZE", 1))
    if count == 1:
        yield Processes()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    own = not dist.is_initialized()
    if own:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    rank = dist.get_rank()
    if rank:
        logging.getLogger("clfa").setLevel(logging.ERROR)
    try:
        yield Processes(rank, count)
    finally:
        if own:
            dist.destroy_process_group()


class Share:
    """Batch sampler: the share of this process of each batch of another sampler.

    A process for which a batch has no post takes its first one, which does not count (see `gathered`).
    """

    def __init__(self, batches: Any, processes: Processes):
        self.batches, self.processes = batches, processes
        self.counts: list[list[int]] = []
        """How many posts of each batch that was handed out each process has."""

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        self.counts = []
        for batch in self.batches:
            shares = [batch[rank :: self.processes.count] for rank in range(self.processes.count)]
            self.counts.append([len(share) for share in shares])
            yield shares[self.processes.rank] or batch[:1]


class Passes(nn.Module):
    """The passes of a model for a batch (see `clfa.training.modality_dropout`), as a module of its own."""

    def __init__(self, model: Classifier, hide: bool):
        super().__init__()
        self.model, self.hide = model, hide
        self.sharded = False
        """Whether the encoders are spread over the processes."""

    def forward(self, batch: Batch) -> tuple[Output, list[Output]]:
        return forward(self.model, batch, self.hide)


def distributed(passes: Passes, processes: Processes, sharded: bool) -> nn.Module:
    """The same, with gradients that are those of all processes; `sharded` spreads the encoders over them."""
    if processes and sharded:
        passes.sharded = shard_encoders(passes.model, processes.count, _device())
    if passes.sharded:
        return passes
    return DistributedDataParallel(passes, find_unused_parameters=True) if processes else passes


def without_exchange(passes: nn.Module, last: bool) -> AbstractContextManager:
    """Of several batches of one step, only the `last` needs the gradients of the others."""
    return nullcontext() if last or not isinstance(passes, DistributedDataParallel) else passes.no_sync()


def is_sharded(passes: nn.Module) -> bool:
    """Whether the encoders are spread over the processes, so that all must take part in what is done with them."""
    return isinstance(passes, Passes) and passes.sharded


def clipped(passes: nn.Module, most: float, processes: Processes) -> Tensor:
    """The norm of the gradient, which is scaled to at most `most`."""
    if is_sharded(passes):
        return clip_gradients(passes, most, processes.count)
    return torch.nn.utils.clip_grad_norm_(passes.parameters(), most)


def gathered(
    outputs: Sequence[Output], batch: Batch, counts: list[int], processes: Processes
) -> tuple[list[Output], Batch]:
    """What all processes have of a batch: logits, embeds, penalties; labels, and what alignment reads. Shares one after the
    other, in the order of the processes.

    Args:
        outputs: of this process, with a gradient; those of others have none.
        batch: its share.
        counts: how many posts each process has.
    """
    whole, names = outputs[0], list(batch.modalities)
    touched = sum(
        (value.sum() for output in outputs for value in (output.logits, *output.embeds.values())), torch.zeros(())
    )
    floats = [output.logits for output in outputs] + list(whole.embeds.values())
    teacher = [name for name in names if batch.modalities[name].teacher_embeds is not None]
    floats += [batch.modalities[name].teacher_embeds for name in teacher]  # type: ignore[misc]
    labels = torch.full((len(whole.logits),), NO_LABEL) if batch.labels is None else batch.labels
    integers = [labels.to(whole.logits.device)] + [batch.modalities[name].present.long() for name in names]
    integers += [_entries(batch.modalities[name]) for name in teacher]
    rows = _together([value.float() for value in floats], counts, processes)
    numbers = _together([value[:, None] for value in integers], counts, processes)
    columns = [value[:, 0] for value in numbers]
    logits, rows = rows[: len(outputs)], rows[len(outputs) :]
    logits[0] = logits[0] + 0 * touched.to(logits[0].device)  # each trained weight has a gradient in each process
    embeds, teachers = dict(zip(whole.embeds, rows)), dict(zip(teacher, rows[len(whole.embeds) :]))
    present, entries = dict(zip(names, columns[1:])), dict(zip(teacher, columns[1 + len(names) :]))
    modalities = {
        name: Inputs(present[name].bool(), teacher_embeds=teachers.get(name), teacher_entries=entries.get(name))
        for name in names
    }
    penalty = None if whole.penalty is None else _mean(whole.penalty, counts, processes)
    made = [Output(one, {}, {}, embeds, one, penalty) for one in logits]  # states are not exchanged, no loss reads them
    return made, Batch(modalities, columns[0])


def _entries(inputs: Inputs) -> Tensor:
    return torch.full_like(inputs.present.long(), -1) if inputs.teacher_entries is None else inputs.teacher_entries


def _together(values: list[Tensor], counts: list[int], processes: Processes) -> list[Tensor]:
    """Tensors (n_p, D) of all processes, one after the other, in one exchange; this one's own with their gradients."""
    widths, device = [value.shape[1] for value in values], values[0].device
    own = torch.cat(values, dim=1)[: counts[processes.rank]]
    padded = own.new_zeros(max(counts), own.shape[1])
    padded[: len(own)] = own.detach()
    shares = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(shares, padded.contiguous())
    pieces = [share[:count] for share, count in zip(shares, counts)]
    pieces[processes.rank] = own
    return list(torch.cat(pieces).to(device).split(widths, dim=1))


def _mean(penalty: Tensor, counts: list[int], processes: Processes) -> Tensor:
    """Of all processes, weighted by their posts: what depends on the weights alone stays as it is."""
    shares = [torch.empty_like(penalty) for _ in counts]
    dist.all_gather(shares, penalty.detach().contiguous())
    shares[processes.rank] = penalty
    return sum((count * share for count, share in zip(counts, shares)), penalty * 0) / sum(counts)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
