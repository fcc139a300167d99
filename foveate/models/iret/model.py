"""IRET-style transformer: coarse tokens first, detail only where attention looks.

After "Incremental Resolution Enhancing Transformer" (GLSVLSI 2024, pp. 620-625), whose text and figures are not public.
Its abstract states that the image is sampled in steps, that narrow tokens feed the first blocks until attention can be
trusted, that a learnable 2-D lifting scheme then brings detail for attended tokens while others are dropped, and that a
threshold is the knob. How is our reconstruction; no figure of this model is IRET's.

In the residual variant the width is a pretrained ViT's throughout, and its patch embedding is
split over the bands of the lifting, exactly. With all detail before block 0 this is the ViT.

    x     = E_LL(LL) + position                         every patch, coarse
    x     = x + Attention(x)                            at a transition: relevance -> drop, keep coarse, or focus
    x_i   = x_i + A(sum of E_b(band b of patch i))      the focused
    x     = x + MLP(x)

The variants that start narrow, as the abstract states, decide behind the MLP and widen there (`widening`).
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, final

import torch
from timm.layers.weight_init import trunc_normal_
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.errors import InputError
from foveate.models.blocks import LayerNorm, plain_blocks
from foveate.models.iret.deciding import Decision, Point, decide, relevance
from foveate.models.iret.folding import Fold
from foveate.models.iret.lifting import Bands, Lifting
from foveate.models.iret.widening import identity, stages
from foveate.tokens import gather


class State(NamedTuple):
    """Tokens on their way through the blocks."""

    x: Tensor  # [B prefix+K C]
    rest: Tensor  # [B P n], what a look at a patch can still tell: `Lifting.begin`'s
    patch: Tensor | None = None  # [B K] which patch a token is; None: all, in order
    content: Tensor | int = 0  # [B K] the last of the contents it has; a number where all have the same
    score: Tensor | None = None  # [B K] attention received, accumulated
    valid: Tensor | None = None  # [B K] False for padding


@final
class IRET(nn.Module):
    """Image [B 3 h w] -> logits [B classes]; while training, those of every exit, the last one first."""

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int | Sequence[int] = 192,
        depth: int = 12,
        num_heads: int | Sequence[int] = 3,
        mlp_ratio: float = 4.0,
        init_values: float | None = None,
        drop_path_rate: float = 0.0,
        class_token: bool = True,
        transitions: Sequence[int] | None = None,
        contents: Sequence[Sequence[str]] | None = None,
        widening: Literal["residual", "stitched", "concat"] = "residual",
        start: Literal["haar", "cdf53"] = "haar",
        sampling: Literal["lowpass", "polyphase"] = "lowpass",
        hidden: int | None = None,
        beta: float = 0.99,
        looks: int = 2,
    ) -> None:
        """
        Args:
            embed_dim, num_heads: one for all blocks; or, where tokens widen, one for each stage.
            transitions: 0-based blocks after whose attention tokens are dropped or get detail; after whose MLP, where
                they widen. An exit stands behind each of these blocks, in the width of its stage. Before block 0, with
                -1, all tokens get the first detail and none is dropped. By default the last blocks of equally long
                stages, of which there are three in one width.
            contents: bands of what tokens start with, and of what each transition brings. A token that gets detail
                later gets what it missed, too. By default ll, then the others; in three stages, hh last.
            widening: how tokens pass from stage to stage: "residual" in one width, "concat" with new channels for the
                detail, "stitched" by a linear map from a narrow ViT's blocks to a wide one's (`widening`).
            start, sampling, hidden: of the lifting, which is by default linear where it starts from a trained ViT: then
                what it does to a patch and what embeds it are deployed as one product (`folding`).
            looks, beta: relevance is accumulated over so many blocks up to a transition, its own included; each leaves
                the share beta of what was there. Every look costs the class token's row of attention again.

        Raises:
            InputError: for transitions out of order or range, bands that are not all there once, or another number of
                widths, heads or contents than of stages.
        """
        super().__init__()
        made = stages(widening, embed_dim, num_heads, depth, transitions, contents)
        self.transitions, self.contents, self.columns = made.transitions, made.contents, made.columns
        self.widths, self.between = made.widths, made.kind.between
        self.beta, self.looks = beta, looks
        if looks < 1:
            raise InputError(f"looks is {looks}; allowed: 1 or more blocks")
        if img_size % patch_size or patch_size % 2:
            raise InputError(f"patches of {patch_size} pixels do not divide {img_size} evenly; allowed: even divisors")
        narrow, wide = made.steps[0][0], self.widths[-1]
        self.num_classes, self.depth = num_classes, depth
        self.embed_dim = self.num_features = self.head_hidden_size = wide
        self.patch_size, self.img_size = patch_size, img_size
        self.grid = (img_size // patch_size, img_size // patch_size)
        self.num_patches = self.grid[0] * self.grid[1]
        self.num_prefix_tokens = int(class_token)
        if hidden is None and widening != "concat":
            hidden = 0
        self.lifting = Lifting(in_chans, start, sampling, hidden)
        self.fold: Fold | None = None  # of a deployed model
        quarter = in_chans * patch_size * patch_size // 4
        self.embed = nn.Linear(quarter, narrow)
        details = [(quarter * len(c), end - at) for c, (at, end) in zip(self.contents[1:], self.columns, strict=True)]
        self.details = nn.ModuleList(nn.Linear(pixels, width, bias=False) for pixels, width in details)
        self.admit = nn.ModuleList(identity(width) if made.kind.admits else nn.Identity() for _, width in details)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, narrow)) if class_token else None
        self.pos_embed = nn.Parameter(torch.zeros(1, self.num_prefix_tokens + self.num_patches, narrow))
        self.blocks = plain_blocks(
            made.widths, made.heads, mlp_ratio=mlp_ratio, init_values=init_values, drop_path_rate=drop_path_rate
        )
        self.widenings = nn.ModuleList(
            made.kind(before, after, self.num_patches, self.num_prefix_tokens) for before, after in made.steps
        )
        self.exits = tuple(t for t in self.transitions if 0 <= t < depth - 1)
        self.exit_norms = nn.ModuleList(LayerNorm(self.widths[t]) for t in self.exits)
        self.norm = LayerNorm(wide)
        self.head, self.exit_heads = self._classifiers(num_classes)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """As a ViT's; the bands' embeddings as one patch embedding's parts."""
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                module.bias.zero_()
        whole = torch.empty(self.embed_dim, self.lifting.channels, self.patch_size, self.patch_size)
        nn.init.xavier_uniform_(whole.flatten(1))
        self.embed_by(whole, torch.zeros(self.embed.out_features))
        for position in (self.pos_embed, *([] if self.cls_token is None else [self.cls_token])):
            trunc_normal_(position, std=0.02)

    @torch.no_grad()
    def embed_by(self, weight: Tensor, bias: Tensor, finer: Tensor | None = None) -> None:
        """Take over a patch embedding [C c p p], split over the bands; for details `finer` where it is another's.

        Of its channels, those that a band is embedded in.
        """
        parts = self.lifting.split(weight)._asdict()
        self.embed.weight.copy_(parts["ll"].flatten(1)[: self.embed.out_features])
        self.embed.bias.copy_(bias)
        if finer is not None:
            parts = self.lifting.split(finer)._asdict()
        details: Any = zip(self.details, self.columns, self.contents[1:], strict=True)
        for linear, (at, end), bands in details:
            linear.weight.copy_(torch.cat([parts[b].flatten(1)[at:end] for b in bands], 1))

    def forward(self, image: Tensor, at: Point | None = None) -> Tensor | tuple[Tensor, ...]:
        """`at`: the operating point; by default nothing is dropped and everything gets detail."""
        state, found = self.begin(image), []
        for i in range(self.depth):
            state = self.block(i, state, at)
            if self.training and i in self.exits:
                found.append(self.exit(i, state))
            state = self.cross(i, state, at)
        last = self.forward_head(state)
        return (last, *found) if self.training else last

    @torch.no_grad()
    def anytime(self, image: Tensor, at: Point | None = None) -> Any:
        """(block, logits) of each exit as soon as it is reached; who is content stops asking."""
        state = self.begin(image)
        for i in range(self.depth):
            state = self.block(i, state, at)
            if i in self.exits:
                yield i, self.exit(i, state)
            state = self.cross(i, state, at)
        yield self.depth - 1, self.forward_head(state)

    def begin(self, image: Tensor) -> State:
        """Everything before block 0.

        Raises:
            InputError: for an image of another size.
        """
        if tuple(image.shape[-2:]) != (self.img_size, self.img_size):
            raise InputError(f"an image is {tuple(image.shape[-2:])}; allowed: {self.img_size} x {self.img_size}")
        (h, w), p = self.grid, self.patch_size
        if self.fold is None:
            squares = image.unflatten(-1, (w, p // 2, 2)).unflatten(-4, (h, p // 2, 2))
            coarse, rest = self.lifting.begin(squares.permute(7, 4, 0, 2, 5, 1, 3, 6).flatten(2, 4))
            x, rest = (t.unflatten(0, (-1, h * w)) for t in (self.embed(coarse.flatten(1)), rest.flatten(1)))
        else:
            x = self.fold(image)
            rest = image.unflatten(-1, (w, p)).unflatten(-3, (h, p)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2).flatten(2)
        if self.cls_token is not None:
            x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), 1)
        state = State(x + self.pos_embed, rest)
        return self.enter(0, state, self.num_patches, None) if -1 in self.transitions else state

    def block(self, i: int, state: State, at: Point | None = None) -> State:
        """A block, with its decision where that is made inside one."""
        if not self.looked(i):
            return state._replace(x=self.blocks[i](state.x, attn_mask=self.mask(state)))
        state = self.attend(i, state)
        if i in self.transitions and not self.between:
            state = self.turn(i, state, at)
        return state._replace(x=self.mlp(i, state.x))

    def cross(self, i: int, state: State, at: Point | None = None) -> State:
        """From block `i` into the next, with a decision where that is made between two."""
        return self.turn(i, state, at) if i in self.transitions and self.between else state

    def attend(self, i: int, state: State) -> State:
        """The attention half of a block that is looked at, and what tokens received by it."""
        block: Any = self.blocks[i]
        heads = block.attn
        q, k, v = heads.qkv(block.norm1(state.x)).unflatten(-1, (3, heads.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mask = (
            None if state.valid is None else F.pad(state.valid, (self.num_prefix_tokens, 0), value=True)[:, None, None]
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        x = state.x + block.drop_path1(block.ls1(heads.proj(y)))
        now = self.received(q.detach(), k.detach(), heads.scale, mask)
        score = now if state.score is None else self.beta * state.score + (1 - self.beta) * now
        return state._replace(x=x, score=score)

    @property
    def turns(self) -> tuple[int, ...]:
        """The transitions that decide; the one before block 0 has no attention to go by."""
        return tuple(t for t in self.transitions if t >= 0)

    def looked(self, i: int) -> bool:
        """Does the attention of block `i` count for a decision?"""
        return any(0 <= t - i < self.looks for t in self.transitions)

    def mask(self, state: State) -> Tensor | None:
        """What attention may look at, [B 1 1 N]; None: everything."""
        if state.valid is None:
            return None
        return F.pad(state.valid, (self.num_prefix_tokens, 0), value=True)[:, None, None]

    def received(self, q: Tensor, k: Tensor, scale: float, mask: Tensor | None) -> Tensor:
        """Attention [B K] that tokens get from the class token, or where there is none, from all tokens."""
        p = self.num_prefix_tokens
        logits = (q[:, :, : p or None] @ k.mT) * scale
        if mask is not None:
            logits = logits.masked_fill(~mask, float("-inf"))
        row = logits.softmax(-1)
        if not p and mask is not None:
            row = row * mask.mT
        return row.sum(2).mean(1)[:, p:]

    def mlp(self, i: int, x: Tensor) -> Tensor:
        block: Any = self.blocks[i]
        return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))

    def turn(self, i: int, state: State, at: Point | None) -> State:
        """A transition: the three-way decision, and detail for the focused."""
        which = self.transitions.index(i)
        assert state.score is not None
        if at is None:
            return self.enter(which, state._replace(score=None), self.num_patches, None)
        decision = decide(relevance(state.score, state.valid), at, self.turns.index(i))
        return self.enter(which, self.keep(state, decision), decision.focus, decision.focused)

    def enter(self, which: int, state: State, focus: int, focused: Tensor | None) -> State:
        """The how-manieth transition's widening, and detail for the first `focus` tokens (see `sharpen`)."""
        widening: Any = self.widenings[which]
        state = self.sharpen(state._replace(x=widening(state.x, state.patch)), focus, focused, which)
        return state._replace(x=widening.settle(state.x))

    def keep(self, state: State, decision: Decision) -> State:
        """The tokens of a decision, most relevant first; all of them keep their order where none is dropped."""
        index, p = decision.index, self.num_prefix_tokens
        if index.shape[1] == state.x.shape[1] - p and decision.kept is None and decision.focus == index.shape[1]:
            return state._replace(score=None)
        tokens = gather(state.x[:, p:], index)
        valid = None
        if decision.kept is not None and len(index) > 1:
            valid = torch.arange(index.shape[1], device=index.device) < decision.kept[:, None]
        return state._replace(
            x=torch.cat((state.x[:, :p], tokens), 1),
            patch=index if state.patch is None else state.patch.gather(1, index),
            content=state.content if isinstance(state.content, int) else state.content.gather(1, index),
            score=None,
            valid=valid,
        )

    def sharpen(self, state: State, focus: int, focused: Tensor | None, which: int) -> State:
        """Detail for the first `focus` tokens ([B] `focused`: in this image), of no other patch anything is read."""
        p, upto = self.num_prefix_tokens, min(which + 1, len(self.contents) - 1)
        count = state.x.shape[1] - p
        has, focus = state.content, min(focus, count)
        if not focus or (isinstance(has, int) and has >= upto):
            return state
        details = self.details_of(state, focus)
        before, getting = has if isinstance(has, int) else has[:, :focus], None
        if focused is not None:
            getting = torch.arange(count, device=state.x.device) < focused[:, None]
        x, rest = state.x[:, p : p + focus], state.x[:, p + focus :]
        for i in range(upto):
            if isinstance(before, int) and before > i:
                continue
            detail = details(i)
            if not isinstance(before, int):
                detail = detail * (before <= i)[..., None].to(detail.dtype)
            if getting is not None:
                detail = detail * getting[:, :focus, None].to(detail.dtype)
            at, end = self.columns[i]
            if end - at < x.shape[-1]:
                detail = F.pad(detail, (at, x.shape[-1] - end))
            x = x + detail
        content: Tensor | int = upto
        if focus < count or getting is not None:
            if getting is None:
                getting = (torch.arange(count, device=x.device) < focus).expand(len(x), -1)
            old = torch.full_like(getting, has, dtype=torch.long) if isinstance(has, int) else has
            content = torch.where(getting, old.clamp(min=upto), old)
        return state._replace(x=torch.cat((state.x[:, :p], x, rest), 1), content=content)

    def details_of(self, state: State, count: int) -> Callable[[int], Tensor]:
        """Of the first tokens, and of no other, their how-manieth detail [B count columns]."""
        rest = state.rest[:, :count] if state.patch is None else gather(state.rest, state.patch[:, :count])
        if self.fold is not None:
            made = self.fold.details
            return lambda i: made[i](rest)
        half = self.patch_size // 2
        found = self.lifting.finish(rest.flatten(0, 1).unflatten(1, (-1, self.lifting.channels, half, half)))
        bands = dict(zip(Bands._fields[1:], found, strict=True))

        def detail(i: int) -> Tensor:
            bits = torch.cat([bands[b].flatten(1) for b in self.contents[i + 1]], 1)
            return self.admit[i](self.details[i](bits)).unflatten(0, (-1, count))

        return detail

    def exit(self, i: int, state: State) -> Tensor:
        """Logits behind block `i`, one of `exits`."""
        at = self.exits.index(i)
        return self.exit_heads[at](self.exit_norms[at](self.pool(state)))

    def forward_head(self, state: State) -> Tensor:
        return self.head(self.norm(self.pool(state)))

    def pool(self, state: State) -> Tensor:
        """The class token, or the mean of the tokens that are left: [B C]."""
        if self.num_prefix_tokens:
            return state.x[:, 0]
        if state.valid is None:
            return state.x.mean(1)
        weight = state.valid.to(state.x.dtype)[..., None]
        return (state.x * weight).sum(1) / weight.sum(1)

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """New classifiers behind every exit, zero as at the start."""
        if global_pool not in (None, "token" if self.num_prefix_tokens else "avg"):
            raise InputError(f"global_pool is {global_pool!r}; this model's cannot be changed")
        self.num_classes = num_classes
        self.head, self.exit_heads = self._classifiers(num_classes)

    def no_weight_decay(self) -> set[str]:
        new = [n for n, _ in self.widenings.named_parameters() if n.endswith(("pos_embed", "cls_token"))]
        return {"pos_embed", "cls_token", *(f"widenings.{n}" for n in new)}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        widenings = [(rf"^widenings\.{w}\.", (t,)) for w, t in enumerate(self.transitions) if t >= 0]
        first = r"|^widenings\.0\." if -1 in self.transitions else ""
        return {
            "stem": r"^cls_token|^pos_embed|^embed|^lifting|^details|^admit" + first,
            "blocks": [(r"^blocks\.(\d+)", None), *widenings, (r"^norm|^exit_", (99999,))],
        }

    def _classifiers(self, classes: int) -> tuple[nn.Linear, nn.ModuleList]:
        if classes < 1:
            raise InputError(f"num_classes is {classes} in an IRET-style model; allowed: 1 or more")
        made = [nn.Linear(width, classes) for width in (self.embed_dim, *(self.widths[t] for t in self.exits))]
        for head in made:
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        return made[0], nn.ModuleList(made[1:])
