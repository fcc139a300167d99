"""Where builds land: each in a folder of its own, whatever an earlier bench left."""

import timm
import torch

from foveate.fitting.bench import Bench
from foveate.loading.described import model_ref
from foveate.target import Target


def test_a_bench_in_the_place_of_one_whose_process_died_builds_beside_its_files(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, embed_dim=24, num_heads=2, num_classes=3)
    target = Target(runtime="onnxruntime", precision="fp32", threads=1)
    files = []
    for _ in range(2):
        with Bench(model.eval(), model_ref(model), tmp_path, target) as bench:
            files.append(bench.add("dense").file)
    assert files[0] != files[1] and all(file.exists() for file in files)
