"""Learning to answer as a trained model does: no labels, photographs alone."""

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.errors import InputError
from foveate.linears.mixture import balance_of
from foveate.loading.weights import sha256_of
from foveate.train.tasks import Frozen, Losses, Task


@final
class Imitate(Task):
    """The answers of a frozen teacher and its tokens behind every block, for a converted copy of it.

    Losses: `answer`, KL from the teacher's class probabilities, or for an embedding one minus the cosine; `tokens`, the
    squared distance of the tokens behind a block over their squared length, the mean over blocks; `balance`, that of
    mixtures of experts (`foveate.linears.latency_aware_loss`), where there are any.

    Tokens are matched as in layer-wise distillation (FitNets, arXiv:1412.6550); what a block learns does not have to
    come through all the blocks behind it.
    """

    labelled = False

    def __init__(
        self, teacher: nn.Module, *, embedding: bool = False, temperature: float = 1.0, tokens: float = 1.0,
        balance: float = 0.01, names: Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        """
        Args:
            teacher: timm's, with `forward_intermediates`; of as many blocks and channels as the model.
            embedding: it answers with a vector, not with logits.
            names: of the teacher's classes, for the card of what is trained.
            tokens, balance: weights of these losses; ShiftAddViT's for the second is 0.01.

        Raises:
            InputError: a weight below 0, a temperature that is not above 0.
        """
        super().__init__()
        for name, value in (("tokens", tokens), ("balance", balance)):
            if not value >= 0:
                raise InputError(f"{name} is {value:g}; allowed: 0 or more")
        if not temperature > 0:
            raise InputError(f"temperature is {temperature:g}; allowed: above 0")
        self.teacher, self.names = Frozen(teacher), None if names is None else tuple(names)
        self.embedding, self.temperature, self.tokens, self.balance = embedding, temperature, tokens, balance

    def extra_repr(self) -> str:
        of = sha256_of(self.teacher.model)[:12]
        return f"{of}, {self.embedding}, temperature={self.temperature}, tokens={self.tokens}, balance={self.balance}"

    def answers(self, images: Tensor) -> Tensor:
        """The teacher's."""
        return self.teacher(images)  # type: ignore[no-any-return]

    def forward(self, model: Any, images: Tensor, labels: Tensor) -> Losses:
        teacher: Any = self.teacher.model.to(images.device)
        with torch.no_grad():
            final_wanted, wanted = behind_blocks(teacher, images)
            goal = teacher.forward_head(final_wanted).float()
        final, tokens = behind_blocks(model, images)
        losses = {"answer": self.apart(model.forward_head(final).float(), goal)}
        if self.tokens:
            apart = [
                F.mse_loss(x.float(), w.float()) / w.float().square().mean()
                for x, w in zip(tokens, wanted, strict=True)
            ]
            losses["tokens"] = self.tokens * torch.stack(apart).mean()
        balance = balance_of(model)
        return losses if balance is None else losses | {"balance": self.balance * balance}

    def apart(self, found: Tensor, goal: Tensor) -> Tensor:
        if self.embedding:
            return 1 - F.cosine_similarity(found, goal, dim=-1).mean()
        t = self.temperature
        return (
            t
            * t
            * F.kl_div((found / t).log_softmax(1), (goal / t).log_softmax(1), log_target=True, reduction="batchmean")
        )


def behind_blocks(model: Any, images: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
    """Tokens behind the final norm, and those behind every block, prefix included: [B N C]."""
    x = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))
    found = []
    for block in model.blocks:
        x = block(x)
        found.append(x)
    return model.norm(x), found
