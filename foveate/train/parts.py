"""What a recipe's words stand for: timm's models, transforms, optimisers, schedules, averages and MixUp."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from foveate.errors import InputError
from foveate.evaluate.masks import VOID
from foveate.preprocess import Preprocess
from foveate.train.recipe import Recipe


def build(recipe: Recipe, classes: int) -> nn.Module:
    """The model, with the weights that the recipe starts from."""
    model = _built(recipe, classes)
    if recipe.start is not None:
        recipe.start(model)
    return model


def _built(recipe: Recipe, classes: int) -> nn.Module:
    if not isinstance(recipe.model, str):
        return recipe.model(classes)
    import timm

    import foveate.models  # noqa: F401  puts ours into timm's registry

    if not timm.is_model(recipe.model):
        raise InputError(f"unknown model {recipe.model!r}; known: timm's models and foveate.models")
    options: dict[str, Any] = {"num_classes": classes, "img_size": recipe.image_size, **recipe.options}
    return timm.create_model(recipe.model, **options)


def preprocess_of(model: nn.Module, size: int) -> Preprocess:
    """As the model's weights were trained, at the size that this run trains at."""
    from timm.data.config import resolve_model_data_config

    return Preprocess.from_timm({**resolve_model_data_config(model), "input_size": (3, size, size)})


def optimizer_of(recipe: Recipe, model: nn.Module, task: nn.Module) -> torch.optim.Optimizer:
    from timm.optim._optim_factory import create_optimizer_v2

    made = create_optimizer_v2(
        model, opt=recipe.optimizer, lr=recipe.lr, weight_decay=recipe.weight_decay, layer_decay=recipe.layer_decay
    )
    if own := [p for p in task.parameters() if p.requires_grad]:
        made.add_param_group({"params": own, "lr": recipe.lr, "weight_decay": recipe.weight_decay})
    return made


def schedule_of(recipe: Recipe, optimizer: Any, per_epoch: int) -> Any:
    from timm.scheduler.scheduler_factory import create_scheduler_v2

    made, _ = create_scheduler_v2(
        optimizer, sched=recipe.schedule, num_epochs=recipe.epochs, min_lr=recipe.min_lr, warmup_lr=recipe.min_lr,
        warmup_epochs=recipe.warmup_epochs, step_on_epochs=False, updates_per_epoch=per_epoch,
    )  # type: ignore[arg-type]  # fmt: skip
    return made


def average_of(recipe: Recipe, model: nn.Module) -> Any:
    if recipe.ema is None:
        return None
    from timm.utils.model_ema import ModelEmaV3

    return ModelEmaV3(model, decay=recipe.ema)


def mix_of(recipe: Recipe, classes: int) -> Any:
    a = recipe.augment
    if not a.mixup and not a.cutmix:
        return None
    from timm.data.mixup import Mixup

    return Mixup(mixup_alpha=a.mixup, cutmix_alpha=a.cutmix, label_smoothing=0.0, num_classes=classes)


def augmented(recipe: Recipe, pre: Preprocess) -> Callable[[Any], Tensor]:
    """A training photograph -> [3 h w], normalised as the model wants it."""
    from timm.data.transforms_factory import create_transform

    a = recipe.augment
    return create_transform(
        pre.size, is_training=True, scale=a.scale, hflip=a.flip, color_jitter=a.color_jitter,
        auto_augment=a.auto_augment, re_prob=a.erase, interpolation="bicubic", mean=pre.mean, std=pre.std,
    )  # type: ignore[return-value]  # fmt: skip


class augmented_masks:  # reads as `augmented` does
    """A training photograph and its mask -> [3 w w], normalised, and int64 [w w]: scaled, cropped and flipped alike."""

    def __init__(self, recipe: Recipe, pre: Preprocess) -> None:
        from torchvision.transforms import v2
        from torchvision.tv_tensors import Image, Mask

        a, window = recipe.augment, pre.size[0]
        sides = [max(8, round(window * z)) for z in torch.linspace(*a.zoom, 31).tolist()]
        mean = [round(255 * m) for m in pre.mean]
        self.together = v2.Compose(
            [
                v2.RandomShortestSize(sides, antialias=True),
                v2.RandomCrop((window, window), pad_if_needed=True, fill={Image: mean, Mask: VOID}),  # type: ignore[arg-type]
                v2.RandomHorizontalFlip(a.flip),
                *([v2.RandomPhotometricDistort()] if a.color_jitter else []),
                v2.ToDtype({Image: torch.float32, Mask: torch.int64}, scale=True),
                v2.Normalize(list(pre.mean), list(pre.std)),
            ]
        )

    def __call__(self, image: Any, mask: Any) -> tuple[Tensor, Tensor]:
        from torchvision.transforms.v2.functional import pil_to_tensor
        from torchvision.tv_tensors import Image, Mask

        x, y = self.together(Image(pil_to_tensor(image)), Mask(torch.from_numpy(mask)))
        return x.as_subclass(Tensor), y.as_subclass(Tensor)
