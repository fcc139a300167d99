"""timm's attention module with another core between its projections.

Restated from timm 1.0.31, `layers/attention.py`: how queries, keys and values leave `qkv`, and what follows the core.
"""

from typing import Any, final

from torch import Tensor, nn

from foveate.attention import Core


@final
class CoreAttention(nn.Module):
    """x [B N C] -> [B N C]. Names of parts and tensors are timm's; `core` is new."""

    def __init__(self, attn: Any, core: Core) -> None:
        """`attn`: timm's `Attention`, whose parts are taken over."""
        super().__init__()
        self.num_heads, self.head_dim, self.attn_dim = attn.num_heads, attn.head_dim, attn.attn_dim
        self.scale = attn.scale
        self.qkv, self.q_norm, self.k_norm = attn.qkv, attn.q_norm, attn.k_norm
        self.core = core
        self.norm, self.gate, self.proj, self.proj_drop = attn.norm, attn.gate, attn.proj, attn.proj_drop

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """`attn_mask` [B 1 1 N]: log sizes, as an adapter gives them to any host."""
        size = None if attn_mask is None else attn_mask[:, 0, 0].float().exp()
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)
        y = self.core(self.q_norm(q), self.k_norm(k), v, size)
        y = self.norm(y.transpose(1, 2).flatten(2))
        if self.gate is not None:
            y = y * self.gate(x).sigmoid()
        return self.proj_drop(self.proj(y))  # type: ignore[no-any-return]
