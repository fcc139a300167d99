"""A fine-tuned checkpoint as training scripts leave it: averaged weights, a prefix, another number of classes.

python examples/checkpoint.py checkpoint.pth vit_tiny_patch16_224 photos/
"""

import sys

import foveate


def main(checkpoint, name, data, **more):
    loaded = foveate.load(name, weights=checkpoint)  # number of classes, channels and pooling are read off the file
    print(*loaded.said, sep="\n")  # what was taken, what was left out
    budget = foveate.Budget(max_drop=1.0)
    outcome = foveate.fit(name, weights=checkpoint, data=data, budget=budget, out="fitted", **more)
    print(outcome.reason)
    model = foveate.open("fitted")
    print(model.plan.summary())


if __name__ == "__main__":
    main(*sys.argv[1:])
