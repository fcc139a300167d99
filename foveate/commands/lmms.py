"""A model of ours for lmms-eval, so that its tasks are run with a token budget.

    pip install 'foveate[vlm]' lmms-eval 'filelock<4'
    lmms-eval --model foveate --tasks textvqa_val --model_args pretrained=FOLDER,budget=0.2,device=cuda,precision=bf16

lmms-eval (tried: 0.7.3) finds it by an entry point. Questions are asked one at a time; how many tokens of the pictures
stayed is told at the end, to stand beside the score.
"""

import sys
from collections.abc import Sequence
from typing import Any

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts  # pyright: ignore[reportMissingImports]
from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports]

from foveate.commands.vlm import parse
from foveate.errors import InputError

LONGEST = 1024  # tokens of an answer where a task names none
SAMPLING = ("temperature", "top_p", "num_beams")


def manifest() -> Any:
    """What the entry point of the group lmms_eval.models names."""
    from lmms_eval.models.registry_v2 import ModelManifest  # pyright: ignore[reportMissingImports]

    return ModelManifest(model_id="foveate", chat_class_path="foveate.commands.lmms.Budgeted")


class Budgeted(lmms):  # pyright: ignore[reportUntypedBaseClass]
    """A model that sees, with a budget on it.

    Args:
        pretrained: a folder or hub id of Hugging Face's.
        budget: as `--budget` takes it: a share, a number of tokens, or a folder that `foveate vlm fit` wrote.
        method, encoder: as `foveate vlm generate` takes them.
        batch_size: 1; pictures of unequal sizes are asked about one at a time.

    Raises:
        InputError: a model, budget or method that cannot be used, or another batch size.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        budget: float | int | str = 0.2,
        method: str | None = None,
        encoder: str | None = None,
        device: str = "cpu",
        precision: str = "fp32",
        batch_size: int | str = 1,
        **others: Any,
    ) -> None:
        super().__init__()
        if str(batch_size) != "1":
            raise InputError(f"batch_size {batch_size}; allowed: 1")
        unknown = [name for name, value in others.items() if value is not None and name != "max_batch_size"]
        if unknown:
            raise InputError(
                f"model_args {', '.join(unknown)}; known: pretrained, budget, method, encoder, device, precision"
            )
        from foveate import vlm
        from foveate.vlm.loading import load

        setting = parse(str(budget))
        self.model, self.processor = load(pretrained, device=device, precision=precision)
        method = method or setting.method or "hired"
        vlm.apply(self.model, setting.budget, method, encoder=encoder or setting.encoder)
        self.kept = self.full = 0

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        from tqdm import tqdm

        said = [self._answer(*request.args) for request in tqdm(requests, desc="foveate")]
        if self.full:
            share = self.kept / self.full
            sys.stderr.write(f"foveate: {self.kept} of {self.full} tokens of the pictures stayed ({share:.1%})\n")
        return said

    def _answer(self, text: str, to_messages: Any, options: dict[str, Any], doc: int, task: str, split: str) -> Any:
        from foveate import vlm

        messages, pictures = chat(to_messages(self.task_dict[task][split][doc]))
        prompt = self.processor.apply_chat_template(messages, add_generation_prompt=True)
        asked = dict(self.processor(images=pictures or None, text=prompt, return_tensors="pt").to(self.model.device))
        if "pixel_values" in asked:
            asked["pixel_values"] = asked["pixel_values"].to(self.model.dtype)
        sampled = {name: options[name] for name in SAMPLING if options.get(name)}
        sampled["do_sample"] = bool(sampled.get("temperature"))
        out = self.model.generate(**asked, max_new_tokens=options.get("max_new_tokens") or LONGEST, **sampled)
        new = out[:, asked["input_ids"].shape[1] :]
        answer = self.processor.batch_decode(new, skip_special_tokens=True)[0].strip()
        until = options.get("until") or []
        for end in [until] if isinstance(until, str) else until:
            answer = answer.split(end)[0] if end else answer
        applied = vlm.applied_to(self.model)
        full = [tiling.tokens for tiling in applied.family.tilings(asked)] if pictures else []
        self.full += sum(full)
        self.kept += sum(len(kept.rows) for kept in applied.kept) if applied.kept and pictures else sum(full)
        return GenerationResult(text=answer.strip(), token_counts=TokenCounts(output_tokens=new.shape[1]))

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        raise InputError("foveate answers tasks that generate; tasks of log-likelihoods are not supported")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        raise InputError("foveate answers questions of one round; tasks of several are not supported")


def chat(messages: Sequence[Any]) -> tuple[list[dict[str, Any]], list[Any]]:
    """lmms-eval's messages as a chat template takes them, and their pictures in order.

    Raises:
        InputError: a video or a sound.
    """
    said, pictures = [], []
    for message in messages:
        content = []
        for part in message["content"]:
            if part["type"] == "text":
                content.append({"type": "text", "text": part["text"]})
            elif part["type"] == "image":
                content.append({"type": "image"})
                pictures.append(part["url"].convert("RGB"))
            else:
                raise InputError(f"{part['type']} in a task; foveate's budgets are for pictures")
        said.append({"role": message["role"], "content": content})
    return said, pictures
