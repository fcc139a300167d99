"""Which tensors of a checkpoint are the model's, and by which names: training scripts average, wrap and prefix them."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import Tensor, nn

from foveate.errors import InputError

# Where training scripts put weights, the first that is there being taken: averaged ones before raw ones, as timm does.
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "teacher", "target_encoder")
RAW = ("state_dict", "model", "model_state_dict", "net", "network", "module", "student", "encoder", "backbone")


class Tensors(NamedTuple):
    """Tensors by name, and what was done to have them, a line each for the user."""

    state: dict[str, Tensor]
    said: tuple[str, ...] = ()


def tensors_of(content: object) -> Tensors:
    """The state dict in what a file held, however deep training scripts put it.

    Raises:
        InputError: there is none, or several and no rule says which.
    """
    said, taken = list[str](), list[str]()
    if isinstance(content, nn.Module):
        said.append(f"the file holds a whole {type(content).__name__}; its state dict was taken")
        content = content.state_dict()
    while isinstance(content, Mapping) and not _is_state(content):
        able = [key for key in content if _holds_state(content[key])]
        named = [key for key in (*AVERAGED, *RAW) if key in able]
        if not named and len(able) != 1:
            held = ", ".join(map(repr, able)) if able else ", ".join(repr(k) for k in list(content)[:5]) or "nothing"
            raise InputError(
                f"hold {held}; allowed: tensors by name, plain or under one of {', '.join((*RAW[:4], *AVERAGED[:2]))}"
            )
        key = (named or able)[0]
        others = [str(k) for k in able if k != key]
        taken.append(str(key))
        average = " (the averaged weights, as timm takes them)" if key in AVERAGED else ""
        beside = f", not {', '.join(others)}" if others else ""
        if average or others:
            said.append(f"took {'.'.join(taken)}{average}{beside}")
        content = content[key]
    if not isinstance(content, Mapping):
        raise InputError(f"hold a {type(content).__name__}; allowed: tensors by name")
    state = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    if rest := [str(k) for k in content if str(k) not in state]:
        said.append(f"left out, as no tensors: {listed(rest)}")
    return Tensors(state, tuple(said))


def unprefixed(state: Mapping[str, Tensor], names: Iterable[str]) -> Tensors:
    """`state` under the model's own `names`, where all of them stand behind one prefix: `module.`, `model.`, or both.

    What stands behind another prefix, or none, is left out then, and said. Averaged weights go before raw ones.
    """
    own = set(names)
    counts = Counter[str]()
    for key in state:
        starts = [0, *(i + 1 for i, letter in enumerate(key) if letter == ".")]
        counts.update(key[:start] for start in starts if key[start:] in own)
    if not counts:
        return Tensors(dict(state))
    most = max(counts.values())
    ties = [prefix for prefix, count in counts.items() if count == most]
    average = [p for p in ties if any(word in p for word in ("ema", "teacher", "target", "momentum"))]
    prefix = "" if "" in ties else (average or ties)[0]
    if not prefix:
        return Tensors(dict(state))
    rest = [key for key in state if not key.startswith(prefix)]
    said = f"took {prefix!r} off the names"
    if others := [p for p in ties if p != prefix]:
        said += f", and not {', '.join(map(repr, others))}"
    if rest:
        said += f"; left out: {listed(rest)}"
    return Tensors({key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}, (said,))


def listed(names: Iterable[str], most: int = 3) -> str:
    """The first few, and how many more."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _is_state(content: Mapping[object, object]) -> bool:
    """Mostly tensors by name; some scripts put an epoch among them."""
    tensors = sum(isinstance(v, Tensor) for v in content.values())
    return tensors > 0 and 2 * tensors >= len(content) and all(isinstance(k, str) for k in content)


def _holds_state(value: object) -> bool:
    if not isinstance(value, Mapping):
        return False
    return _is_state(value) or any(_holds_state(value[key]) for key in (*AVERAGED, *RAW) if key in value)
