"""ViTTM: two streams of tokens, one of them processed.

Jajal et al., "Token Turing Machines are Efficient Vision Models" (WACV 2025, arXiv:2409.07613). Process tokens p go
through a ViT's blocks; memory tokens m are only read from and written to, before and after every block. Both are cut
straight from the image, so that p can be few. The order within a block, the shared norms, the heads' widths and the two
classifiers were read in the authors' code, not in the paper.

    m, p = LNr(m), LNr(p)       one norm for both; its result replaces the stream
    p    = p + Read(m -> p)     linear attention
    p    = Block(p)             a ViT's: attention and MLP
    m, p = LNw(m), LNw(p)
    m    = m + Write(p -> m)
    m    = MemoryMLP(m)         only if asked for; nothing in the published models

Differs: no parameter without a use (the authors' heads hold 24 projections that are never applied); the last write is
left out where only the process stream is classified, since nothing reads it; `norm="pre"` leaves the streams themselves
unnormalised, as ViTs do.
"""

from functools import partial
from typing import Any, Literal, NamedTuple, final

import torch
from timm.layers.patch_embed import PatchEmbed
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.layers.weight_init import trunc_normal_
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from foveate.errors import InputError, one_of
from foveate.models.blocks import LayerNorm, plain_blocks
from foveate.models.vittm.heads import FUSIONS, HEADS, Fusion

Output = Literal["memory", "process", "mean"]
OUTPUTS = ("memory", "process", "mean")
NORMS = ("in_place", "pre")


class Streams(NamedTuple):
    """Both streams of tokens, in row-major order of their grids."""

    process: Tensor  # [B P D]
    memory: Tensor  # [B M D]


@final
class ViTTM(nn.Module):
    """Image [B 3 h w] -> logits [B classes]; while training, (memory's, process's) logits, to be taught both.

    Sizes of images are free where the patch sizes divide them: positions are resampled for other ones.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 28,
        memory_patch_size: int | None = None,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        init_values: float | None = None,
        drop_path_rate: float = 0.0,
        latent_scale: int = 4,
        head: Literal["lin", "ca", "lca", "la", "tl"] = "lin",
        fusion: Literal["add", "erase", "add_erase"] = "add",
        norm: Literal["in_place", "pre"] = "in_place",
        memory_mlp: bool = False,
        output: Output = "memory",
    ) -> None:
        """
        Args:
            patch_size, memory_patch_size: of the process stream and of the memory, which by default has the same.
            init_values: of LayerScale in the blocks; None for none, as published.
            latent_scale: the heads' queries and keys have embed_dim / latent_scale channels.
            head, fusion: how a stream takes from the other (`heads.HEADS`, `heads.FUSIONS`).
            norm: "in_place" (published) replaces the streams by their norms, "pre" norms what heads see alone.
            memory_mlp: a residual MLP of half the width on the memory after every write.
            output: the classifier that answers. With "process" the last write does not take place.

        Raises:
            InputError: for an unknown word, or sizes that do not divide.
        """
        super().__init__()
        for name, value, known in (
            ("head", head, HEADS), ("fusion", fusion, FUSIONS), ("norm", norm, NORMS), ("output", output, OUTPUTS)
        ):  # fmt: skip
            if value not in known:
                raise one_of(name, value, known)
        size: tuple[int, int] = (img_size, img_size) if isinstance(img_size, int) else (img_size[0], img_size[1])
        memory_patch_size = memory_patch_size or patch_size
        for patch in (patch_size, memory_patch_size):
            if any(s % patch for s in size):
                raise InputError(f"a patch of {patch} pixels does not divide an image of {size[0]} x {size[1]}")
        latent, rest = divmod(embed_dim, latent_scale)
        if rest or latent % num_heads:
            allowed = f"what divides embed_dim {embed_dim} into a multiple of {num_heads} heads"
            raise InputError(f"latent_scale is {latent_scale}; allowed: {allowed}")
        self.num_classes, self.embed_dim, self.depth = num_classes, embed_dim, depth
        self.num_features = self.head_hidden_size = embed_dim
        self.num_prefix_tokens = 0
        self.norm, self.output = norm, output
        self.grad_checkpointing = False
        # What dense heads get (`forward_intermediates`), in timm's words.
        joined = patch_size == memory_patch_size
        self.feature_info = [
            {"module": f"blocks.{i}", "num_chs": embed_dim * (2 if joined else 1), "reduction": patch_size}
            for i in range(depth)
        ]

        embed: Any = partial(
            PatchEmbed, img_size=size, in_chans=in_chans, embed_dim=embed_dim, strict_img_size=False,
            dynamic_img_pad=False,
        )  # fmt: skip
        self.process_embed: PatchEmbed = embed(patch_size=patch_size)
        self.memory_embed: PatchEmbed = embed(patch_size=memory_patch_size)
        p, m = self.process_embed.num_patches, self.memory_embed.num_patches
        self.process_pos_embed = nn.Parameter(torch.zeros(1, p, embed_dim))
        self.memory_pos_embed = nn.Parameter(torch.zeros(1, m, embed_dim))
        self.blocks = plain_blocks(
            [embed_dim] * depth, [num_heads] * depth,
            mlp_ratio=mlp_ratio, init_values=init_values, drop_path_rate=drop_path_rate,
        )  # fmt: skip
        writes = depth if output != "process" else depth - 1
        self.read_norm = nn.ModuleList(LayerNorm(embed_dim) for _ in range(depth))
        self.write_norm = nn.ModuleList(LayerNorm(embed_dim) for _ in range(depth if norm == "in_place" else writes))
        make, fuse = HEADS[head], partial(Fusion, fusion, embed_dim)
        self.read = nn.ModuleList(make(embed_dim, num_heads, latent, m, p) for _ in range(depth))
        self.write = nn.ModuleList(make(embed_dim, num_heads, latent, p, m) for _ in range(writes))
        self.read_fusion = nn.ModuleList(fuse(p) for _ in range(depth))
        self.write_fusion = nn.ModuleList(fuse(m) for _ in range(writes))
        self.memory_mlp = nn.ModuleList(
            nn.Sequential(
                LayerNorm(embed_dim),
                nn.Linear(embed_dim, embed_dim // 2),
                nn.GELU(),
                nn.Linear(embed_dim // 2, embed_dim),
            )
            for _ in range(writes if memory_mlp else 0)
        )
        self.process_norm = LayerNorm(embed_dim)
        self.fc_norm_process = LayerNorm(embed_dim)
        self.fc_norm = LayerNorm(embed_dim)
        self.process_head, self.head = self._classifiers(num_classes)
        if output == "process":
            self.fc_norm = self.head = None
        self.init_weights()

    def init_weights(self) -> None:
        """Linear layers, the process embedding, positions and classifiers as in the authors' code; classifiers zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.process_embed.proj.weight.flatten(1))
        assert self.process_embed.proj.bias is not None
        nn.init.zeros_(self.process_embed.proj.bias)
        for position in (self.process_pos_embed, self.memory_pos_embed):
            trunc_normal_(position, std=0.02)
        for head in (self.process_head, self.head):
            if isinstance(head, nn.Linear):
                nn.init.zeros_(head.weight)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return self.forward_head(self.forward_features(image))

    def forward_features(self, image: Tensor) -> Streams:
        streams = self.embed(image)
        for i in range(self.depth):
            if self.grad_checkpointing and self.training:
                streams = checkpoint(self.block, i, streams, use_reentrant=False)
            else:
                streams = self.block(i, streams)
        return streams

    def forward_intermediates(
        self,
        image: Tensor,
        indices: int | list[int] | None = None,
        *,
        norm: bool = False,
        output_fmt: Literal["NCHW", "NLC"] = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Streams, list[Tensor]]:
        """timm's way to feature maps after some blocks, `indices`: the last so many (all by default), or which ones.

        Both streams side by side ([B P 2C] or [B 2C h w]) where their grids agree, else the process stream alone, as
        the authors' segmentation takes them. `norm`: the process stream after its final norm.

        Raises:
            InputError: for another format.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise one_of("output_fmt", output_fmt, ("NCHW", "NLC"))
        wanted, _ = feature_take_indices(self.depth, indices)
        streams, found = self.embed(image), []
        patch: Any = self.process_embed.patch_size
        grid = [side // p for side, p in zip(image.shape[-2:], patch, strict=True)]
        for i in range(self.depth):
            streams = self.block(i, streams)
            if i in wanted:
                process = self.process_norm(streams.process) if norm else streams.process
                x = self.joined(streams._replace(process=process))
                found.append(x if output_fmt == "NLC" else x.mT.unflatten(-1, grid))
        return found if intermediates_only else (streams, found)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """timm's way to leave out what comes after the last block of `indices`, for feature maps alone."""
        wanted, last = feature_take_indices(self.depth, indices)
        if last < self.depth - 1:
            raise InputError(f"blocks up to {last} of {self.depth}: a shorter ViTTM is one of a smaller depth")
        if prune_norm:
            self.process_norm = nn.Identity()
        if prune_head:
            self.fc_norm_process = nn.Identity()
            self.fc_norm = None if self.fc_norm is None else nn.Identity()
            self.reset_classifier(0)
        return wanted

    def joined(self, streams: Streams) -> Tensor:
        """What a dense head gets of both streams: [B P 2C] where their grids agree, else the process stream."""
        same = self.process_embed.patch_size == self.memory_embed.patch_size
        return torch.cat(streams, dim=-1) if same else streams.process

    def forward_head(
        self, streams: Streams, pre_logits: bool = False, size: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Pooling and classifiers; `pre_logits`: pooled features. `size` [B P]: how often each process token counts.

        The memory is pooled as the last write left it, the process stream after a norm of its own.
        """
        process = self.process_norm(streams.process)
        if size is None:
            process = process.mean(1)
        else:
            share = (size / size.sum(1, keepdim=True)).to(process.dtype)
            process = (share[:, None] @ process).squeeze(1)
        pooled, memory = self.fc_norm_process(process), None
        if self.fc_norm is not None and self.head is not None:
            memory = self.fc_norm(streams.memory.mean(1))
            memory = memory if pre_logits else self.head(memory)
            if self.output == "memory" and not self.training:
                return memory
        process = pooled if pre_logits else self.process_head(pooled)
        if memory is None:
            return process
        return (memory, process) if self.training else (memory + process) / 2

    def embed(self, image: Tensor) -> Streams:
        """
        Raises:
            InputError: for an image that a patch size does not divide.
        """
        made = []
        for embed, position in (
            (self.process_embed, self.process_pos_embed),
            (self.memory_embed, self.memory_pos_embed),
        ):
            sides, patch = image.shape[-2:], embed.proj.kernel_size
            if any(side % p for side, p in zip(sides, patch, strict=True)):
                raise InputError(f"patches of {patch[0]} pixels do not divide an image of {sides[0]} x {sides[1]}")
            grid = [side // p for side, p in zip(sides, patch, strict=True)]
            if tuple(grid) != tuple(embed.grid_size):
                position = resample_abs_pos_embed(position, grid, list(embed.grid_size), num_prefix_tokens=0)
            made.append(embed(image) + position)
        return Streams(*made)

    @torch.no_grad()
    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Make this the model of another image size: positions are resampled here, once, and not at every image.

        Raises:
            InputError: for a size that a patch size does not divide.
        """
        size = (img_size, img_size) if isinstance(img_size, int) else (img_size[0], img_size[1])
        for name in ("process", "memory"):
            embed, position = getattr(self, f"{name}_embed"), getattr(self, f"{name}_pos_embed")
            if any(side % p for side, p in zip(size, embed.patch_size, strict=True)):
                raise InputError(f"a patch of {embed.patch_size[0]} pixels does not divide an image of {size}")
            before = list(embed.grid_size)
            embed.set_input_size(img_size=size)
            new = resample_abs_pos_embed(position, list(embed.grid_size), before, num_prefix_tokens=0)
            setattr(self, f"{name}_pos_embed", nn.Parameter(new))

    def block(self, i: int, streams: Streams) -> Streams:
        streams = self.reading(i, streams)
        return self.writing(i, streams._replace(process=self.blocks[i](streams.process)))

    def reading(self, i: int, streams: Streams) -> Streams:
        """Before a ViT block: the process stream takes from the memory."""
        p, m = streams
        normed_p, normed_m = self.read_norm[i](p), self.read_norm[i](m)
        if self.norm == "in_place":
            p, m = normed_p, normed_m
        return Streams(self.read_fusion[i](p, self.read[i](normed_p, normed_m)), m)

    def writing(self, i: int, streams: Streams, size: Tensor | None = None) -> Streams:
        """After a ViT block: the memory takes from the process stream. `size` [B P]: how often each of these counts."""
        p, m = streams
        last = i >= len(self.write)
        if last and self.norm == "pre":
            return streams
        normed_p = self.write_norm[i](p)
        if self.norm == "in_place":
            p = normed_p
        if last:
            return Streams(p, m)
        normed_m = self.write_norm[i](m)
        if self.norm == "in_place":
            m = normed_m
        m = self.write_fusion[i](m, self.write[i](normed_m, normed_p, size))
        if self.memory_mlp:
            m = m + self.memory_mlp[i](m)
        return Streams(p, m)

    def get_classifier(self) -> nn.Module:
        return self.process_head if self.head is None else self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """New classifiers, zero as at the start; 0 classes: pooled features come out."""
        if global_pool not in (None, "avg"):
            raise one_of("global_pool", global_pool, ["avg"])
        self.num_classes = num_classes
        self.process_head, head = self._classifiers(num_classes)
        self.head = None if self.head is None else head

    def no_weight_decay(self) -> set[str]:
        return {"process_pos_embed", "memory_pos_embed"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        ends = r"^(?:process|memory)_(?:pos_embed|embed)"
        layer = r"^(?:blocks|read|write|read_norm|write_norm|read_fusion|write_fusion|memory_mlp)\.(\d+)"
        return {"stem": ends, "blocks": [(layer, None), (r"^process_norm|^fc_norm", (99999,))]}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    def _classifiers(self, classes: int) -> tuple[nn.Module, nn.Module]:
        made = [nn.Linear(self.embed_dim, classes) if classes else nn.Identity() for _ in range(2)]
        for head in made:
            if isinstance(head, nn.Linear):
                nn.init.zeros_(head.weight)
                nn.init.zeros_(head.bias)
        return made[0], made[1]
