"""Your own token-reduction method, in 20 lines, against ToMe at the same measured latency.

python examples/own_method.py                                    # the bundled model and photographs, three minutes
foveate compare --plugin examples/own_method.py --method longest --method tome   # the same from the command line
"""

import foveate
from foveate.methods import METHODS, Scorer


@METHODS.register("longest")
class Longest(Scorer):
    """Keeps the patches whose tokens are longest."""

    def score(self, tokens, signals):
        return tokens.x[:, tokens.prefix :].norm(dim=-1)


if __name__ == "__main__":
    rows = foveate.compare(
        methods=("longest", "tome"), levels=(0.75,), runtime="onnxruntime", precision="fp32", images=100, seconds=240,
        out="own-method", say=print,
    )  # fmt: skip
    for row in rows:
        print(f"{row['method']:>8}: {row['speedup']:.3f} times faster, {row['agreement']:.1f} % of the answers stay")
