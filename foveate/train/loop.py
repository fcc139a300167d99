"""The loop: batches in, steps out. It knows of losses that they have names and are added up.

Accelerate runs it on one process or many (`accelerate launch -m foveate train ...`), in bf16 or fp32. With the same
seed the batches are the same for any number of processes, so the losses are too, up to the order of sums; what draws
random numbers inside the model (stochastic depth, dropout) and MixUp, which pairs within a process's part, are not.
"""

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foveate.errors import InputError, NotAvailable
from foveate.files import locked
from foveate.loading.card import Card
from foveate.runtimes import RUNTIMES
from foveate.train.data import Batch, Samples, loader, order, share
from foveate.train.goals import goal_of
from foveate.train.parts import average_of, build, optimizer_of, preprocess_of, schedule_of
from foveate.train.recipe import Recipe
from foveate.train.record import Record
from foveate.train.state import LAST, Position, resume, save, save_model
from foveate.train.tasks import Learner

log = logging.getLogger(__name__)

Progress = Callable[[str, float, str], None]
SAVE_SECONDS = 300.0  # between checkpoints within an epoch


@dataclass(frozen=True)
class Trained:
    """What came of it. `best` holds the weights of the best validation, the average's where there is one."""

    out: Path
    best: Path
    best_score: float  # % on the validation set
    figure: str  # what that is: top-1, mIoU
    last: dict[str, float]  # of the last validation, a figure a classifier
    steps: int
    seconds: float
    unreadable: int


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    resumed: bool = False,
    progress: Progress = lambda stage, share, text: None,
    save_seconds: float = SAVE_SECONDS,
) -> Trained:
    """Train, and leave log.csv, last.pt (to resume from) and best.safetensors in `out`.

    Args:
        resumed: go on from `last.pt`; the losses are those of a run that was not broken off.
        progress: called as progress(stage, share of the whole run, text).

    Raises:
        InputError: wrong data, a checkpoint that does not fit, too many unreadable images, a loss that is not finite.
        NotAvailable: Accelerate is not installed.
    """
    try:
        from accelerate import Accelerator
    except ImportError:
        raise NotAvailable("training needs Accelerate: pip install 'foveate[train]'") from None
    run = _Run(
        recipe, Path(out), Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=_mixed(recipe)), progress
    )
    if resumed:
        run.resume()
    elif run.main and (run.out / LAST).exists():
        raise InputError(f"{run.out} holds a run already: go on with it (--resume), or name another --out")
    with locked(run.out) if run.main else nullcontext():
        try:
            return run.go(save_seconds)
        finally:
            run.close()


class _Run:
    """The state of one run."""

    def __init__(self, recipe: Recipe, out: Path, accelerator: Any, progress: Progress) -> None:
        self.recipe, self.out, self.accelerator, self.progress = recipe, out, accelerator, progress
        self.main, self.parts = accelerator.is_main_process, accelerator.num_processes
        if recipe.batch % (self.parts * recipe.accumulate):
            raise InputError(
                f"batch is {recipe.batch}; allowed with {self.parts} processes and {recipe.accumulate} parts each: "
                f"multiples of {self.parts * recipe.accumulate}"
            )
        if (recipe.augment.mixup or recipe.augment.cutmix) and recipe.batch // self.parts % 2:
            raise InputError(f"MixUp pairs images: {recipe.batch // self.parts} a process have to be an even number")
        self.goal = goal_of(recipe)
        if len(self.goal.train) < recipe.batch:
            raise InputError(f"{len(self.goal.train)} photographs are less than a batch of {recipe.batch}")
        torch.manual_seed(recipe.seed)
        self.model = build(recipe, self.goal.count)
        self.preprocess = preprocess_of(self.model, recipe.image_size)
        recipe.task.prepare(self.model)
        learner = Learner(self.model, recipe.task)
        self.optimizer = optimizer_of(recipe, self.model, recipe.task)
        self.ema = average_of(recipe, self.model)
        self.learner, self.optimizer = accelerator.prepare(learner, self.optimizer)
        self.per_epoch = len(self.goal.train) // recipe.batch
        self.schedule = schedule_of(recipe, self.optimizer, self.per_epoch)
        self.position, self.record = Position(), None
        learnt, judged = self.goal.transforms(self.preprocess)
        self.samples = Samples(self.goal.train, learnt, recipe.seed)
        self.tests = Samples(self.goal.val, judged, recipe.seed)

    @property
    def saved(self) -> dict[str, Any]:
        return {
            "model": self.model, "task": self.recipe.task, "optimizer": self.optimizer, "ema": self.ema,
        }  # fmt: skip

    def resume(self) -> None:
        self.position = resume(self.out, self.recipe.fingerprint(), self.saved)

    def go(self, save_seconds: float) -> Trained:
        p, r = self.position, self.recipe
        if self.main:
            self.out.mkdir(parents=True, exist_ok=True)
            self.record = Record(self.out, p.step)
        self.accelerator.wait_for_everyone()
        began = time.monotonic() - p.seconds
        if p.step == 0:  # what would fail after the first epoch fails now
            self.validate(limit=min(len(self.tests), 2 * r.batch))
        found, saved_at = dict[str, float](), time.monotonic()
        while p.epoch < r.epochs:
            batches = order(len(self.samples), r.batch, seed=r.seed, epoch=p.epoch)
            mine = share(batches[p.batch :], self.accelerator.process_index, self.parts)
            for batch in loader(self.samples, mine, r.workers):
                losses = self.step(batch)
                p.batch, p.step, p.seconds = p.batch + 1, p.step + 1, time.monotonic() - began
                self.tell(losses, began)
                if self.due(time.monotonic() - saved_at > save_seconds):
                    self.save()
                    saved_at = time.monotonic()
            p.epoch, p.batch = p.epoch + 1, 0
            if p.epoch % r.validate_every == 0 or p.epoch == r.epochs:
                found = self.validate()
                self.keep(found)
            self.save()
            saved_at = time.monotonic()
        found = found or self.validate()
        return Trained(
            self.out,
            Card.files(self.out).weights,
            p.best,
            self.goal.figure,
            found,
            p.step,
            time.monotonic() - began,
            p.unreadable,
        )

    def step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step on this process's part of a batch; the losses over all processes."""
        p, r = self.position, self.recipe
        self.learner.train()
        r.task.share = p.step / (self.per_epoch * r.epochs)
        images, labels = self.goal.mixed(
            batch.images, batch.labels, r.seed, p.epoch, p.batch, self.accelerator.process_index
        )
        device, total = self.accelerator.device, dict[str, Tensor]()
        pieces = list(zip(images.chunk(r.accumulate), labels.chunk(r.accumulate), strict=True))
        for i, (x, y) in enumerate(pieces):
            last = i == len(pieces) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.learner):
                losses = self.learner(x.to(device), y.to(device))
                self.accelerator.backward(torch.stack(list(losses.values())).sum() / len(pieces))
            for name, value in losses.items():
                total[name] = total.get(name, torch.zeros((), device=device)) + value.detach().float() / len(pieces)
        bad = torch.tensor(float(len(batch.bad)), device=device)
        seen = self.accelerator.reduce(torch.stack([*total.values(), bad]), reduction="sum").tolist()
        told = {name: value / self.parts for name, value in zip(total, seen, strict=False)}
        if not all(map(_finite, told.values())):
            raise InputError(
                f"the loss is not finite at step {p.step + 1} (epoch {p.epoch + 1}): "
                f"{', '.join(f'{k} {v:g}' for k, v in told.items())}; {self.out / LAST} is the last good checkpoint"
            )
        self.count_bad(int(seen[-1]), batch.bad)
        if r.clip is not None:
            self.accelerator.clip_grad_norm_(self.learner.parameters(), r.clip)
        self.schedule.step_update(num_updates=p.step + 1)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(self.model)
        return told

    @torch.no_grad()
    def validate(self, limit: int | None = None) -> dict[str, float]:
        """In %, of every classifier; of the average of the weights where there is one."""
        model = self.model if self.ema is None else self.ema.module
        was, _ = model.training, model.eval()
        judged = self.recipe.task.judged(model)
        count = limit or len(self.tests)
        size = max(1, self.recipe.batch // self.parts)
        every = [(0, i) for i in range(count)][self.accelerator.process_index :: self.parts]
        chunks = [every[i : i + size] for i in range(0, len(every), size)]
        tally, device = dict[str, Tensor](), self.accelerator.device
        for batch in loader(self.tests, chunks, self.recipe.workers):
            with self.accelerator.autocast():
                found = self.goal.judge(judged, batch.images, batch.labels, self.preprocess, device)
            tally = {name: counts + tally.get(name, 0) for name, counts in found.items()}
        model.train(was)
        totals = {name: self.accelerator.reduce(n.to(device), reduction="sum").cpu() for name, n in tally.items()}
        return {f"{self.goal.figure} {name}": self.goal.score(n) for name, n in totals.items()}

    def keep(self, found: dict[str, float]) -> None:
        p, score = self.position, self.recipe.task.score(list(found.values()))
        self.note(found)
        if score > p.best:
            p.best = score
            if self.main:
                model = self.model if self.ema is None else self.ema.module
                r = self.recipe
                card = Card(
                    model=r.model if isinstance(r.model, str) else None, options=r.options, epoch=p.epoch,
                    classes=self.goal.classes or self.goal.count, image_size=r.image_size,
                    preprocess=self.preprocess, recipe=r.fingerprint(), scores=found,
                )  # fmt: skip
                save_model(self.out, model, card)

    def save(self) -> None:
        self.accelerator.wait_for_everyone()
        if self.main:
            save(self.out, self.position, self.recipe.fingerprint(), self.saved)

    def due(self, mine: bool) -> bool:
        """Does the main process think it is time? Clocks of several processes differ."""
        if self.parts == 1:
            return mine
        flag = torch.tensor(float(mine and self.main), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, reduction="sum").item())

    def tell(self, losses: dict[str, float], began: float) -> None:
        p, whole = self.position, self.per_epoch * self.recipe.epochs
        self.note({f"loss {k}": v for k, v in losses.items()} | {"lr": self.optimizer.param_groups[0]["lr"]})
        left = (time.monotonic() - began) / p.step * (whole - p.step)
        text = f"epoch {p.epoch + 1}/{self.recipe.epochs}, loss {sum(losses.values()):.3f}, {left / 60:.0f} min left"
        self.progress("train", p.step / whole, text)

    def note(self, values: dict[str, float]) -> None:
        if self.record is not None:
            self.record.add(self.position.step, self.position.epoch, values)

    def count_bad(self, count: int, mine: tuple[str, ...]) -> None:
        p, allowed = self.position, self.recipe.unreadable * len(self.samples)
        for reason in mine:
            self.progress("train", p.step / (self.per_epoch * self.recipe.epochs), f"replaced: {reason}")
        p.unreadable += count
        seen = p.unreadable / (p.epoch + 1)  # each comes by once an epoch
        if seen > allowed:
            raise InputError(
                f"{p.unreadable} training images could not be read, more than {self.recipe.unreadable:.1%} of "
                f"{len(self.samples)}; last: {mine[-1] if mine else 'in another process'}"
            )

    def close(self) -> None:
        if self.record is not None:
            self.record.close()
        self.accelerator.end_training()
        type(self.accelerator.state)._reset_state(reset_partial_state=True)  # or it would fix the next run's precision


def _mixed(recipe: Recipe) -> str:
    """Accelerate's word for the recipe's precision; float32 where a CPU would only imitate bf16, and slowly."""
    if recipe.precision != "bf16":
        return "no"
    if not torch.cuda.is_available() and (reason := RUNTIMES["eager"].why_not("bf16")) is not None:
        log.warning("trained in fp32, not in the recipe's bf16: %s", reason)
        return "no"
    return "bf16"


def _finite(x: float) -> bool:
    return x == x and abs(x) != float("inf")
