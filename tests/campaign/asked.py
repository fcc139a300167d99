"""Commands that trials break into: the smallest that do the whole work, on a thread each, for two run side by side."""

SMALL = (
    "vit_tiny_patch16_224", "--random-weights", "--model-option", "depth=2", "--model-option", "embed_dim=48",
    "--model-option", "img_size=64", "--runtime", "eager", "--threads", "1",
)  # fmt: skip
FIT = (
    "fit", *SMALL, "--precision", "fp32", "--method", "tome", "--images", "40", "--seconds", "5", "--max-drop", "100",
    "--fresh",
)  # fmt: skip
# A model of a size at which a plan is found, or nothing would be measured and verified; --fresh where its profile
# is what a trial breaks into: the others take the one that is there.
FASTER = (
    "fit", "vit_tiny_patch16_224", "--random-weights", "--model-option", "depth=4", "--runtime", "eager",
    "--threads", "1", "--precision", "fp32", "--method", "uniform", "--images", "40", "--seconds", "5",
    "--max-drop", "100",
)  # fmt: skip
STAGES = ("load", "dense", "profile", "plan", "measure", "verify", "write")
EXPORT = ("export", "--runtime", "onnxruntime")
PROFILE = ("profile", *SMALL, "--seconds", "2", "--fresh")
RECIPE = """
import sys
sys.path.insert(0, {tests!r})
from support.lessons import recipe as made
recipe = made({data!r}, model="test_vit", image_size=160, epochs=2, workers={workers}, ema=0.9)
"""
