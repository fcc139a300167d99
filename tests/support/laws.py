"""Laws of every token-reduction method, as functions: `law_x(make)` raises where what `make()` builds breaks x.

Feeding the identity matrix as tokens makes the output readable: `out.x` shows which tokens went into which, and
`out.x * out.size` is the assignment matrix of anything that averages by size: row = token that came out, column = token
that went in, value = how much of it.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from foveate.adapters import restore
from foveate.methods import Merger, Reducer, Scorer
from foveate.tokens import Signals, Tokens

Make = Callable[[], Reducer]
HEADS, WIDTH = 3, 8


@dataclass(frozen=True)
class Case:
    prefix: int
    patches: int
    keep: int
    depth: float = 0.25
    batch: int = 3
    seed: int = 0


def cases(make: Make) -> Iterator[Case]:
    """No prefix and long ones, odd and even counts, from one token cut to as many as the method can, early and late."""
    for prefix in (0, 1, 2, 5):
        for patches in (15, 16):
            least = max(2, patches - int(patches * make().max_drop))
            for keep in sorted({patches - 1, (patches + least) // 2, least}):
                for depth in (0.25, 0.75):
                    yield Case(prefix, patches, keep, depth)


ONE = Case(1, 16, 10)


def world(case: Case) -> tuple[Tokens, Signals]:
    """Identity tokens of mixed sizes, and all signals: image 0 attends evenly, the next ones ever more sharply."""
    g = torch.Generator().manual_seed(case.seed)
    b, n = case.batch, case.prefix + case.patches
    size = torch.randint(1, 5, (b, n), generator=g).float()
    size[:, : case.prefix] = 1
    sharp = torch.tensor([0.01, 1.0, 3.0]).repeat(b)[:b]
    logits = torch.randn(b, HEADS, n, n, generator=g) * sharp[:, None, None, None]
    keys, values = torch.randn(2, b, HEADS, n, WIDTH, generator=g)
    # Values of nearly one length: the scores of image 0 then hardly differ, and PPT merges there and prunes elsewhere.
    values = values / values.norm(dim=(1, 3), keepdim=True) * (1 + 0.02 * torch.randn(b, 1, n, 1, generator=g))
    attention = logits.softmax(-1)
    tokens = Tokens(torch.eye(n).repeat(b, 1, 1), size, case.prefix)
    return tokens, Signals(keys, values, attention[:, :, 0], attention, case.depth)


def declared(method: Reducer, signals: Signals) -> Signals:
    """What an adapter would hand over: everything a method does not declare is None."""
    names = ("keys", "values", "class_row", "attention")
    return signals._replace(**{name: None for name in names if name not in method.needs})


def sourced(tokens: Tokens) -> Tokens:
    """With a source map of 4 patches more than there are tokens: two share a token, three were dropped before."""
    index = torch.arange(tokens.patches)
    return tokens._replace(source=torch.cat([index, torch.tensor([1, -1, -1, -1])]).expand(len(tokens.x), -1))


def roped(tokens: Tokens) -> Tokens:
    """With a rotary embedding that tells every patch by its number."""
    return tokens._replace(rope=torch.arange(tokens.patches).float()[None, :, None].expand(len(tokens.x), -1, 1))


def run(make: Make, case: Case, **fields: Tensor) -> tuple[Tokens, Tokens]:
    """Tokens that went in, and those that came out."""
    method = make()
    tokens, signals = world(case)
    tokens = roped(sourced(tokens._replace(**fields)))
    return tokens, method(tokens, declared(method, signals), case.keep)


def image(tokens: Tokens, signals: Signals, which: Tensor) -> tuple[Tokens, Signals]:
    """The images `which` of a batch."""

    def pick(v: object) -> object:
        return v[which] if isinstance(v, Tensor) else v

    return Tokens(*map(pick, tokens)), Signals(*map(pick, signals))  # type: ignore[arg-type]


def same(a: Tokens, b: Tokens) -> None:
    torch.testing.assert_close(a.x, b.x, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(a.size, b.size, rtol=1e-6, atol=0)
    assert a.source is None or b.source is None or torch.equal(a.source, b.source), "source maps differ"
    assert a.rope is None or b.rope is None or torch.equal(a.rope, b.rope), "rotary embeddings differ"


# Structure


def law_count(make: Make) -> None:
    """Exactly `keep` patches come out, with sizes, rotary embeddings and source map of the right shapes and kinds."""
    for case in cases(make):
        tokens, out = run(make, case)
        n = case.prefix + case.patches
        assert out.x.shape == (case.batch, case.prefix + case.keep, n), case
        assert out.size.shape == (case.batch, case.prefix + case.keep), case
        assert out.rope is not None and out.rope.shape == (case.batch, case.keep, 1), case
        assert out.source is not None and tokens.source is not None and out.source.shape == tokens.source.shape, case
        assert (out.x.dtype, out.size.dtype, out.source.dtype) == (torch.float32, torch.float32, torch.int64)
        assert out.prefix == case.prefix


def law_prefix(make: Make) -> None:
    """The prefix comes out first, bit for bit, and is used for nothing else."""
    for case in cases(make):
        tokens, out = run(make, case)
        p = case.prefix
        assert torch.equal(out.x[:, :p], tokens.x[:, :p]), case
        assert torch.equal(out.size[:, :p], tokens.size[:, :p]), case
        assert not out.x[:, p:, :p].any(), case


def law_once(make: Make) -> None:
    """No token goes into two, and none comes out empty."""
    for case in cases(make):
        _, out = run(make, case)
        assert ((out.x != 0).sum(1) <= 1).all(), case
        assert (out.x != 0).any(2).all(), case


def law_sizes(make: Make) -> None:
    """A token is as large as what it is made of, so sizes add up to all there was less what was dropped."""
    for case in cases(make):
        tokens, out = run(make, case)
        torch.testing.assert_close(out.size, ((out.x != 0) * tokens.size[:, None]).sum(2))


def law_mean(make: Make) -> None:
    """Where all patches are alike, what comes out is like them: merging identical tokens is loss-free."""
    for case in cases(make):
        alike = torch.linspace(-2, 3, 7).expand(case.batch, case.prefix + case.patches, -1)
        _, out = run(make, case, x=alike)
        torch.testing.assert_close(out.x, alike[:, : out.x.shape[1]])


def law_loses_nothing(make: Make) -> None:
    """A merger averages by size: x * size is the assignment matrix, and every token is in it with its whole size."""
    if not isinstance(make(), Merger):
        return
    for case in cases(make):
        tokens, out = run(make, case)
        assigned = out.x * out.size[..., None]
        torch.testing.assert_close(assigned, (out.x != 0) * tokens.size[:, None])
        torch.testing.assert_close(assigned.sum(1), tokens.size)


def law_highest(make: Make) -> None:
    """A scorer keeps the highest scores, unchanged and in their order."""
    method = make()
    if not isinstance(method, Scorer):
        return
    for case in cases(make):
        tokens, signals = world(case)
        score = method.score(tokens, declared(method, signals))
        out = method(tokens, declared(method, signals), case.keep)
        kept = torch.stack([s.topk(case.keep).indices.sort().values for s in score]) + case.prefix
        assert torch.equal(out.x[:, case.prefix :], tokens.x[torch.arange(case.batch)[:, None], kept]), case


def law_source(make: Make) -> None:
    """The source map says where every patch went, and `restore` puts values back there."""
    for case in cases(make):
        p = case.prefix
        tokens, out = run(make, case)
        assert tokens.source is not None and out.source is not None
        assert out.source.max() < case.keep, case
        back = restore(out)[:, p:]
        for b in range(case.batch):
            for patch, (old, new) in enumerate(zip(tokens.source[b].tolist(), out.source[b].tolist(), strict=True)):
                into = (out.x[b, p:, p + old] != 0).nonzero().flatten().tolist() if old >= 0 else []
                assert into == ([new] if new >= 0 else []), (case, patch)
                expected = out.x[b, p + new] if new >= 0 else torch.zeros(p + case.patches)
                assert torch.equal(back[b, patch], expected), (case, patch)


def law_rope(make: Make) -> None:
    """Every token takes the rotary position of a patch that it is made of."""
    for case in cases(make):
        _, out = run(make, case)
        assert out.rope is not None
        for b in range(case.batch):
            for k, patch in enumerate(out.rope[b, :, 0].long().tolist()):
                assert out.x[b, case.prefix + k, case.prefix + patch] != 0, case


# Images


def law_alone(make: Make) -> None:
    """What happens to an image does not depend on its batch mates."""
    method = make()
    for case in cases(make):
        tokens, signals = world(case)
        tokens, signals = roped(sourced(tokens)), declared(method, signals)
        together = method(tokens, signals, case.keep)
        for b in range(case.batch):
            which = torch.tensor([b])
            same(method(*image(tokens, signals, which), case.keep), image(together, signals, which)[0])


def law_permutation(make: Make) -> None:
    """Images in another order come out in that order."""
    method = make()
    for case in cases(make):
        tokens, signals = world(case)
        tokens, signals = roped(sourced(tokens)), declared(method, signals)
        other = torch.tensor([2, 0, 1])
        same(
            method(*image(tokens, signals, other), case.keep),
            image(method(tokens, signals, case.keep), signals, other)[0],
        )


def law_repeatable(make: Make) -> None:
    """Twice the same is twice the same, and the global random state is left alone."""
    method = make()
    tokens, signals = world(ONE)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = method(tokens, declared(method, signals), ONE.keep)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(2)
    same(method(tokens, declared(method, signals), ONE.keep), first)
    same(make()(tokens, declared(method, signals), ONE.keep), first)


# Numbers


def law_gradient(make: Make) -> None:
    """Gradients reach exactly the tokens that are in what comes out."""
    for case in cases(make):
        tokens, _ = world(case)
        x = tokens.x.clone().requires_grad_()
        _, out = run(make, case, x=x)
        assert out.x.requires_grad, case
        weight = torch.randn(out.x.shape, generator=torch.Generator().manual_seed(1))
        (grad,) = torch.autograd.grad((out.x * weight).sum(), x)
        assert grad.isfinite().all()
        assert torch.equal(grad.abs().sum(2) > 0, (out.x != 0).any(1)), case


def law_bf16(make: Make) -> None:
    """Tokens in bfloat16 stay so, sizes stay float32, and the same tokens go to the same places."""
    for case in cases(make):
        _, full = run(make, case)
        _, half = run(make, case, x=world(case)[0].x.bfloat16())
        assert (half.x.dtype, half.size.dtype) == (torch.bfloat16, torch.float32)
        torch.testing.assert_close(half.x.float(), full.x, rtol=0.01, atol=1e-6)
        assert torch.equal(half.size, full.size)
    method = make()
    tokens, signals = world(ONE)
    low = Signals(*(v.bfloat16() if isinstance(v, Tensor) else v for v in signals))
    out = method(tokens._replace(x=tokens.x.bfloat16()), declared(method, low), ONE.keep)
    assert out.x.isfinite().all() and out.size.dtype == torch.float32 and out.size.sum(1).le(tokens.size.sum(1)).all()


# Compilers


class Wrapped(nn.Module):
    """A method behind plain tensors, as tracers want it."""

    def __init__(self, make: Make, case: Case) -> None:
        super().__init__()
        self.method, self.case = make(), case

    def forward(self, x: Tensor, size: Tensor, *signals: Tensor) -> tuple[Tensor, Tensor]:
        given = dict(zip(sorted(self.method.needs), signals, strict=True))
        out = self.method(Tokens(x, size, self.case.prefix), Signals(**given, depth=self.case.depth), self.case.keep)
        return out.x, out.size

    def arguments(self) -> tuple[Tensor, ...]:
        tokens, signals = world(self.case)
        # Not the identity: its rows are all alike to a method that compares tokens, and which of equals it takes is a
        # matter of rounding, which differs between runtimes.
        x = torch.randn(tokens.x.shape, generator=torch.Generator().manual_seed(self.case.seed))
        return (x, tokens.size, *(getattr(signals, name) for name in sorted(self.method.needs)))


def law_compile(make: Make, depths: tuple[float, ...] = (0.75,), backend: str = "aot_eager") -> None:
    """`torch.compile` takes it whole, and means the same by it."""
    for depth in depths:
        model = Wrapped(make, replace(ONE, depth=depth))
        torch._dynamo.reset()
        torch.testing.assert_close(
            torch.compile(model, fullgraph=True, backend=backend)(*model.arguments()), model(*model.arguments())
        )


def law_export(make: Make, depths: tuple[float, ...] = (0.75,)) -> None:
    """`torch.export` takes it with an open batch; no shape depends on data, and the program means the same."""
    for depth in depths:
        model = Wrapped(make, replace(ONE, depth=depth))
        args = model.arguments()
        batch = torch.export.Dim("batch", min=2)
        # torch.export takes forward's *signals for one argument, where there are any
        shapes = ({0: batch}, {0: batch}, *([({0: batch},) * len(model.method.needs)] if model.method.needs else []))
        exported = torch.export.export(model, args, dynamic_shapes=shapes, strict=False)
        for node in exported.graph.nodes:
            assert not free_unbacked_symbols(node.meta.get("val")), f"the shape of {node} depends on data"
        program = exported.module()
        for picked in (args, tuple(a[1:] for a in args)):
            torch.testing.assert_close(program(*picked), model(*picked))


def law_onnx(make: Make, depths: tuple[float, ...] = (0.75,), runtime: str = "onnxruntime") -> None:
    """The ONNX file of a single image uses standard operators alone and means the same in a runtime."""
    import onnx

    from foveate.runtimes._export import quiet

    for depth in depths:
        model = Wrapped(make, replace(ONE, depth=depth, batch=1)).eval()
        args = model.arguments()
        with quiet(), torch.no_grad():
            made = torch.onnx.export(torch.export.export(model, args), dynamo=True, opset_version=18, verbose=False)
        assert made is not None
        proto, buffer = made.model_proto, io.BytesIO()
        assert {n.domain for n in proto.graph.node} <= {""}
        onnx.save(proto, buffer)
        found = {"onnxruntime": _onnxruntime, "openvino": _openvino}[runtime](buffer.getvalue(), args)
        for ours, theirs in zip(model(*args), found, strict=True):
            torch.testing.assert_close(torch.from_numpy(theirs), ours, rtol=1e-5, atol=1e-6)


def _onnxruntime(file: bytes, args: tuple[Tensor, ...]) -> list[np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    found = session.run(None, {i.name: a.numpy() for i, a in zip(session.get_inputs(), args, strict=True)})
    return [np.asarray(a) for a in found]


def _openvino(file: bytes, args: tuple[Tensor, ...]) -> list[np.ndarray]:
    import openvino

    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.compile_model(openvino.Core().read_model(io.BytesIO(file)), "CPU", exact)
    found = compiled([a.numpy() for a in args])
    return [found[i] for i in range(len(compiled.outputs))]


LAWS: dict[str, Callable[[Make], None]] = {
    law.__name__: law
    for law in (
        law_count,
        law_prefix,
        law_once,
        law_sizes,
        law_mean,
        law_loses_nothing,
        law_highest,
        law_source,
        law_rope,
        law_alone,
        law_permutation,
        law_repeatable,
        law_gradient,
        law_bf16,
    )
}
TRACERS: dict[str, Callable[..., None]] = {law.__name__: law for law in (law_compile, law_export)}
