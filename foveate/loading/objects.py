"""A model that the caller built: what of it is a vision transformer that foveate takes, and what travels with it."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import nn

from foveate.adapters import adapted_class, describe, name_of
from foveate.errors import InputError
from foveate.loading import convert_hf
from foveate.loading.checks import outputs_of
from foveate.loading.convert import CONVERTERS
from foveate.loading.described import classes_of, model_ref, named, preprocess_of
from foveate.loading.loaded import Loaded
from foveate.loading.weights import check_finite
from foveate.preprocess import Preprocess

CLOSE = 1e-4  # of float32 answers that are the same but for the order of sums


def hold(
    module: nn.Module,
    *,
    preprocess: Preprocess | Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    outputs: str | None = None,
) -> Loaded:
    """A model object with all that has to travel with it, as `load` gives for a name. `module` stays as it is.

    A wrapper is taken off where the model in it answers alike: DataParallel, `torch.compile`, or any module that holds
    a vision transformer, or one and a classifier behind it. That is checked by running both.

    Args:
        preprocess: how photographs become its input; what it leaves out is as in timm's `pretrained_cfg`. Needed for
            a model that has none.
        classes: their names, by output index.
        outputs: as for `load`.

    Raises:
        InputError: no vision transformer that foveate takes, or one in a wrapper that does more; weights that are not
            finite; names or preprocessing that do not fit.
    """
    model, said, answer = inner(module)
    model = model.cpu().float().eval()
    facts = describe(model)
    check_finite(model.state_dict(), type(model).__name__)
    kind = outputs_of(facts, outputs or answer)
    if not getattr(model, "pretrained_cfg", None):
        given = set(preprocess.model_dump() if isinstance(preprocess, Preprocess) else preprocess or {})
        if not {"mean", "std"} <= given:
            raise InputError(
                f"a {facts.family} without pretrained_cfg does not say how photographs become its input; give "
                'preprocess={"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}, and crop_pct and interpolation where '
                "they differ from 0.875 and bicubic"
            )
    names = named(model, classes if classes is not None else classes_of(facts.family, model))
    return Loaded(
        model, model_ref(model), preprocess_of(facts.family, model).changed(preprocess), names, kind, said=said
    )


class Inner(NamedTuple):
    model: nn.Module  # the caller's own copy
    said: tuple[str, ...]
    outputs: str | None = None  # what it answers with, where its own shape does not tell


def inner(module: nn.Module) -> Inner:
    """A copy of the vision transformer in `module` that answers as `module` does.

    Raises:
        InputError: there is none, or what is around it changes the answers.
    """
    said = list[str]()
    while (name := next((n for n in ("_orig_mod", "module") if _wraps(module, n)), None)) is not None:
        said.append(f"took the {type(module).__name__} off")
        module = getattr(module, name)
    if adapted_class(type(module)) is not None:
        return Inner(deepcopy(module), tuple(said))
    if (convert := (CONVERTERS | convert_hf.CONVERTERS).get(name_of(type(module)))) is not None:
        model = convert(module)
        image = torch.randn(2, *describe(model).image, generator=torch.Generator().manual_seed(0))
        if not _same(_answer(model, image), _answer(module, image)):
            raise InputError(
                f"a {name_of(type(module))} like this one cannot be converted: timm's answers otherwise; allowed: "
                "timm's own"
            )
        told = f"converted the {name_of(type(module))} to timm's: its answers are the same"
        return Inner(model, (*said, told), convert_hf.outputs_of(module))
    found = list(_outermost(module))
    if len(found) != 1:
        what = f"{len(found)} of them: {', '.join(n for n, _ in found)}" if found else "none in it"
        raise InputError(
            f"{type(module).__name__} is no vision transformer that foveate takes, and holds {what}; give the model "
            "itself. `foveate list models` names the classes"
        )
    where, vit = found[0]
    image = torch.randn(2, *describe(vit).image, generator=torch.Generator().manual_seed(0))
    wanted = _answer(module, image)
    for name, head in ((None, None), *((n, m) for n, m in module.named_children() if m is not vit)):
        model: Any = deepcopy(vit)
        if head is not None:
            model.head = deepcopy(head)
        if _same(_answer(model, image), wanted):
            behind = "" if name is None else f", with its {name} as the classifier"
            said.append(f"took {where} out of the {type(module).__name__}{behind}: its answers are the same")
            return Inner(model, tuple(said))
    raise InputError(
        f"the {type(module).__name__} does more than {where}, the {type(vit).__name__} in it, and a classifier behind "
        f"it: they answer otherwise. Give .{where} itself, and what is done to images before it as preprocess"
    )


def _wraps(module: nn.Module, name: str) -> bool:
    kind = type(module).__name__
    return kind in ("DataParallel", "DistributedDataParallel", "OptimizedModule") and hasattr(module, name)


def _outermost(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        if adapted_class(type(child)) is not None:
            yield prefix + name, child
        else:
            yield from _outermost(child, f"{prefix}{name}.")


@torch.no_grad()
def _answer(module: nn.Module, image: torch.Tensor) -> object:
    copy = deepcopy(module).cpu().float().eval()
    try:
        return convert_hf.answer_of(copy, copy(image))
    except Exception:  # a candidate may not fit at all
        return None


def _same(a: object, b: object) -> bool:
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor) or a.shape != b.shape:
        return False
    return torch.allclose(a, b, rtol=CLOSE, atol=CLOSE)
