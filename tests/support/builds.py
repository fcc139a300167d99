"""What runtimes are tried on: a small image, and runtimes of somebody else's."""

IMAGE = (3, 64, 64)
PLUGIN = '''
import threading, numpy as np
from pathlib import Path
from foveate.runtimes import RUNTIMES, Runner, Runtime

@RUNTIMES.register("plugin")
class Plugin(Runtime):
    packages = ("numpy",)
    suffix = ".main"

    @classmethod
    def _why_not(cls, precision, device):
        return None

    @classmethod
    def _build(cls, model, target, *, shape, precision, device, calibration):
        from foveate.runtimes._export import onnx_file
        target.with_suffix(".shape").write_text(repr(shape))
        graph = onnx_file(model, shape, target.with_suffix(".onnx"))
        target.write_text(str(graph))

    @classmethod
    def _load(cls, path, *, precision, threads, device, shape):
        import onnxruntime as ort
        session = ort.InferenceSession(path.read_text())
        return Runner(lambda x: session.run(None, {"x": x})[0], eval(path.with_suffix(".shape").read_text()))

@RUNTIMES.register("spinning")
class Spinning(Plugin):
    """Its loading starts a thread that never rests, as a pool may."""

    @classmethod
    def _load(cls, path, *, precision, threads, device, shape):
        def spin():
            while True:
                np.sort(np.zeros(100_000))  # lets go of the lock
        threading.Thread(target=spin, daemon=True).start()
        return Runner(lambda x: x, (None,))

@RUNTIMES.register("dying")
class Dying(Plugin):
    @classmethod
    def _load(cls, path, *, precision, threads, device, shape):
        import os, sys
        def die(x):
            print("a library's last words", file=sys.stderr, flush=True)
            os._exit(7)
        return Runner(die, (None,))
'''
