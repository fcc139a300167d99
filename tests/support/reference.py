"""What every method and head is supposed to do, written slowly from its formula: loops, and Python numbers.

No tests are in here: `test_methods.py` and `test_vittm_heads.py` hold the fast ones against these.

A method is a function of one image that says which tokens come out, as a list of `Group`s in their order. `reduce`
turns that into tokens, so that gradients of x follow from autograd. Patches are numbered from 0, without the prefix.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Group:
    """One token that comes out: patch -> weight in it. `norm`: stretch the sum to its patches' largest norm."""

    weights: dict[int, float]
    norm: bool = False


@dataclass
class Image:
    """One image's numbers as nested lists: keys and values [H N D], row [H N], attention [H N N], size [P]."""

    prefix: int
    size: list[float]
    keys: list
    values: list
    row: list
    attention: list
    depth: float
    peak: float = 1.0  # POMT as published: largest received attention in the batch

    @property
    def patches(self) -> range:
        return range(len(self.size))


def reduce(name: str, tokens, signals, keep: int, **options) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens [B p+keep C], sizes [B p+keep] and the map [B P] of patches to tokens (-1: dropped) by method `name`."""
    p = tokens.prefix
    images = [
        Image(
            p,
            tokens.size[b, p:].tolist(),
            *(s[b].tolist() for s in (signals.keys, signals.values, signals.class_row, signals.attention)),
            signals.depth,
        )
        for b in range(len(tokens.x))
    ]
    peak = max(max(received(i)) for i in images)
    xs, sizes, sources = [], [], []
    for b, image in enumerate(images):
        image.peak = peak
        groups = REFERENCE[name](image, keep, **options)
        x = [tokens.x[b, i] for i in range(p)]
        size = tokens.size[b, :p].tolist()
        source = [-1] * len(image.size)
        for slot, group in enumerate(groups):
            patches = {j: tokens.x[b, p + j] for j in group.weights}
            mixed = sum(w * patches[j] for j, w in group.weights.items())
            if group.norm and len(group.weights) > 1:
                mixed = mixed / mixed.norm() * torch.stack([v.norm() for v in patches.values()]).max()
            x.append(mixed)
            size.append(sum(image.size[j] for j in group.weights))
            for j in group.weights:
                source[j] = slot
        xs.append(torch.stack(x))
        sizes.append(size)
        sources.append(source)
    return torch.stack(xs), torch.tensor(sizes), torch.tensor(sources)


# Parts


def alone(patches) -> list[Group]:
    return [Group({j: 1.0}) for j in patches]


def best(score: list[float], count: int) -> list[int]:
    """The `count` highest, in order of position."""
    return sorted(sorted(range(len(score)), key=lambda j: -score[j])[:count])


def class_attention(image: Image) -> list[float]:
    heads = len(image.row)
    return [sum(image.row[h][image.prefix + j] for h in range(heads)) / heads for j in image.patches]


def ats_score(image: Image) -> list[float]:
    score = []
    for j in image.patches:
        i = image.prefix + j
        attended = sum(row[i] for row in image.row)
        score.append(attended * math.sqrt(sum(v * v for head in image.values for v in head[i])))
    return [s / sum(score) for s in score]


def received(image: Image) -> list[float]:
    """POMT: the largest attention over the heads, summed over the patches that attend."""
    p = image.prefix
    return [sum(max(a[p + i][p + j] for a in image.attention) for i in image.patches) for j in image.patches]


def cosines(image: Image) -> list[list[float]]:
    """Cosine of the head-mean keys of every two patches."""
    keys = []
    for j in image.patches:
        heads = [head[image.prefix + j] for head in image.keys]
        mean = [sum(channel) / len(heads) for channel in zip(*heads, strict=True)]
        norm = math.sqrt(sum(v * v for v in mean))
        keys.append([v / norm for v in mean])
    return [[sum(u * v for u, v in zip(a, b, strict=True)) for b in keys] for a in keys]


def matched(cosine: list[list[float]], order: list[int], drop: int) -> tuple[dict[int, int], list[int], list[int]]:
    """ToMe on the patches in `order`: {patch that moves: its partner}, first ones that stay (in order), second ones."""
    first, second = order[::2], order[1::2]
    partner = {a: max(second, key=lambda b: cosine[a][b]) for a in first}
    moving = sorted(first, key=lambda a: -cosine[a][partner[a]])[:drop]
    return {a: partner[a] for a in moving}, [a for a in first if a not in moving], second


def averaged(image: Image, moves: dict[int, int], anchors: list[int], norm: bool = False) -> list[Group]:
    groups = []
    for anchor in anchors:
        members = [anchor, *(a for a, b in moves.items() if b == anchor)]
        total = sum(image.size[j] for j in members)
        groups.append(Group({j: image.size[j] / total for j in members}, norm))
    return groups


# Methods


def uniform(image: Image, keep: int) -> list[Group]:
    """The patch under the middle of each of `keep` equal parts."""
    return alone(math.floor((i + 0.5) * len(image.size) / keep + 1e-9) for i in range(keep))


def topk(image: Image, keep: int) -> list[Group]:
    return alone(best(class_attention(image), keep))


def evit(image: Image, keep: int, normalise: bool = False) -> list[Group]:
    score = class_attention(image)
    kept = best(score, keep - 1)
    rest = [j for j in image.patches if j not in kept]
    total = sum(score[j] for j in rest) if normalise else 1.0
    return [*alone(kept), Group({j: score[j] / total for j in rest})]


def pomt(image: Image, keep: int, published: bool = False) -> list[Group]:
    attended = received(image)
    peak = image.peak if published else max(attended)
    tokens = range(image.prefix + len(image.size))
    value = [sum(max(channel) for channel in zip(*(head[i] for head in image.values), strict=True)) for i in tokens]
    total = sum(math.exp(v - max(value)) for v in value)
    softmax = [math.exp(v - max(value)) / total for v in value]
    kept = best([attended[j] / peak + softmax[image.prefix + j] for j in image.patches], keep - 1)
    rest = [j for j in image.patches if j not in kept]
    return [*alone(kept), Group({j: 1 / len(rest) for j in rest})]


def ats(image: Image, keep: int) -> list[Group]:
    score = ats_score(image)
    order = sorted(image.patches, key=lambda j: score[j])
    height = [sum(score[i] for i in order[: n + 1]) for n in range(len(order))]
    sampled = set()
    for k in range(1, keep + 1):
        point = (2 * k - 1) / (2 * keep)
        sampled.add(order[min(range(len(order)), key=lambda n: abs(height[n] - point))])
    for j in reversed(order):  # top up with the best of the others
        if len(sampled) == keep:
            break
        sampled.add(j)
    return alone(sorted(sampled))


def tome(image: Image, keep: int) -> list[Group]:
    moves, stay, second = matched(cosines(image), list(image.patches), len(image.size) - keep)
    return averaged(image, moves, stay + second)


def ppt(image: Image, keep: int, threshold: float = 7e-5) -> list[Group]:
    score = ats_score(image)
    mean = sum(score) / len(score)
    variance = sum((s - mean) ** 2 for s in score) / (len(score) - 1)
    return alone(best(score, keep)) if variance >= threshold else tome(image, keep)


def pitome(image: Image, keep: int, margin: float = 0.75) -> list[Group]:
    drop, cosine = len(image.size) - keep, cosines(image)
    m = margin * (1 - image.depth)
    energy = [sum(c - m if c > m else math.exp(c - m) - 1 for c in row) / len(row) for row in cosine]
    order = sorted(image.patches, key=lambda j: -energy[j])
    if image.depth < 0.5:
        moves, stay, second = matched(cosine, order, drop)
        return averaged(image, moves, stay + second)
    crowd, protected = order[: 2 * drop], order[2 * drop :]
    moves = {a: max(crowd[1::2], key=lambda b: cosine[a][b]) for a in crowd[::2]}
    return averaged(image, moves, crowd[1::2] + protected)


def tofu(image: Image, keep: int) -> list[Group]:
    moves, stay, second = matched(cosines(image), list(image.patches), len(image.size) - keep)
    return alone(stay + second) if image.depth < 0.5 else averaged(image, moves, stay + second, norm=True)


REFERENCE: dict[str, Callable[..., list[Group]]] = {
    "uniform": uniform,
    "topk": topk,
    "evit": evit,
    "pomt": pomt,
    "pomt_published": lambda image, keep: pomt(image, keep, published=True),
    "ats": ats,
    "tome": tome,
    "ppt": ppt,
    "pitome": pitome,
    "tofu": tofu,
}


# ViTTM's heads.


def explicit(head, target, source, size=None):
    """Row-normalised phi(Q) phi(K)^T V, head by head, token by token."""
    latent = head.latent
    q, kv = head.q(target), head.kv(source)
    phi = lambda x: torch.where(x > 0, x + 1, x.exp())
    q, k, v = phi(q), phi(kv[..., :latent]), kv[..., latent:]
    out, c, d = [], latent // head.heads, source.shape[-1] // head.heads
    for h in range(head.heads):
        weight = q[..., h * c : (h + 1) * c] @ k[..., h * c : (h + 1) * c].mT
        weight = weight if size is None else weight * size[:, None]
        weight = weight / (weight.sum(-1, keepdim=True) + 1e-6)
        out.append(weight @ v[..., h * d : (h + 1) * d])
    return torch.cat(out, -1)


def by_tokens(name, head, target, source):
    """One target token at a time, with plain softmaxes."""
    out = []
    for b in range(len(target)):
        t, s = target[b], source[b]
        if name == "tl":
            x = torch.cat([s, t])
            logits = head.mlp(x)
            out.append(torch.stack([logits[:, j].softmax(0) @ x for j in range(logits.shape[1])]))
            continue
        if name == "la":
            k = torch.stack([column.softmax(0) for column in head.k(s).T], 1)
            out.append(torch.stack([row.softmax(0) @ (k.T @ s) for row in head.q(t)]))
            continue
        q, k, v = head.q(t), head.k(s), head.v(s)
        rows = []
        for h in range(head.heads):
            part = lambda x, h=h: x.chunk(head.heads, -1)[h]
            if name == "ca":
                width = v.shape[-1] // head.heads
                rows.append(torch.stack([(part(k) @ row * width**-0.5).softmax(0) @ part(v) for row in part(q)]))
            else:
                keys = torch.stack([column.softmax(0) for column in part(k).T], 1)
                rows.append(torch.stack([row.softmax(0) @ (keys.T @ part(v)) for row in part(q)]))
        out.append(head.proj(torch.cat(rows, -1)))
    return torch.stack(out)
