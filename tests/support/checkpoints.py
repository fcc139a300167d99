"""The small ViT that tests of loading write into files."""

from safetensors.torch import save_file

NAME = "vit_tiny_patch16_224"
SMALL = {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2}
EIGHT = {**SMALL, "num_classes": 8}


def saved(folder, state):
    """A file of these tensors."""
    save_file(state, folder / "changed.safetensors")
    return folder / "changed.safetensors"
