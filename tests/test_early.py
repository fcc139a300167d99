"""Wrong arguments are told before anything heavy is imported."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "timm", "onnxruntime", "openvino", "scipy")
WRONG = {
    "a runtime": (["--runtime", "abacus"], "abacus"),
    "a precision": (["--precision", "fp3"], "fp3"),
    "a device": (["--device", "tpu"], "tpu"),
    "a method": (["--method", "tomee"], "tomee"),
    "a budget": (["--max-drop", "-1"], "--max-drop"),
    "two budgets": (["--latency-ms", "5", "--speedup", "2"], "not both"),
    "photographs": (["--data", "nowhere"], "nowhere"),
    "weights": (["--weights", "none.safetensors"], "none.safetensors"),
    "a type of weights": (["--weights", __file__], ".py"),
    "a folder": (["--out", __file__], "is a file"),
    "an option": (["--model-option", "img_size"], "NAME=VALUE"),
    "preprocessing": (["--preprocess", "mean"], "NAME=VALUE"),
    "a plugin": (["--plugin", "none.py"], "none.py"),
    "a script": (["--model-script", "none.py:build"], "none.py"),
}


OF_COMPARE = ("a runtime", "a method", "photographs", "weights", "an option", "preprocessing", "a script")


@pytest.mark.parametrize(("command", "what"), [("fit", w) for w in WRONG] + [("compare", w) for w in OF_COMPARE])
def test_what_is_wrong_is_told_at_once(command, what):
    words, told = WRONG[what]
    code = (
        "import sys, foveate.cli\n"
        f"sys.argv = ['foveate', {command!r}, *{words!r}]\n"
        "try:\n    foveate.cli.main()\n"
        f"finally:\n    print('heavy:', *(m for m in {HEAVY!r} if m in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and told in done.stderr, done.stderr
    assert done.stdout.split() == ["heavy:"]
