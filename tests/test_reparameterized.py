"""A converted ViT: every attention and linear variant in a model, reduced, exported, counted, built again by name."""

from copy import deepcopy
from functools import cache

import pytest
import timm
import torch
from torch import nn

from foveate import load
from foveate.adapters import adapt
from foveate.adapters.macs import macs_of
from foveate.attention import CORES
from foveate.errors import InputError
from foveate.linears import LINEARS, Routed
from foveate.methods import METHODS
from foveate.models.reparameterized import CoreAttention, ReparameterizedViT, reparameterize
from foveate.models.reparameterized.model import chosen, options_of
from foveate.planning.shorthand import steps
from foveate.runtimes import RUNTIMES, sharing_graphs

WORDS = [
    *({"attention": name} for name in CORES),
    {"attention": "hashed_linear:quantiser=ksh", "blocks": "0"},  # fitting takes seconds a block
    *({part: name} for name in LINEARS for part in ("mlp", "projections")),
    {"mlp": "shift:format=ps5,learn=shifts", "projections": "shift:format=apot2", "blocks": "0,2"},
    {"attention": "hashed_linear", "mlp": "mixture:ratio=3,gate=probability", "projections": "shift"},
]
SMALL = {"img_size": 64, "depth": 3, "embed_dim": 48, "num_heads": 3, "num_classes": 5}


@cache
def vit() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", **SMALL, init_values=0.5, qk_norm=True).eval()


def converted(words: dict[str, str]) -> ReparameterizedViT:
    """With a router that prefers something, and a hash that is fitted."""
    return deepcopy(_converted(tuple(words.items())))


@cache
def _converted(pairs: tuple[tuple[str, str], ...]) -> ReparameterizedViT:
    words = dict(pairs)
    torch.manual_seed(1)
    model = reparameterize(vit(), **words)
    for name, parameter in model.named_parameters():
        if "router" in name:
            nn.init.normal_(parameter, std=0.5)
    model.train()(torch.randn(3, 3, 64, 64))
    return model.eval()


def images(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("words", WORDS, ids=str)
def test_adapted_it_answers_as_it_does(words: dict[str, str]):
    model, x = converted(words), images()
    keys = list(model.state_dict())
    reduced = adapt(model)
    assert torch.equal(reduced(x), model(x))
    assert torch.allclose(reduced.for_inference()(x), model(x), atol=1e-6)
    assert list(model.state_dict()) == keys


@pytest.mark.parametrize("words", WORDS, ids=str)
def test_its_tokens_are_reduced_by_every_method(words: dict[str, str]):
    model, x = converted(words), images()
    # A bit turns at its threshold, however little is missing: of hashed attention, laws of cores are the sharper test.
    near = 0.02 if "hashed" in str(words) else 2e-6
    for method in METHODS:
        reduced = adapt(model, steps(model, method, ratio=0.7, blocks=[1]))
        whole = reduced(x)
        alone = torch.cat([reduced(x[i : i + 1]) for i in range(3)])
        assert torch.allclose(alone, whole, atol=near), method
        assert torch.allclose(reduced.for_inference()(x), whole, atol=near), method


@pytest.mark.parametrize("words", WORDS, ids=str)
def test_its_products_are_counted(words: dict[str, str]):
    model = converted(words)
    reduced = adapt(model, steps(model, "tome", r=3))
    routers = sum(48 for m in model.modules() if isinstance(m, Routed))
    counted, formula = macs_of(reduced).backbone, reduced.facts.macs(reduced.schedule)
    if not routers:
        assert counted == formula
    else:  # a formula of tokens alone leaves routers out; each has one value a token
        assert formula < counted <= formula + routers * 17


def test_linear_attention_is_counted_linear():
    facts = [adapt(converted({"attention": name})).facts for name in ("softmax", "hashed_linear")]
    quadratic, linear = ([f.attention and f.attention[0][1], f.macs(f.cut(()))] for f in facts)
    assert quadratic[0] == () and linear[0] == 0 and linear[1] != quadratic[1]


@pytest.mark.parametrize(
    "words", [w for w in WORDS if list(w) != ["projections"] and "softmax" not in w.values()], ids=str
)
def test_what_is_exported_answers_alike(words: dict[str, str], tmp_path):
    model, x = converted(words), images(1)
    reduced = adapt(model, steps(model, "tome", r=3))
    with sharing_graphs():
        for name in ("onnxruntime", "openvino"):
            path = RUNTIMES[name].build(reduced, tmp_path / name, shape=(1, 3, 64, 64), precision="fp32")
            found = RUNTIMES[name].load(path, precision="fp32", threads=1)(x.numpy())
            assert torch.allclose(torch.from_numpy(found), reduced(x), atol=1e-5), name


@pytest.mark.parametrize("words", WORDS, ids=str)
def test_it_is_built_again_by_name(words: dict[str, str], tmp_path):
    from safetensors.torch import save_file

    model, x = converted(words), images()
    options = {k: v for k, v in options_of(vit()).items() if k != "img_size"} | {"img_size": 64} | words
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    found = load("reparameterized_vit", weights=tmp_path / "weights.safetensors", **options)
    assert torch.equal(found.model(x), model(x))
    assert found.ref.kwargs["attention" if "attention" in words else "depth"]


def test_unconverted_it_is_the_same_model():
    x = images()
    assert torch.equal(reparameterize(vit())(x), vit()(x))
    assert [n for n, _ in reparameterize(vit()).named_parameters()] == [n for n, _ in vit().named_parameters()]


@pytest.mark.parametrize(
    "name",
    [
        "vit_small_patch14_reg4_dinov2",
        "vit_base_patch16_clip_224",
        "vit_base_patch16_siglip_224",
        "deit3_small_patch16_224",
    ],
)
def test_families_of_plain_vits_can_be_told_in_words(name: str):
    torch.manual_seed(0)
    shape = {"img_size": 56, "depth": 2, "embed_dim": 48, "num_heads": 3}
    host = timm.create_model(name, **shape).eval()
    x = torch.randn(2, 3, 56, 56)
    assert torch.allclose(reparameterize(host)(x), host(x), atol=1e-6)
    assert reparameterize(host, attention="sigmoid", mlp="shift").eval()(x).shape == host(x).shape


def test_only_some_blocks():
    model = reparameterize(vit(), attention="sigmoid", blocks="1")
    assert [isinstance(b.attn, CoreAttention) for b in model.blocks] == [False, True, False]
    assert chosen("all", 3) == [0, 1, 2] and chosen("0-1,2", 3) == [0, 1, 2]


def test_thresholds_and_shifts_do_not_decay():
    model = reparameterize(vit(), attention="hashed_linear", mlp="shift:format=ps5,learn=shifts")
    kept = model.no_weight_decay()
    assert {"pos_embed", "blocks.0.attn.core.q_bits.threshold", "blocks.2.mlp.fc1.weights.shift"} <= kept


def test_a_hash_that_was_never_fitted_is_refused(tmp_path):
    from safetensors.torch import save_file

    model = reparameterize(vit(), attention="hashed_linear:quantiser=ksh")
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    options = options_of(vit()) | {"img_size": 64, "attention": "hashed_linear:quantiser=ksh"}
    with pytest.raises(InputError, match="never fitted"):
        load("reparameterized_vit", weights=tmp_path / "w.safetensors", **options)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"attention": "cosine"}, "unknown attention 'cosine'; known: hashed_linear, sigmoid, softmax"),
        ({"mlp": "binary"}, "unknown linear variant 'binary'; known: linear, mixture, shift"),
        ({"attention": "sigmoid:slope=2"}, "its options: bias"),
        ({"mlp": "mixture:ratio"}, "'ratio' is no option"),
        ({"mlp": "mixture:ratio=-1"}, "ratio -1; allowed: above 0"),
        ({"blocks": "1-9", "mlp": "shift"}, "blocks '1-9'; allowed: 0 to 2"),
        ({"blocks": "first", "mlp": "shift"}, "blocks 'first'; allowed: all, or numbers"),
    ],
)
def test_a_wrong_word_is_named(words: dict[str, str], said: str):
    with pytest.raises(InputError, match=said):
        reparameterize(vit(), **words)


def test_what_cannot_be_told_in_words_is_refused():
    with pytest.raises(InputError, match="this is a Eva"):
        reparameterize(timm.create_model("eva02_tiny_patch14_224", img_size=56, depth=1))
    with pytest.raises(InputError, match="converted already"):
        reparameterize(vit(), mlp="shift").convert(mlp="shift")
    odd = timm.create_model("vit_tiny_patch16_224", **SMALL)
    odd.head = nn.Sequential(nn.Linear(48, 5))
    with pytest.raises(InputError, match="the head is a Sequential"):
        reparameterize(odd)
    with pytest.raises(InputError, match=r"attn_drop_rate is 0\.1"):
        ReparameterizedViT(**SMALL, attn_drop_rate=0.1, attention="sigmoid")


@pytest.mark.slow
def test_a_mixture_in_int8_goes_by_the_same_routes(tmp_path):
    if (reason := RUNTIMES["openvino"].why_not("int8")) is not None:
        pytest.skip(reason)
    model, x = converted({"attention": "hashed_linear", "mlp": "mixture:ratio=3"}), images(16)
    path = RUNTIMES["openvino"].build(
        adapt(model), tmp_path, shape=(1, 3, 64, 64), precision="int8", calibration=x.numpy()
    )  # fmt: skip
    run = RUNTIMES["openvino"].load(path, precision="int8", threads=1)
    found = torch.cat([torch.from_numpy(run(x[i : i + 1].numpy())) for i in range(16)])
    wanted = model(x).detach()
    assert (found - wanted).square().sum() < 0.05 * wanted.square().sum()
