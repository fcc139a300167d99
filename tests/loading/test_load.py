"""Loading models: what fits is loaded whole, what does not is refused with its name, and random weights say so."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from support.checkpoints import EIGHT, NAME, SMALL, saved
from timm.models.vision_transformer import VisionTransformer

from foveate.adapters import describe
from foveate.errors import InputError, NotAvailable
from foveate.loading import bundled, hub
from foveate.loading.bundled import BUNDLED, BUNDLED_CLASSES, BUNDLED_FILE
from foveate.loading.card import CARD, Card
from foveate.loading.load import load, model_ref, sha256_of
from foveate.preprocess import Preprocess


def test_a_file_is_loaded_whole_and_its_head_tells_the_classes(file, state):
    loaded = load(NAME, weights=file, **SMALL)
    assert all(torch.equal(v, state[k]) for k, v in loaded.model.state_dict().items())
    assert not loaded.model.training
    assert loaded.ref.weights == "file"
    assert loaded.ref.kwargs == EIGHT
    assert (loaded.ref.tokens, loaded.ref.depth, loaded.ref.prefix) == (5, 2, 1)
    assert loaded.classes is None
    assert loaded.note is None


def test_the_digest_is_of_the_weights(file, state, tmp_path):
    first = load(NAME, weights=file, **SMALL)
    assert first.ref.sha256 == load(NAME, weights=str(file), **SMALL).ref.sha256 == sha256_of(first.model)
    state["norm.bias"][3] += 1
    assert load(NAME, weights=saved(tmp_path, state), **SMALL).ref.sha256 != first.ref.sha256
    renamed = torch.nn.ModuleDict({"other": first.model})
    assert sha256_of(renamed) != first.ref.sha256


def test_half_precision_files_are_float32_in_memory(tmp_path, state):
    half = {k: v.half() for k, v in state.items()}
    model = load(NAME, weights=saved(tmp_path, half), **SMALL).model
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.norm.weight, half["norm.weight"].float())


def test_preprocessing_is_the_weights_own_at_the_models_size(file):
    """AugReg normalises with 0.5, the default tag of this name; DeiT does not."""
    plain = load(NAME, weights=file, **SMALL).preprocess
    assert plain.mean == plain.std == (0.5, 0.5, 0.5)
    assert plain.size == (32, 32)
    assert plain.interpolation == "bicubic"
    deit = load("deit_tiny_patch16_224", random_weights=True, **SMALL).preprocess
    assert deit.mean == pytest.approx((0.485, 0.456, 0.406))


def test_random_weights_are_seeded_and_said_loudly():
    one, two = (load(NAME, random_weights=True, **EIGHT) for _ in range(2))
    assert one.ref.sha256 == two.ref.sha256 != load(NAME, random_weights=True, seed=1, **EIGHT).ref.sha256
    assert one.ref.weights == "random"
    assert one.note is not None
    assert one.note.startswith("random weights")
    torch.manual_seed(5)
    want = torch.rand(1)
    torch.manual_seed(5)
    load(NAME, random_weights=True, **EIGHT)
    assert torch.equal(torch.rand(1), want)  # the caller's random state is not touched


def test_a_thousand_classes_have_imagenets_names():
    loaded = load(NAME, random_weights=True, **SMALL)
    assert loaded.classes is not None
    assert len(loaded.classes) == 1000
    assert loaded.classes[0] == "tench, Tinca tinca"


def test_dinov3_is_given_the_one_size_that_a_schedule_needs():
    loaded = load("vit_small_patch16_dinov3", random_weights=True, **{**SMALL, "embed_dim": 64})
    assert loaded.ref.kwargs["dynamic_img_size"] is False
    assert loaded.ref.tokens == 4 + 5
    with pytest.raises(InputError, match="dynamic_img_size=True"):
        load("vit_small_patch16_dinov3", random_weights=True, dynamic_img_size=True, **SMALL)


def test_the_callers_own_model_has_a_reference_too():
    model = VisionTransformer(**EIGHT, patch_size=16)
    ref = model_ref(model)
    assert (ref.name, ref.weights, ref.tokens) == ("VisionTransformer", "object", 5)
    assert ref.sha256 == sha256_of(model)


# The bundled model.
def test_bundled_options_and_classes():
    loaded = load(random_weights=True, depth=1)
    assert loaded.ref.name == BUNDLED
    assert (loaded.ref.tokens, loaded.ref.kwargs["num_classes"]) == (197, 10)
    assert loaded.classes == BUNDLED_CLASSES
    assert loaded.preprocess.mean == (0.5, 0.5, 0.5)
    assert loaded.preprocess.crop_pct == pytest.approx(224 / 248)


def test_bundled_weights_load_or_say_what_is_missing(monkeypatch, tmp_path):
    (tmp_path / "assets").mkdir()
    monkeypatch.setattr(bundled.resources, "files", lambda package: tmp_path)
    with pytest.raises(InputError, match=f"{BUNDLED_FILE} are not part of this installation"):
        load()
    state = load(random_weights=True).model.state_dict()
    save_file({k: v.half() for k, v in state.items()}, tmp_path / "assets" / BUNDLED_FILE)
    loaded = load()
    assert loaded.ref.weights == "bundled"
    assert loaded.note is None


# Names and options.
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vit_tiny_patch16_225", {}, r"unknown model 'vit_tiny_patch16_225'; did you mean vit_tiny_patch16_224"),
        ("clothingvit", {}, "did you mean clothing_vit"),
        ("qqqqqqqqqqqq", {}, "foveate list models"),
        (f"{NAME}.nope", {}, r"Invalid pretrained tag \(nope\)"),
        ("resnet18", {}, r"no adapter for timm\.models\.resnet\.ResNet"),
        ("swin_tiny_patch4_window7_224", {}, "no adapter for .*SwinTransformer"),
        (NAME, {"speed": 3}, "unknown model option 'speed'; known: .*img_size"),
        (NAME, {"num_heads": 5}, f"cannot build {NAME} with num_heads=5"),
        (NAME, {"global_pool": "max"}, "pooling 'max' is not supported"),
        (NAME, {"num_classes": 2.5}, "num_classes=2.5; allowed: a whole number"),
        (NAME, {"num_classes": -1}, "num_classes=-1; allowed: a whole number"),
        (NAME, {"num_classes": True}, "num_classes=True; allowed: a whole number"),
        (NAME, {"depth": 0}, "the model has no blocks"),
        (NAME, {"embed_dim": "wide"}, f"cannot build {NAME} with embed_dim=wide"),
        (NAME, {"global_pool": ""}, "global_pool is '', which gives tokens and no answer; allowed: token, avg, map"),
        (NAME, {"checkpoint_path": "secret.pth"}, "checkpoint_path is timm's own; allowed: arguments of the model"),
        ("segmenter_vit_tiny_patch16_512", {"num_classes": 0}, "num_classes is 0 in a Segmenter; allowed: 1 or more"),
        ("iret_residual_tiny_patch16_224", {"num_classes": 0}, "num_classes is 0 in an IRET-style model"),
        (NAME, {"img_size": (32, 0.5)}, r"model option img_size=\(32, 0\.5\); allowed"),
    ],
)
def test_names_and_options_are_checked_before_anything_is_fetched(name, options, message):
    with pytest.raises(InputError, match=message) as e:
        load(name, random_weights=name != f"{NAME}.nope", **options)
    assert "\n" not in str(e.value)


def test_weights_and_random_weights_exclude_each_other(file):
    with pytest.raises(InputError, match="not both"):
        load(NAME, weights=file, random_weights=True)


# The hub.
def test_no_network_is_one_line_that_says_what_to_do(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        NotAvailable, match=r"weights of vit_tiny_patch16_224: no network.*--weights FILE.*--random-weights"
    ) as e:
        load(NAME)
    assert "\n" not in str(e.value)


def test_without_a_network_the_hub_is_not_waited_for(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub.urllib.request, "getproxies", dict)
    monkeypatch.setattr(hub.socket, "getaddrinfo", lambda *a: (_ for _ in ()).throw(OSError("no name")))
    with hub.no_waiting():
        assert constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE
    monkeypatch.setattr(hub.urllib.request, "getproxies", lambda: {"https": "proxy"})
    with hub.no_waiting():
        assert not constants.HF_HUB_OFFLINE


def test_a_model_without_published_weights_is_named():
    bare = next(n for n in timm.list_models("vit_*") if not timm.list_pretrained(f"{n}.*"))
    with pytest.raises(
        InputError, match=f"no pretrained weights '{bare}': timm has no weights for it|no adapter|block 0"
    ):
        load(bare, depth=1)


def test_hub_weights_are_taken_and_the_tag_written_down(monkeypatch):
    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained=False, **kwargs: real(name, False, **kwargs))
    ref = load(NAME, **EIGHT).ref
    assert (ref.name, ref.weights) == (f"{NAME}.augreg_in21k_ft_in1k", "hub")


# What a model answers with.
@pytest.mark.parametrize(
    ("name", "options", "outputs"),
    [
        (NAME, {}, "classes"),
        (NAME, {"num_classes": 1}, "classes"),  # yes or no
        (NAME, {"num_classes": 0}, "embedding"),
        ("deit_tiny_distilled_patch16_224", {"num_classes": 0}, "embedding"),
        ("vit_small_patch14_dinov2", {}, "embedding"),
        ("vit_small_patch16_dinov3", {}, "embedding"),
        ("vit_base_patch16_siglip_224", {}, "embedding"),
        ("vit_base_patch16_siglip_gap_224", {}, "embedding"),
        ("vit_base_patch16_clip_224.openai", {}, "embedding"),
        ("vit_base_patch16_clip_224", {"num_classes": 512}, "embedding"),  # as a file's projection says
        ("vit_base_patch16_clip_224.openai_ft_in1k", {}, "classes"),
        ("vit_base_patch16_clip_224.openai", {"num_classes": 10}, "classes"),
        ("eva02_base_patch16_clip_224", {}, "embedding"),
        ("vit_pe_core_tiny_patch16_384", {}, "embedding"),
        ("vit_tiny_patch16_224", {"num_classes": 512}, "classes"),  # no tower
        ("vittm_tiny_patch28_224", {"num_classes": 0}, "embedding"),
        ("iret_residual_tiny_patch16_224", {}, "classes"),
        ("segmenter_vit_tiny_patch16_512", {}, "masks"),
        ("dense_vit_small_patch14_dinov2", {"num_classes": 1}, "masks"),
    ],
)
def test_what_a_model_answers_with(name, options, outputs):
    with torch.device("meta"):
        model = timm.create_model(name, **options, **({"dynamic_img_size": False} if "dinov3" in name else {}))
    facts = describe(model)
    assert facts.outputs == outputs
    assert (facts.classes == 0) == (outputs == "embedding" and model.num_classes == 0)


def test_its_user_may_know_better_where_the_shape_allows():
    tell = lambda outputs, **more: load(NAME, random_weights=True, outputs=outputs, **{**EIGHT, **more}).outputs
    assert tell("embedding") == "embedding" and tell("classes") == tell(None) == "classes"
    assert tell("embedding", num_classes=0) == "embedding" and tell("classes", num_classes=1) == "classes"


@pytest.mark.parametrize(
    ("name", "options", "outputs", "message"),
    [
        (NAME, {}, "vectors", r"unknown outputs 'vectors'; known: classes, embedding, masks"),
        (NAME, {}, "masks", "outputs is 'masks', and this VisionTransformer has 8 values; allowed: classes, embedding"),
        (NAME, {"num_classes": 0}, "classes", "has no classes; allowed: embedding"),
        (NAME, {"num_classes": 1}, "embedding", "has 1 values; allowed: classes"),
        ("dense_vit_tiny_patch16_224", {}, "embedding", "this DenseViT has 8 masks; allowed: masks"),
    ],
)
def test_outputs_that_it_cannot_have_are_refused(name, options, outputs, message):
    with pytest.raises(InputError, match=message):
        load(name, random_weights=True, outputs=outputs, **{**EIGHT, **options})


# The real checkpoint.
@pytest.mark.data
def test_the_real_checkpoint_loads_strictly(data_root):
    from PIL import Image

    path = data_root / "weights" / f"{NAME}.augreg_in21k_ft_in1k.safetensors"
    loaded = load(NAME, weights=path)
    assert loaded.classes is not None
    assert (loaded.ref.tokens, loaded.ref.kwargs["num_classes"]) == (197, 1000)
    assert loaded.preprocess.crop_pct == pytest.approx(0.9)
    photo = Image.open(data_root / "hires" / "photo_truck_1800x1200.jpg")
    with torch.no_grad():
        logits = loaded.model(torch.from_numpy(loaded.preprocess(photo))[None])[0]
    best = [loaded.classes[i] for i in logits.topk(5).indices]
    assert any("truck" in name or "pickup" in name for name in best)


@pytest.fixture
def trained(tmp_path):
    """A folder as training leaves it."""
    options = {"embed_dim": 48, "depth": 2, "num_heads": 3}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=2, img_size=32, **options)
    pixels = Preprocess(size=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    card = Card(
        model="vit_tiny_patch16_224", options=options, classes=("cat", "dog"), image_size=32, preprocess=pixels,
        recipe="abc", epoch=3, scores={"top-1": 90.0},
    )  # fmt: skip
    save_file(model.state_dict(), Card.files(tmp_path).weights)
    card.write(tmp_path)
    return tmp_path, model, card


def test_a_run_brings_weights_preprocessing_and_names(trained):
    folder, model, card = trained
    found = load(str(folder))
    assert found.classes == ("cat", "dog") and found.preprocess == card.preprocess and found.ref.weights == "file"
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found.model(x), model.eval()(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: "{", "best.json is damaged: it: Invalid JSON"),
        (lambda card: card.replace('"epoch"', '"age"'), "best.json is damaged: epoch: Field required"),
        (lambda card: card.replace('"schema_version":1', '"schema_version":2'), "damaged: schema_version"),
        (lambda card: card.replace('"vit_tiny_patch16_224"', "null"), "made the model in Python"),
        (lambda card: card.replace('["cat","dog"]', "3"), "head.weight"),
    ],
)
def test_what_is_wrong_with_a_card_is_said(trained, change, message):
    folder, _, card = trained
    Card.files(folder).card.write_text(change(card.model_dump_json()))
    with pytest.raises(InputError, match=message):
        load(str(folder))


def test_the_card_in_the_weights_is_theirs_whatever_lies_beside(trained):
    """A run that was killed between the two files leaves an older card beside newer weights, or none."""
    folder, model, card = trained
    newer = card.model_copy(update={"classes": ("ant", "bee"), "epoch": 4})
    save_file(model.state_dict(), Card.files(folder).weights, {CARD: newer.model_dump_json()})
    assert load(str(folder)).classes == ("ant", "bee")
    Card.files(folder).card.unlink()
    assert load(str(folder)).classes == ("ant", "bee")
    save_file(model.state_dict(), Card.files(folder).weights, {CARD: "{"})
    with pytest.raises(InputError, match="is damaged: it: Invalid JSON"):
        load(str(folder))


def test_a_run_can_be_loaded_without_its_classifier(trained):
    found = load(str(trained[0]), num_classes=0)
    assert (found.outputs, found.classes, len(found.said)) == ("embedding", None, 1)
