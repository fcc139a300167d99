"""How far plans move a model's answers on a fixed set of images, with nothing computed twice."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from foveate.adapters import adapt, adapter_of
from foveate.errors import InputError
from foveate.evaluate.judges import make_judge
from foveate.facts import Outputs
from foveate.planners.space import Key, key_of
from foveate.plans import Step
from foveate.tokens import Tokens

Steps = tuple[Step, ...]
State = dict[int, Tokens]  # chunk of images -> tokens
OUTPUT_BYTES = 2**28  # of a chunk's masks at their full size


@dataclass(frozen=True)
class Score:
    """What a plan did to a set of images, image by image, so that two plans can be compared in pairs.

    What each means is for the judge of the model's kind of output to say (`foveate.evaluate.judges`).
    """

    distance: np.ndarray  # [S] between the dense and the reduced model's output: KL in nats, or 1 - cosine
    changed: np.ndarray  # [S] in 0..1: share of the answer that is another than the dense model's
    right: np.ndarray | None  # [S] in 0..1: share of the answer that is right; None without labels

    @staticmethod
    def join(parts: Iterable["Score"]) -> "Score":
        parts = list(parts)
        right = [p.right for p in parts if p.right is not None]
        return Score(
            np.concatenate([p.distance for p in parts]),
            np.concatenate([p.changed for p in parts]),
            np.concatenate(right) if right else None,
        )


def chunk_of(images: np.ndarray) -> int:
    """How many images to run at once, so that there are about four chunks to divide.

    Raises:
        InputError: for fewer images than say anything.
    """
    if len(images) < 8:
        raise InputError(f"planning needs at least 8 images; got {len(images)}")
    return min(32, max(4, len(images) // 4))


class Evaluator:
    """Runs plans on a fixed set of images, in chunks, and asks the judge of the model's outputs what became of them.

    Kept are the dense tokens at the input of the blocks, so that a plan is run from its first reducing block on; the
    tokens behind the first steps of recent plans, since a search mostly changes later steps; every plan's scores; and
    the dense outputs in float32. Of masks two pixels a patch and side are looked at, since what lies between them was
    interpolated: all of them would take longer to judge than to compute.
    """

    def __init__(
        self,
        model: nn.Module,
        images: np.ndarray,
        labels: np.ndarray | None = None,
        *,
        outputs: Outputs | None = None,
        chunk: int = 32,
        cache_bytes: int = 500_000_000,
        bf16: bool = False,
        seconds: float | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        """
        Args:
            model: a host that `adapt` takes, in eval mode.
            images: [S 3 h w] float32, preprocessed.
            labels: [S] class indices, or for masks uint8 [S h w].
            outputs: the kind of output; None: what the model's facts say.
            chunk: images run at once, at most.
            cache_bytes: bound on the tokens kept, of which dense ones get the larger part.
            bf16: run in bfloat16 autocast, the dense model too, so that its rounding mostly cancels.
            seconds: images are left out, from the end, where the dense pass over all would take longer than this; two
                chunks are run in any case.
            progress: called with the share of the dense pass that is done.
        """
        self.model, self.bf16 = model, bf16
        self.device = next(model.parameters()).device
        dense = adapt(model).to(self.device)
        self.facts = f = dense.facts
        self.outputs: Outputs = outputs or f.outputs
        if self.outputs == "masks":
            chunk = min(chunk, max(1, OUTPUT_BYTES // (4 * f.classes * f.image[1] * f.image[2])))
        chunks = max(1, -(-len(images) // chunk))
        self._parts = np.array_split(np.arange(len(images)), chunks)
        each = len(images) * f.tokens * (max(f.width, f.last_width) + 1) * 4
        slots = int(min(f.depth, max(1, 0.7 * cache_bytes // each)))
        kept = {0} | {round(i * (f.depth - 1) / max(1, slots - 1)) for i in range(slots if slots > 1 else 0)}
        self._room = max(0, cache_bytes - each * len(kept))
        self._inputs: dict[int, State] = {b: {} for b in sorted(kept)}
        self._recent: OrderedDict[Key, tuple[int, State]] = OrderedDict()  # first steps -> (next block, tokens)
        self._scores: dict[Key, dict[int, Score]] = {}
        given: list[np.ndarray] = []
        began = time.monotonic()
        for c, part in enumerate(self._parts):
            with self._mode():
                tokens = dense.embed(torch.from_numpy(np.ascontiguousarray(images[part])).to(self.device))
                if self.outputs == "masks":  # plans go on from here, and have to put every patch back
                    index = torch.arange(tokens.patches, device=self.device)
                    tokens = tokens._replace(source=index.expand(len(part), -1))
                for block in range(f.depth):
                    if block in self._inputs:
                        self._inputs[block][c] = tokens
                    tokens = dense.block(block, tokens)
                given.append(self._seen(dense.finish(tokens).float().cpu().numpy()))
            if progress:
                progress((c + 1) / chunks)
            if seconds is not None and c >= 1 and time.monotonic() - began > seconds:
                break
        self._parts = self._parts[: len(given)]
        self._reference = np.concatenate(given)
        truth = None if labels is None else self._seen(np.asarray(labels)[: len(self._reference)])
        self.judge = make_judge(self.outputs, self._reference, truth)

    @property
    def chunks(self) -> int:
        return len(self._parts)

    def images(self, chunks: Iterable[int]) -> int:
        """Number of images in these chunks."""
        return sum(len(self._parts[c]) for c in chunks)

    def dense_right(self, chunks: Iterable[int] | None = None) -> np.ndarray | None:
        """[S] in 0..1: how right the dense model's answers are; None without labels."""
        at = np.concatenate([self._parts[c] for c in (range(self.chunks) if chunks is None else chunks)])
        return self.judge.right(self._reference[at], at)

    def score(self, steps: Sequence[Step], chunks: Iterable[int] | None = None) -> Score:
        """Compare a plan with the dense model on the images of `chunks` (default: all), in their order.

        Raises:
            InputError: where the model cannot be reduced so.
        """
        chunks = list(range(self.chunks) if chunks is None else chunks)
        steps = tuple(sorted(steps, key=lambda s: s.block))
        known = self._scores.setdefault(key_of(steps), {})
        if missing := [c for c in chunks if c not in known]:
            for c, answer in self._run(steps, missing):
                known[c] = self._compare(c, answer)
        return Score.join(known[c] for c in chunks)

    def _compare(self, chunk: int, answer: Tensor) -> Score:
        at, seen = self._parts[chunk], self._seen(answer.float().cpu().numpy())
        return Score(self.judge.distance(seen, at), self.judge.changed(seen, at), self.judge.right(seen, at))

    def _seen(self, outputs: np.ndarray) -> np.ndarray:
        """What the judge gets of outputs or labels: of masks [... h w] some pixels, else all."""
        if self.outputs != "masks":
            return outputs
        high, wide = (max(1, side // 2) for side in self.facts.patch)
        return outputs[..., high // 2 :: high, wide // 2 :: wide].copy()

    def _run(self, steps: Steps, chunks: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """(chunk, outputs [s ...]) of a plan."""
        # No dry run here: the modules are built from the same schedule each time, and it would cost more than a chunk.
        twin = adapter_of(self.model)(self.model, steps).eval().to(self.device)
        for c in chunks:
            with self._mode():
                done, block, tokens = self._start(steps, c)
                for count in range(done + 1, len(steps) + 1):
                    after = steps[count - 1].block + 1
                    tokens = twin.blocks(tokens, block, after)
                    block = after
                    if count < len(steps):
                        self._remember(steps[:count], block, c, tokens)
                answer = twin.finish(twin.blocks(tokens, block))
            yield c, answer

    def _start(self, steps: Steps, chunk: int) -> tuple[int, int, Tokens]:
        """(steps already done, next block, tokens), as far into the plan as what is kept reaches."""
        for done in range(len(steps) - 1, 0, -1):
            block, state = self._recent.get(key_of(steps[:done]), (0, {}))
            if chunk in state:
                self._recent.move_to_end(key_of(steps[:done]))
                return done, block, state[chunk]
        first = steps[0].block if steps else self.facts.depth - 1
        block = max(b for b in self._inputs if b <= first)
        return 0, block, self._inputs[block][chunk]

    def _remember(self, steps: Steps, block: int, chunk: int, tokens: Tokens) -> None:
        key = key_of(steps)
        size = lambda t: sum(part.nbytes for part in (t.x, t.size, t.source, t.rope, t.memory) if part is not None)
        _, state = self._recent.setdefault(key, (block, {}))
        self._room -= size(tokens) - (size(state[chunk]) if chunk in state else 0)
        state[chunk] = tokens
        self._recent.move_to_end(key)
        while self._room < 0 and self._recent:
            _, (_, old) = self._recent.popitem(last=False)
            self._room += sum(size(t) for t in old.values())

    @contextmanager
    def _mode(self) -> Iterator[None]:
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            yield
