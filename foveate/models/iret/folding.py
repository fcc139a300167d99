"""What is linear between the pixels of a patch and its token, as one product: for deployment.

A linear lifting of a patch, the embedding of its bands and what admits a detail are matrices one behind the other. As
many small operations they took longer than the tokens they save were worth: each is a pass of its own over all pixels.
"""

import copy
from typing import Any, final

import torch
from torch import Tensor, nn


@final
class Fold(nn.Module):
    """Image [B c h w] -> coarse tokens [B P C]; `details`: pixels of patches [B K c*p*p] -> [B K columns] each."""

    def __init__(self, model: Any) -> None:
        """`model`: an IRET whose lifting is linear; what its weights are now is taken over."""
        super().__init__()
        c, p, first = model.lifting.channels, model.patch_size, model.embed.weight
        apart = torch.eye(c * p * p, dtype=torch.float64, device=first.device).view(-1, c, p, p)
        with torch.no_grad():
            bands = {k: b.flatten(1).T for k, b in copy.deepcopy(model.lifting).double()(apart)._asdict().items()}
            # The coarse band is of all pixels, or of every other one of every other row.
            self.every = 1 if model.lifting.lowpass else 2
            self.coarse = nn.Conv2d(c, model.embed.out_features, p // self.every, p // self.every)
            coarse = (model.embed.weight.double() @ bands["ll"]).view(-1, c, p, p)
            self.coarse.weight.copy_(coarse[..., :: self.every, :: self.every])
            self.coarse.bias.copy_(model.embed.bias)  # type: ignore[union-attr]
            self.details = nn.ModuleList()
            for linear, admit, content in zip(model.details, model.admit, model.contents[1:], strict=True):
                weight = linear.weight.double() @ torch.cat([bands[b] for b in content])
                plain = isinstance(admit, nn.Identity)
                whole = nn.Linear(c * p * p, linear.out_features, bias=not plain)
                whole.weight.copy_(weight if plain else admit.weight.double() @ weight)
                if not plain:
                    whole.bias.copy_(admit.bias)
                self.details.append(whole)
        self.to(first.device, first.dtype).requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        return self.coarse(image[..., :: self.every, :: self.every]).flatten(2).mT
