"""What schedules, planners, judges and reports need to know of a model."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from foveate.plans import Step
from foveate.schedule import Schedule, block_macs, exchange_macs

Outputs = Literal["classes", "embedding", "masks"]
"""What a model answers with: logits [B classes] (one alone: yes or no), a vector [B C], logits [B classes h w]."""

OUTPUTS: tuple[Outputs, ...] = get_args(Outputs)


@dataclass(frozen=True)
class Facts:
    """What schedules, planners and reports need to know of a model."""

    family: str  # the host's class
    tokens: int  # that enter block 0, prefix included
    depth: int
    prefix: int
    width: int
    heads: int
    grid: tuple[int, int]
    image: tuple[int, int, int]  # channels, height, width
    patch: tuple[int, int]
    classes: int
    has_class_token: bool
    memory: int = 0  # tokens of a second stream, which is read and written and never reduced
    latent: int = 0  # channels of the queries and keys by which the streams are read and written
    turns: tuple[
        int, ...
    ] = ()  # blocks where the host decides which tokens go; before the last of them nobody else does
    widths: tuple[int, ...] = ()  # of every block where they differ; `width` is the first one's
    embeddings: tuple[tuple[int, int, int], ...] = ()  # (block, values, channels): see `embedding_macs`
    exits: tuple[int, ...] = ()  # blocks behind which a classifier stands, other than the last
    outputs: Outputs = "classes"  # what kind of answer the model gives
    attention: tuple[tuple[int, int], ...] = ()  # see `block_macs`; of a host whose attention is all softmax, none
    decoder: int = 0  # multiply-accumulates of what stands in the place of the classifier, always at full length

    @property
    def patches(self) -> int:
        return self.tokens - self.prefix

    @property
    def quarters(self) -> list[int]:
        """The blocks at 1/4, 1/2 and 3/4 of the depth, where EViT and PPT reduce."""
        return [self.depth // 4, self.depth // 2, 3 * self.depth // 4]

    def cut(self, steps: Iterable[Step]) -> Schedule:
        """The token counts that these steps give; of no steps, all tokens throughout."""
        return Schedule.cut(self.tokens, self.depth, {s.block: s.tokens for s in steps}, self.prefix)

    @property
    def last_width(self) -> int:
        """Channels behind the last block."""
        return self.widths[-1] if self.widths else self.width

    def macs(self, schedule: Schedule) -> int:
        """Multiply-accumulates of one image by the formulas of `foveate.schedule`, reduction itself not counted."""
        blocks = sum(block_macs(schedule, self.widths or self.width, attention=self.attention))
        count = self.embedding_macs(schedule) + blocks + (self.decoder or self.last_width * self.classes)
        if not self.memory:
            return count
        embedding = 3 * self.image[1] * self.image[2] * self.width
        exchange = exchange_macs(schedule, self.width, heads=self.heads, memory=self.memory, latent=self.latent)
        return count + embedding + exchange

    def embedding_macs(self, schedule: Schedule, upto: int | None = None) -> int:
        """Of embedding the image: all patches at once, or in a host with `embeddings`, bit by bit.

        One of (block, values, channels) stands for so many values of each patch that is left behind `block` (-1: at the
        start), every one of which is taken to get its detail. `upto`: those of this block and later ones left out.
        """
        if not self.embeddings:
            return 3 * self.patch[0] ** 2 * self.patches * self.width
        counts = (schedule.start, *schedule.after)
        reached = [e for e in self.embeddings if upto is None or e[0] < upto]
        return sum((counts[block + 1] - self.prefix) * values * channels for block, values, channels in reached)

    def exit_macs(self, schedule: Schedule) -> tuple[int, ...]:
        """Of an image that leaves by the first exit, the second ... at the end; every classifier on its way counts."""
        widths, found, heads = self.widths or (self.width,) * self.depth, [], 0
        blocks = block_macs(schedule, widths, attention=self.attention)
        for block in (*self.exits, self.depth - 1):
            heads += widths[block] * self.classes
            late = block + 1 < self.depth and widths[block + 1] != widths[block]  # what is embedded behind the exit
            found.append(self.embedding_macs(schedule, block + (not late)) + sum(blocks[: block + 1]) + heads)
        return tuple(found)

    def macs_ratio(self, schedule: Schedule) -> float:
        """Multiply-accumulates as a share of what the model takes at full length."""
        return self.macs(schedule) / self.macs(self.cut(()))
