"""An embedding model: a ViT without its classifier, judged by whose neighbours stay; it finds photographs alike.

python examples/embedding.py vit_tiny.safetensors photos/ photo.jpg
"""

import sys

import foveate


def main(weights, data, photo, **more):
    foveate.fit(
        "vit_tiny_patch16_224", weights=weights, options={"num_classes": 0}, data=data, out="embedder",
        budget=foveate.Budget(max_drop=2.0), **more,
    )  # fmt: skip
    model = foveate.open("embedder")
    assert model.gallery is not None
    for name, cosine in model.gallery.nearest(model.embed([photo])[0], 5):  # among those that the search saw
        print(f"{cosine:.3f} {name}")


if __name__ == "__main__":
    main(*sys.argv[1:])
