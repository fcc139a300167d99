"""A model that sees and its processor, by hub id or from a folder, and the prompt that a processor wants."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from foveate.errors import InputError, NotAvailable
from foveate.loading.hub import no_waiting
from foveate.loading.weights import first_line

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load(name: str, *, device: str = "cpu", precision: str = "fp32", allow_pickle: bool = False) -> tuple[Any, Any]:
    """The model in evaluation mode and its processor. No code that comes with a checkpoint is run.

    Args:
        name: a local folder or a hub id.
        precision: fp32, bf16 or fp16.
        allow_pickle: take weights that are no safetensors; unpickling a stranger's file runs what is in it.

    Raises:
        NotAvailable: transformers is not installed, or a hub id without a network and not in the cache.
        InputError: a folder that is no such model.
    """
    if precision not in DTYPES:
        raise InputError(f"--precision {precision}; allowed: {', '.join(DTYPES)}")
    try:
        import transformers as hf
    except ImportError:
        raise NotAvailable("this needs transformers 5, which is not installed: pip install 'foveate[vlm]'") from None
    auto: Any = hf.AutoModelForImageTextToText
    local = Path(name).is_dir()
    if not local and Path(name).exists():
        raise InputError(f"{name} is no folder; a model of Hugging Face's is a folder or a hub id")
    where: dict[str, Any] = {"local_files_only": True} if local else {}
    with no_waiting(), _quietly():
        try:
            config = hf.AutoConfig.from_pretrained(name, trust_remote_code=False, **where)
            from foveate.vlm._base import known_type

            known_type(config, name)
            model = auto.from_pretrained(
                name,
                config=config,
                dtype=DTYPES[precision],
                trust_remote_code=False,
                use_safetensors=None if allow_pickle else True,
                **where,
            )
            processor = hf.AutoProcessor.from_pretrained(name, trust_remote_code=False, **where)
        except InputError:
            raise
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as e:
            if local:
                raise InputError(f"{name}: no model that sees can be loaded from it: {first_line(e)[:200]}") from None
            raise NotAvailable(
                f"cannot get {name}: no network or no such model, and not in the cache ({first_line(e)[:120]})"
            ) from None
    return model.to(device).eval(), processor


@contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' bars of progress, which stand in ours."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def inputs(processor: Any, pictures: Sequence[Any], text: str) -> dict[str, Any]:
    """What the model takes: a question about pictures, in the model's own chat template where it has one.

    Args:
        pictures: of Pillow, in the order in which the prompt has them.

    Raises:
        InputError: a prompt that names another number of pictures than there are.
    """
    token = getattr(processor, "image_token", "<image>")
    named = text.count(token)
    if named and named != len(pictures):
        raise InputError(f"--prompt names {named} pictures ({token}), {len(pictures)} were given")
    if getattr(processor, "chat_template", None) and not named:
        content = [{"type": "image"}] * len(pictures) + [{"type": "text", "text": text}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    elif not named:
        text = f"{token}\n" * len(pictures) + text
    return dict(processor(images=list(pictures), text=text, return_tensors="pt"))
