"""Tiny random models of the six families that see, and prompts with pictures for each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

IMAGE, VIDEO, START, END, PAD = 199, 198, 197, 196, 0
LLAMA = {
    "vocab_size": 200,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CLIP = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
}
PINPOINTS = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]
NAMES = ("llava", "llava_next", "llava_onevision", "internvl", "qwen2_5_vl", "qwen3_vl")
SIZES = ((100, 90), (60, 170))  # a square and an oblong picture


def model(name: str, **changes: Any) -> nn.Module:
    """A model of that family in float32, ready to answer; norms are stirred, so that none of them is a no-op."""
    import transformers as hf

    torch.manual_seed(0)
    text = hf.LlamaConfig(**LLAMA)
    if name == "llava":
        config = hf.LlavaConfig(
            vision_config=hf.CLIPVisionConfig(**CLIP), text_config=text, image_token_index=IMAGE, image_seq_length=16
        )
        made = hf.LlavaForConditionalGeneration(config)
    elif name == "llava_next":
        config = hf.LlavaNextConfig(
            vision_config=changes.pop("vision_config", hf.CLIPVisionConfig(**CLIP)),
            text_config=text,
            image_token_index=IMAGE,
            image_grid_pinpoints=PINPOINTS,
            **changes,
        )
        made = hf.LlavaNextForConditionalGeneration(config)
    elif name == "llava_onevision":
        config = hf.LlavaOnevisionConfig(
            vision_config=hf.SiglipVisionConfig(**CLIP),
            text_config=hf.Qwen2Config(**LLAMA),
            image_token_index=IMAGE,
            image_grid_pinpoints=[[56 * r, 56 * c] for r in range(1, 4) for c in range(1, 4)],
            vision_aspect_ratio="anyres_max_2",
            **changes,
        )
        made = hf.LlavaOnevisionForConditionalGeneration(config)
    elif name == "internvl":
        from transformers.models.internvl.configuration_internvl import InternVLVisionConfig

        vision = {**CLIP, "image_size": [56, 56], "patch_size": [14, 14], "use_qk_norm": True}
        config = hf.InternVLConfig(
            vision_config=InternVLVisionConfig(**vision),
            text_config=hf.Qwen2Config(**LLAMA),
            image_token_id=IMAGE,
            downsample_ratio=0.5,
            **changes,
        )
        made = hf.InternVLForConditionalGeneration(config)
    else:
        made = _qwen(name)
    with torch.no_grad():
        for parameter_name, parameter in made.named_parameters():
            if "norm" in parameter_name or parameter_name.endswith("bias"):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def _qwen(name: str) -> nn.Module:
    import transformers as hf

    text = {**LLAMA, "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}}
    tokens = {
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "vision_start_token_id": START,
        "vision_end_token_id": END,
    }
    vision = {
        "depth": 4,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 4,
        "out_hidden_size": 32,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    if name == "qwen2_5_vl":
        vision |= {"fullatt_block_indexes": [1, 3], "window_size": 112}
        return hf.Qwen2_5_VLForConditionalGeneration(
            hf.Qwen2_5_VLConfig(vision_config=vision, text_config=text, **tokens)
        )
    vision |= {"deepstack_visual_indexes": [0, 2], "num_position_embeddings": 64}
    text |= {"head_dim": 8}
    return hf.Qwen3VLForConditionalGeneration(hf.Qwen3VLConfig(vision_config=vision, text_config=text, **tokens))


def pictures(name: str, host: Any, sizes: Sequence[tuple[int, int]] = SIZES, seed: int = 1) -> dict[str, Any]:
    """What a processor makes of random pictures of those sizes, and the tokens of each by the host's own count."""
    lot = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=lot)

    if name == "llava":
        return {"pixel_values": noise(len(sizes), 3, 56, 56)}
    if name in ("llava_next", "llava_onevision"):
        from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

        image_sizes = torch.tensor(sizes)
        counts = [image_size_to_num_patches(s, host.config.image_grid_pinpoints, 56) for s in image_sizes]
        return {"pixel_values": noise(len(sizes), max(counts), 3, 56, 56), "image_sizes": image_sizes}
    if name == "internvl":
        from foveate.budgets.sizes import squeezed

        tiles = [squeezed(size, tile=56, grid=2).tokens // 4 for size in sizes]
        return {"pixel_values": noise(sum(tiles), 3, 56, 56), "image_sizes": torch.tensor(sizes)}
    grids = torch.tensor([[1, max(2, h // 28 * 2), max(2, w // 28 * 2)] for h, w in sizes])
    return {"pixel_values": noise(int(grids.prod(1).sum()), 3 * 2 * 14 * 14), "image_grid_thw": grids}


def counts(name: str, host: Any, seen: dict[str, Any]) -> list[int]:
    """Tokens of every picture, as the host makes them."""
    given = {key: value for key, value in seen.items() if not (name == "internvl" and key == "image_sizes")}
    with torch.no_grad():
        features = host.model.get_image_features(**given, return_dict=True).pooler_output
    if name != "internvl":
        return [len(f) for f in features]
    from foveate.budgets.sizes import squeezed

    return [squeezed((int(h), int(w)), tile=56, grid=2).tokens for h, w in seen["image_sizes"]]


def prompts(
    seen: dict[str, Any], tokens: Sequence[int], *, together: bool = False, left: bool = True
) -> dict[str, Any]:
    """A batch with a picture a prompt, or one prompt with all of them; prompts are of unequal length."""
    runs = [[START, *[IMAGE] * n, END] for n in tokens]
    if together:
        rows = [[1, 5, *[token for run in runs for token in run], 7, 8, 9]]
    else:
        rows = [[1, 5, 6, *run, *range(7, 10 + n)] for n, run in enumerate(runs)]
    length = max(map(len, rows))
    pads = [length - len(row) for row in rows]
    ids = torch.tensor([[PAD] * p + row if left else row + [PAD] * p for row, p in zip(rows, pads, strict=True)])
    mask = torch.tensor(
        [[0] * p + [1] * len(row) if left else [1] * len(row) + [0] * p for row, p in zip(rows, pads, strict=True)]
    )
    out = {**seen, "input_ids": ids, "attention_mask": mask}
    if "image_grid_thw" in seen:
        out["mm_token_type_ids"] = (ids == IMAGE).int()
    return out


WORDS = ("what", "is", "in", "this", "picture", "a", "dog", "cat", "USER", "ASSISTANT", "?", ":", "\n")


def folder(path: Path, *, chat: bool = True) -> Path:
    """A LLaVA-NeXT folder as hubs have it: tiny random weights, a tokenizer of a few words, a processor."""
    import transformers as hf
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {"<pad>": PAD, "<s>": 1, "</s>": 2, "<unk>": 3, "<image>": IMAGE}
    vocabulary |= {word: 10 + n for n, word in enumerate(WORDS)}
    vocabulary |= {f"w{n}": n for n in range(200) if n not in vocabulary.values()}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    template = (
        "{% for m in messages %}USER : {% for c in m['content'] %}{% if c['type'] == 'image' %}<image> "
        "{% else %}{{ c['text'] }} {% endif %}{% endfor %}{% endfor %}ASSISTANT :"
    )
    processor = hf.LlavaNextProcessor(
        image_processor=hf.LlavaNextImageProcessorPil(
            size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}, image_grid_pinpoints=PINPOINTS
        ),
        tokenizer=tokenizer,
        patch_size=14,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
        chat_template=template if chat else None,
    )
    made = model("llava_next")
    made.generation_config.pad_token_id = PAD
    made.save_pretrained(path)
    processor.save_pretrained(path)
    return path
