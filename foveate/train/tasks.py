"""What is to be learnt: a task turns a model, images and labels into named losses, which are added up.

A task is a module: what it learns beside the model (maps between widths, say) is trained with it and thrown away after.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.adapters import adapt
from foveate.errors import InputError
from foveate.evaluate.masks import VOID
from foveate.models.iret.deciding import Counts
from foveate.plans import Step

Losses = dict[str, Tensor]


class Task(nn.Module, ABC):
    """Abstract; tasks are final."""

    classes: int | None = None  # of a task on masks; where labels are class folders, these are counted
    labelled: bool = True  # do its losses look at labels?
    share: float = 0.0  # of the run that is behind, kept up by the loop, for a task that changes on the way

    def prepare(self, model: nn.Module) -> None:
        """Called once before training, for a task that has to know the model's widths."""

    def judged(self, model: nn.Module) -> nn.Module:
        """Whose answers validation looks at, in eval mode."""
        return model

    def score(self, found: Sequence[float]) -> float:
        """What the best weights have most of, from what validation found of each answer in turn."""
        return found[0]

    @abstractmethod
    def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> Losses:
        """Losses by name, scalars. images [B 3 h w]; labels [B classes], each row a distribution, or masks [B h w]."""


@final
class Classify(Task):
    """Cross-entropy with the labels; of every classifier where the model has several (ViTTM's memory and process)."""

    def __init__(self, smoothing: float = 0.1, *, binary: bool = False) -> None:
        """`binary`: binary cross-entropy, summed over the classes, as DeiT-III and ViTTM are fine-tuned by."""
        super().__init__()
        self.smoothing, self.binary = smoothing, binary

    def extra_repr(self) -> str:
        return f"smoothing={self.smoothing}, binary={self.binary}"

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> Losses:
        return {name: self.loss(y, labels) for name, y in outputs(model(images)).items()}

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        labels = labels * (1 - self.smoothing) + self.smoothing / labels.shape[1]
        if self.binary:
            return F.binary_cross_entropy_with_logits(logits.float(), labels, reduction="none").sum(1).mean()
        return -(labels * logits.float().log_softmax(1)).sum(1).mean()


@final
class Through(Task):
    """Another task on the model as a plan reduces it, from the first step on: EViT's fine-tuning, for any method.

    The weights are the model's own and fit any plan; those of this one they are taught.
    """

    def __init__(self, steps: Iterable[Step], task: Task | None = None) -> None:
        """`task`: by default `Classify()`."""
        super().__init__()
        self.steps, self.task = tuple(steps), task or Classify()
        self.classes = self.task.classes
        self._held: list[nn.Module] = []  # no submodule: its parameters are the model's

    def extra_repr(self) -> str:
        return "; ".join(f"{s} {s.options}" for s in self.steps)

    def prepare(self, model: nn.Module) -> None:
        self.task.prepare(model)
        self._held = [adapt(model, self.steps)]

    def judged(self, model: nn.Module) -> nn.Module:
        return adapt(model, self.steps)

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> Losses:
        return self.task(self._held[0].train(model.training), images, labels)


@final
class Segment(Task):
    """Cross-entropy of every pixel that is not void."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        if not 2 <= classes < VOID:
            raise InputError(f"classes is {classes}; allowed: 2 to {VOID - 1}")
        self.classes = classes

    def extra_repr(self) -> str:
        return f"classes={self.classes}"

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> Losses:
        loss = F.cross_entropy(model(images).float(), labels, ignore_index=VOID, reduction="sum")
        return {"pixel": loss / (labels != VOID).sum().clamp(min=1)}


@final
class Distil(Task):
    """The labels, and the answers of a frozen teacher (Hinton et al., arXiv:1503.02531)."""

    def __init__(self, teacher: nn.Module, *, weight: float = 0.5, temperature: float = 1.0, smoothing: float = 0.0):
        """`weight`: of the teacher's answers; the labels have the rest."""
        super().__init__()
        if not 0 <= weight <= 1:
            raise InputError(f"weight is {weight:g}; allowed: 0 to 1")
        self.teacher = Frozen(teacher)
        self.labels, self.weight, self.temperature = Classify(smoothing), weight, temperature

    def extra_repr(self) -> str:
        return f"weight={self.weight}, temperature={self.temperature}"

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> Losses:
        t, goal, losses = self.temperature, self.teacher(images).float(), {}
        for name, y in outputs(model(images)).items():
            soft = F.kl_div((y.float() / t).log_softmax(1), (goal / t).log_softmax(1), log_target=True, reduction="sum")
            losses[name] = (1 - self.weight) * self.labels.loss(y, labels)
            losses[f"{name} teacher"] = self.weight * t * t * soft / len(y)
        return losses


@final
class MatchTokens(Task):
    """The labels, and the teacher's patch tokens after some blocks, through linear maps that are thrown away.

    Both have to put their tokens on the same grid; the teacher's are layer-normalised. `forward_intermediates` of timm
    is what is asked of both.
    """

    def __init__(
        self, teacher: nn.Module, *, blocks: Sequence[int] = (5, 11), weight: float = 1.0, smoothing: float = 0.1
    ) -> None:
        super().__init__()
        self.teacher, self.blocks, self.weight = Frozen(teacher), tuple(blocks), weight
        self.labels = Classify(smoothing)
        self.maps = nn.ModuleList()

    def extra_repr(self) -> str:
        return f"blocks={self.blocks}, weight={self.weight}"

    def prepare(self, model: Any) -> None:
        teacher: Any = self.teacher.model
        width, goal = model.feature_info[-1]["num_chs"], teacher.num_features
        self.maps = nn.ModuleList(nn.Linear(width, goal) for _ in self.blocks)

    def forward(self, model: Any, images: Tensor, labels: Tensor) -> Losses:
        last, tokens = model.forward_intermediates(images, indices=list(self.blocks), output_fmt="NLC")
        with torch.no_grad():
            wanted = self.teacher.model.forward_intermediates(  # type: ignore[union-attr]
                images, indices=list(self.blocks), output_fmt="NLC", intermediates_only=True
            )
        losses = {name: self.labels.loss(y, labels) for name, y in outputs(model.forward_head(last)).items()}
        match = [
            F.mse_loss(to(x).float(), F.layer_norm(w.float(), w.shape[-1:]))
            for to, x, w in zip(self.maps, tokens, wanted, strict=True)
        ]
        return losses | {"tokens": self.weight * torch.stack(match).mean()}


@final
class Incremental(Task):
    """One IRET-style model for every operating point: the labels teach all detail, and that teaches all else.

    Early exits are taught by the last one (as in CF-ViT, arXiv:2203.03821), and, after a warm-up without any dropping,
    two more passes by labels and the full one: with the fewest tokens, and with a share drawn for every batch (the
    sandwich rule, arXiv:1903.05134), here for half of the batch each. At each transition as large a share of the tokens
    stays; of those, a share drawn apart gets detail. The schedule is our reconstruction.
    """

    def __init__(
        self, *, least: float = 0.5, sharp: float = 0.5, warm: float = 0.3, weight: float = 0.5, smoothing: float = 0.1
    ) -> None:
        """
        Args:
            least: the smallest share of tokens that stays at a transition.
            sharp: the smallest share of these that gets detail.
            warm: the share of the run without dropping.
            weight: of the full pass's answers against the labels, in the other two passes.

        Raises:
            InputError: for a share out of range.
        """
        super().__init__()
        for name, value in (("least", least), ("sharp", sharp), ("warm", warm), ("weight", weight)):
            if not 0 <= value <= 1 or (name == "least" and value == 0):
                raise InputError(f"{name} is {value:g}; allowed: {'above 0' if name == 'least' else '0'} to 1")
        self.least, self.sharp, self.warm, self.weight = least, sharp, warm, weight
        self.labels = Classify(smoothing)

    def extra_repr(self) -> str:
        return f"least={self.least}, sharp={self.sharp}, warm={self.warm}, weight={self.weight}"

    def forward(self, model: Any, images: Tensor, labels: Tensor) -> Losses:
        last, *exits = model(images)
        goal = last.detach().float().log_softmax(1)
        losses = {"label": self.labels.loss(last, labels)}
        losses |= {f"exit {i + 1}": _apart(y, goal) for i, y in enumerate(exits)}
        if self.share < self.warm:
            return losses
        drawn, sharp = torch.rand(2).tolist()
        half = (len(images) + 1) // 2
        for name, rows, keep, focus in (
            ("least", slice(half), self.least, self.sharp),
            ("drawn", slice(-half, None), self.least + (1 - self.least) * drawn, self.sharp + (1 - self.sharp) * sharp),
        ):
            last, *exits = model(images[rows], self.point(model, keep, focus))
            taught = (1 - self.weight) * self.labels.loss(last, labels[rows]) + self.weight * _apart(last, goal[rows])
            losses[name] = torch.stack([taught, *(_apart(y, goal[rows]) for y in exits)]).mean()
        return losses

    def judged(self, model: nn.Module) -> nn.Module:
        return _Ends(model, self.point(model, self.least, self.sharp))

    def score(self, found: Sequence[float]) -> float:
        """The mean of both ends: weights that are good whole alone would be those from before the dropping."""
        return sum(found) / len(found)

    @staticmethod
    def point(model: Any, keep: float, focus: float) -> Counts:
        """Counts for every transition that may drop, from shares."""
        counts = [max(2, round(model.num_patches * keep ** (i + 1))) for i in range(len(model.turns))]
        return Counts(keep=tuple(counts), focus=tuple(max(1, round(n * focus)) for n in counts))


@final
class _Ends(nn.Module):
    """A model's answers at both ends of its range."""

    def __init__(self, model: nn.Module, least: Counts) -> None:
        super().__init__()
        self.model, self.least = model, least

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"whole": self.model(images), "least": self.model(images, self.least)}


def _apart(logits: Tensor, goal: Tensor) -> Tensor:
    """KL from `goal`, log-probabilities, to what the logits say; the mean over the batch."""
    return F.kl_div(logits.float().log_softmax(1), goal, log_target=True, reduction="batchmean")


@final
class Frozen(nn.Module):
    """A teacher: always in eval mode, without gradients, and in no state dict."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._held = [model.eval().requires_grad_(False)]

    @property
    def model(self) -> nn.Module:
        return self._held[0]

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return self.model.to(images.device)(images)


def outputs(answer: Any) -> dict[str, Tensor]:
    """A model's logits by name: one, or those of its classifiers; an answer that has names keeps them."""
    if isinstance(answer, dict):
        return answer
    if isinstance(answer, Tensor):
        return {"label": answer}
    names = ("memory", "process") if len(answer) == 2 else tuple(f"head {i}" for i in range(len(answer)))
    return dict(zip(names, answer, strict=True))


@final
class Learner(nn.Module):
    """Model and task as one module, so that whatever wraps it for many processes sees one forward pass."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model, self.task = model, task

    def forward(self, images: Tensor, labels: Tensor) -> Losses:
        return self.task(self.model, images, labels)
