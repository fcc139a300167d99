"""Training: the same losses after kill -9, over several processes, and one clear line for whatever is wrong."""

import csv
import io
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer

from foveate.adapters import adapt
from foveate.adapters.load import load
from foveate.errors import InputError, NotAvailable
from foveate.models.iret import IRET
from foveate.plans import Step
from foveate.train import Augment, Classify, Distil, Incremental, MatchTokens, Recipe, Through, load_recipe, train
from foveate.train.data import Samples, order, seeded, share
from foveate.train.examples import find_split
from foveate.train.parts import preprocess_of
from foveate.train.recipe import changed
from foveate.train.tasks import outputs

COLOURS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (200, 50, 40)}


def photograph(colour, seed):
    rng = np.random.default_rng(seed)
    noisy = np.asarray(COLOURS[colour]) + rng.normal(0, 40, (40, 48, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def colours(tmp_path_factory):
    """Photographs of three colours: train/COLOUR/*.png, val/COLOUR/*.png."""
    root = tmp_path_factory.mktemp("colours")
    for split, count in (("train", 16), ("val", 4)):
        for c, colour in enumerate(COLOURS):
            (root / split / colour).mkdir(parents=True)
            for i in range(count):
                photograph(colour, 100 * c + i + 50 * (split == "val")).save(root / split / colour / f"{i:02}.png")
    return root


def small(classes):
    return VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=classes)


def incremental(classes):
    """What an operating point is drawn for at every step, and stochastic depth: resumed, the same numbers are drawn."""
    return IRET(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, num_classes=classes, drop_path_rate=0.2)


def recipe(data, **more):
    values = {
        "model": small, "data": str(data), "image_size": 32, "epochs": 2, "batch": 8, "lr": 2e-3, "workers": 0,
        "precision": "fp32", "task": Classify(0.0), "augment": Augment(scale=(0.5, 1.0)),
    }  # fmt: skip
    return Recipe(**values | more)


def losses(out, what="loss"):
    with (out / "log.csv").open(newline="") as file:
        return [
            (int(r["step"]), r["name"], float(r["value"])) for r in csv.DictReader(file) if r["name"].startswith(what)
        ]


def test_it_learns_and_leaves_what_it_says(colours, tmp_path):
    done = train(recipe(colours, epochs=4, ema=0.5), tmp_path / "run")
    assert done.best_score > 90 and done.steps == 4 * 6 and done.unreadable == 0
    assert {"last.pt", "log.csv", "best.safetensors", "best.json"} <= {p.name for p in done.out.iterdir()}
    told = losses(done.out)
    assert [step for step, _, _ in told] == list(range(1, 25)) and told[-1][2] < told[0][2]
    model = small(3)
    model.load_state_dict(load_file(done.best))


def test_a_zip_is_a_folder(colours, tmp_path):
    with zipfile.ZipFile(tmp_path / "colours.zip", "w") as archive:
        for path in sorted(colours.rglob("*.png")):
            archive.write(path, path.relative_to(colours))
    runs = [
        train(recipe(data, epochs=1), tmp_path / str(i)) for i, data in enumerate((colours, tmp_path / "colours.zip"))
    ]
    assert losses(runs[0].out) == losses(runs[1].out)


def shards(colours, root):
    """Two shards a split."""
    root.mkdir()
    (root / "classes.txt").write_text("\n".join(sorted(COLOURS)) + "\n")
    for split in ("train", "val"):
        paths = sorted((colours / split).rglob("*.png"))
        for part in (0, 1):
            with tarfile.open(root / f"{split}-{part}.tar", "w") as archive:
                for i, path in enumerate(paths):
                    if i * 2 // len(paths) == part:
                        key = path.relative_to(colours / split).with_suffix("").as_posix()
                        for name, data in (
                            (f"{key}.png", path.read_bytes()),
                            (f"{key}.cls", str(sorted(COLOURS).index(path.parent.name)).encode()),
                        ):
                            info = tarfile.TarInfo(name)
                            info.size = len(data)
                            archive.addfile(info, io.BytesIO(data))
    return root


def test_shards_are_read_as_folders_are(colours, tmp_path):
    root = shards(colours, tmp_path / "shards")
    runs = [train(recipe(data, epochs=1), tmp_path / str(i)) for i, data in enumerate((colours, root))]
    assert losses(runs[0].out) == losses(runs[1].out)
    (root / "classes.txt").write_text("blue\ngreen\n")
    with pytest.raises(InputError, match=r"holds class 2; allowed by .*classes\.txt: 0 to 1"):
        train(recipe(root), tmp_path / "x")
    (root / "train-1.tar").write_bytes((root / "train-1.tar").read_bytes()[:700])
    with pytest.raises(InputError, match=r"train-1\.tar"):
        train(recipe(root), tmp_path / "x")


def test_a_hugging_face_data_set_is_read_as_folders_are(colours, tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"photo": datasets.Image(), "colour": datasets.ClassLabel(names=sorted(COLOURS))})
    splits = {}
    for split in ("train", "val"):
        paths = sorted((colours / split).rglob("*.png"))
        rows = {"photo": [str(p) for p in paths], "colour": [sorted(COLOURS).index(p.parent.name) for p in paths]}
        splits[split] = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    runs = [
        train(recipe(data, epochs=1), tmp_path / str(i)) for i, data in enumerate((colours, f"hf:{tmp_path / 'saved'}"))
    ]
    assert losses(runs[0].out) == losses(runs[1].out)
    with pytest.raises(InputError, match="has no split test; it has: train, val"):
        train(recipe(f"hf:{tmp_path / 'saved'}", val="test"), tmp_path / "x")
    with pytest.raises((InputError, NotAvailable), match="hf:no/such"):
        train(recipe("hf:no/such"), tmp_path / "x")


def test_parts_of_a_step_add_up(colours, tmp_path):
    whole = train(recipe(colours, epochs=1), tmp_path / "a")
    parts = train(recipe(colours, epochs=1, accumulate=4), tmp_path / "b")
    a, b = (np.array([v for _, _, v in losses(run.out)]) for run in (whole, parts))
    np.testing.assert_allclose(a, b, rtol=2e-4)


def test_decoding_processes_change_nothing(colours, tmp_path):
    alone = train(recipe(colours, epochs=1), tmp_path / "a")
    helped = train(recipe(colours, epochs=1, workers=2), tmp_path / "b")
    assert losses(alone.out) == losses(helped.out)


def test_two_classifiers_are_both_taught(colours, tmp_path):
    from foveate.models.vittm import ViTTM

    def made(classes):
        return ViTTM(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=classes)

    done = train(recipe(colours, model=made, epochs=1), tmp_path / "run")
    assert {name for _, name, _ in losses(done.out)} == {"loss memory", "loss process"}
    assert set(done.last) == {"top-1 label"}  # in eval mode one of them answers


@pytest.mark.parametrize(
    "task", [Distil(small(3), weight=0.5), MatchTokens(small(3), blocks=(0, 1))], ids=["logits", "tokens"]
)
def test_a_teacher_is_listened_to_and_not_changed(colours, tmp_path, task):
    before = [p.clone() for p in task.teacher.model.parameters()]
    done = train(recipe(colours, task=task, epochs=1), tmp_path / "run")
    assert len({name for _, name, _ in losses(done.out)}) == 2
    assert all(torch.equal(a, b) for a, b in zip(before, task.teacher.model.parameters(), strict=True))


def test_one_model_is_taught_for_every_operating_point(colours, tmp_path):
    torch.manual_seed(0)
    done = train(recipe(colours, model=incremental, task=Incremental(least=0.3, warm=0.5), epochs=4), tmp_path / "run")
    at = lambda what: {step for step, name, _ in losses(done.out) if name == f"loss {what}"}
    assert at("exit 1") == at("exit 2") == set(range(1, 25))
    assert at("drawn") == set(range(13, 25))  # after the warm-up
    assert set(done.last) == {"top-1 whole", "top-1 least"} and done.best_score > 60
    found = [value for _, _, value in losses(done.out, "top-1")]  # whole and least, an epoch after the other
    assert done.best_score == max((a + b) / 2 for a, b in zip(found[::2], found[1::2], strict=True))


def test_a_plan_is_taught_to_the_weights_that_run_through_it(colours, tmp_path):
    steps = [Step(block=0, method="evit", tokens=9)]
    task = Through(steps, Classify(0.0))
    made = recipe(colours, task=task, epochs=3, ema=0.5)
    assert made.fingerprint() != recipe(colours, task=Through([]), epochs=3, ema=0.5).fingerprint()
    done = train(made, tmp_path / "run")
    model = small(3)
    model.load_state_dict(load_file(done.best))  # the model's own weights and keys
    photos = [photograph(c, 100 * i + n + 50) for i, c in enumerate(COLOURS) for n in range(4)]
    pre = preprocess_of(small(3), 32)
    x, labels = torch.from_numpy(np.stack([pre(p) for p in photos])), torch.arange(3).repeat_interleave(4)
    with torch.no_grad():
        right = (adapt(model.eval(), steps)(x).argmax(1) == labels).float().mean()
        assert not torch.equal(adapt(model, steps)(x), model(x))
    assert 100 * float(right) == pytest.approx(done.best_score)
    assert not list(task.parameters())


def test_options_may_be_lists_and_come_back(colours, tmp_path):
    options = {"patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2, "transitions": (0, 1)}
    made = recipe(colours, model="iret_residual_tiny_patch16_224", options=options, task=Incremental(), epochs=1)
    done = train(made, tmp_path / "run")
    assert load(str(done.out)).model.transitions == (0, 1)
    with pytest.raises(InputError, match=r"transitions=\['x'\]; allowed: .* list of whole numbers"):
        load(str(done.out), transitions=["x"])


def test_shares_become_counts():
    point = Incremental.point(incremental(3), 0.5, 0.25)
    assert point.keep == (8, 4) and point.focus == (2, 1)
    with pytest.raises(InputError, match="least is 0; allowed: above 0 to 1"):
        Incremental(least=0.0)


# Broken off.

SCRIPT = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_train import incremental, recipe
from foveate.train import Incremental, train
steps = 0
def progress(stage, share, text):
    global steps
    steps += 1
    if steps == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
made = recipe({data!r}, model=incremental, task=Incremental(warm=0.2), epochs=3, ema=0.9, augment={{"mixup": 0.4}})
train(made, sys.argv[1], resumed=len(sys.argv) > 3, progress=progress, save_seconds=0.0)
"""


def test_killed_and_resumed_it_ends_with_the_same_losses(colours, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent), data=str(colours)))
    run = lambda out, steps, *more: subprocess.run(
        [sys.executable, script, tmp_path / out, str(steps), *more], timeout=300
    )
    assert run("whole", 0).returncode == 0
    assert run("broken", 8).returncode == -signal.SIGKILL
    assert run("broken", 0, "resume").returncode == 0
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    a, b = (torch.load(tmp_path / out / "last.pt", weights_only=True)["parts"] for out in ("broken", "whole"))
    assert all(torch.equal(a["model"][k], v) for k, v in b["model"].items())


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(colours, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        SCRIPT.format(tests=str(Path(__file__).parent), data=str(colours)).replace(', augment={"mixup": 0.4}', "")
    )
    assert subprocess.run([sys.executable, script, tmp_path / "one", "0"], timeout=300).returncode == 0
    options = {"num_processes": 2, "num_machines": 1, "mixed_precision": "no", "dynamo_backend": "no"}
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu"]
    launch += [word for k, v in options.items() for word in (f"--{k}", str(v))]
    assert subprocess.run([*launch, script, tmp_path / "two", "0"], timeout=300).returncode == 0
    a, b = (np.array([v for _, _, v in losses(tmp_path / run)]) for run in ("one", "two"))
    np.testing.assert_allclose(a, b, rtol=1e-3)


def test_batches_are_the_same_for_any_number_of_processes():
    batches = order(50, 8, seed=3, epoch=2)
    assert len(batches) == 6 and len({i for b in batches for _, i in b}) == 48
    parts = [share(batches, i, 2) for i in range(2)]
    assert [a + b for a, b in zip(*parts, strict=True)] == batches
    assert order(50, 8, seed=3, epoch=1) != batches


def test_an_image_depends_on_seed_epoch_and_index_alone(colours):
    photographs = find_split(colours, None, ("train",))
    samples = Samples(photographs, lambda image, label: (torch.rand(3), label), seed=1)
    state = torch.get_rng_state()
    first = samples[0, 5][0]
    samples[0, 6]
    assert torch.equal(samples[0, 5][0], first) and not torch.equal(samples[1, 5][0], first)
    assert torch.equal(torch.get_rng_state(), state)
    with seeded(1), seeded(2):
        pass


# What is wrong.


def copied(colours, to):
    return shutil.copytree(colours, to)


def test_classes_that_differ_are_named(colours, tmp_path):
    root = copied(colours, tmp_path / "data")
    (root / "val" / "red").rename(root / "val" / "pink")
    with pytest.raises(InputError, match=r"differ in 2 classes: red \(in .*train alone\), pink \(in .*val alone\)"):
        train(recipe(root), tmp_path / "run")


def test_an_empty_class_is_named(colours, tmp_path):
    root = copied(colours, tmp_path / "data")
    for path in (root / "train" / "red").iterdir():
        path.rename(path.with_suffix(".txt"))
    with pytest.raises(InputError, match=r"class folders without photographs in .*train: red"):
        train(recipe(root), tmp_path / "run")


def test_no_data_is_told(tmp_path):
    with pytest.raises(InputError, match=r"has no photographs in train or training; allowed: SPLIT/CLASS/photo.jpg"):
        train(recipe(tmp_path), tmp_path / "run")
    with pytest.raises(InputError, match=r"data is \$NOWHERE/x: a variable in it is not set"):
        train(recipe("$NOWHERE/x"), tmp_path / "run")


def test_unreadable_images_are_counted_and_named_and_too_many_stop_it(colours, tmp_path):
    root, told = copied(colours, tmp_path / "data"), []
    (root / "train" / "red" / "03.png").write_bytes(b"not an image")
    done = train(recipe(root, unreadable=0.05, epochs=1), tmp_path / "a", progress=lambda *a: told.append(a[2]))
    assert done.unreadable == 1 and any("replaced: " in t and "red/03.png" in t for t in told)
    with pytest.raises(
        InputError, match=r"1 training images could not be read, more than 1.0% of 48; last: .*red/03.png"
    ):
        train(recipe(root, unreadable=0.01, epochs=1), tmp_path / "b")


class Diverging(VisionTransformer):
    calls = 0

    def forward(self, x):
        type(self).calls += self.training
        return super().forward(x) * (float("nan") if self.training and type(self).calls == 4 else 1.0)


def test_a_loss_that_is_not_finite_stops_it_and_the_checkpoint_is_good(colours, tmp_path):
    Diverging.calls = 0
    made = lambda classes: Diverging(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=classes)
    with pytest.raises(InputError, match=r"not finite at step 4 \(epoch 1\): label nan; .*last.pt is the last good"):
        train(recipe(colours, model=made), tmp_path / "run", save_seconds=0.0)
    content = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert content["position"]["step"] == 3
    assert all(torch.isfinite(v).all() for v in content["parts"]["model"].values())


def test_what_cannot_be_resumed_is_told(colours, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(InputError, match="nothing to resume"):
        train(recipe(colours), out, resumed=True)
    train(recipe(colours, epochs=1), out)
    with pytest.raises(InputError, match="holds a run already"):
        train(recipe(colours, epochs=1), out)
    with pytest.raises(InputError, match=r"is of recipe .*: resume with the recipe it was made with"):
        train(recipe(colours, epochs=1, lr=1e-4), out, resumed=True)

    def wider(classes):
        return VisionTransformer(img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=2, num_classes=classes)

    wider.__qualname__ = small.__qualname__
    with pytest.raises(InputError, match="is of another model"):
        train(recipe(colours, epochs=1, model=wider), out, resumed=True)
    (out / "last.pt").write_bytes((out / "last.pt").read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be read"):
        train(recipe(colours, epochs=1), out, resumed=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("epoch=3", "unknown key 'epoch' of a recipe; known: .*epochs"),
        ("epochs", "'epochs' is no change of a recipe; allowed: key=value"),
        ("epochs=0", "recipe: epochs is 0: Input should be greater than or equal to 1"),
        ("augment.mixup=-1", "augment.mixup is -1"),
        ("task=3", "task of this recipe is Python"),
    ],
)
def test_wrong_changes_are_named(colours, change, message):
    with pytest.raises(InputError, match=message):
        changed(recipe(colours), [change])


def test_a_recipe_file_and_its_changes(colours, tmp_path):
    file = tmp_path / "mine.py"
    values = f"model='vit_tiny_patch16_224', data={str(colours)!r}, epochs=9, batch=8, lr=1e-3"
    file.write_text(f"from foveate.train import Recipe\nrecipe = Recipe({values})\n")
    made = load_recipe(file, ["epochs=2", "augment.scale=(0.5, 1.0)", "ema=0.9", "model=deit_tiny_patch16_224"])
    assert (made.epochs, made.augment.scale, made.ema, made.model) == (2, (0.5, 1.0), 0.9, "deit_tiny_patch16_224")
    assert made.fingerprint() != load_recipe(file).fingerprint() == load_recipe(file, ["workers=0"]).fingerprint()
    (tmp_path / "empty.py").write_text("x = 1\n")
    for name, message in (("empty.py", "has no `recipe`"), ("none.py", "no such file")):
        with pytest.raises(InputError, match=message):
            load_recipe(tmp_path / name)


@pytest.mark.parametrize("batch, accumulate", [(9, 2), (6, 4)])
def test_a_batch_that_cannot_be_divided_is_told(colours, tmp_path, batch, accumulate):
    with pytest.raises(InputError, match=f"batch is {batch}; allowed with 1 processes and {accumulate} parts each"):
        train(recipe(colours, batch=batch, accumulate=accumulate), tmp_path / "run")


def test_smoothing_and_binary_losses():
    y, logits = torch.eye(3), torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    want = torch.nn.functional.cross_entropy(logits, torch.arange(3), label_smoothing=0.1)
    torch.testing.assert_close(Classify(0.1).loss(logits, y), want)
    p = logits.sigmoid()
    want = -(y * p.log() + (1 - y) * (1 - p).log()).sum(1).mean()
    torch.testing.assert_close(Classify(0.0, binary=True).loss(logits, y), want)
    assert list(outputs((1, 2))) == ["memory", "process"]
