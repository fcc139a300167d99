"""Commands that measure: latency against tokens, methods at equal latency, a model on labelled photographs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD

from foveate.cli.options import (
    BUNDLED,
    DEVICE,
    AllowPickle,
    AsJson,
    Batch,
    Data,
    DeviceOpt,
    Fresh,
    ModelArg,
    ModelOption,
    ModelScript,
    OutputsOpt,
    Plugin,
    PrecisionOpt,
    PreprocessOpt,
    RandomWeights,
    RuntimeOpt,
    Seed,
    Threads,
    Trust,
    Weights,
    asked_model,
    check_asked,
    model_options,
)
from foveate.console import emit, err, escape, out, say, stages, table
from foveate.target import Target


def profile(
    model: ModelArg = BUNDLED,
    weights: Weights = None,
    random_weights: RandomWeights = False,
    allow_pickle: AllowPickle = False,
    model_option: ModelOption = None,
    model_script: ModelScript = None,
    runtime: Annotated[str, typer.Option(help="eager, compile, onnxruntime or openvino")] = "openvino",
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16 or int8")] = "fp32",
    device: DeviceOpt = DEVICE,
    batch: Batch = 1,
    threads: Threads = None,
    seconds: Annotated[float, typer.Option(help="time to spend on measuring")] = 45.0,
    out_file: Annotated[Path | None, typer.Option("--out", help="write the profile as JSON")] = None,
    fresh: Fresh = False,
    plugin: Plugin = None,
    as_json: AsJson = False,
) -> None:
    """Measure latency against token count on this machine, in the runtime that will serve.

    Example:

        foveate profile deit_small_patch16_224 --random-weights --runtime onnxruntime
    """
    import foveate

    target = Target.of(device=device, runtime=runtime, precision=precision, batch=batch, threads=threads)
    options = model_options(model_option)
    named, own = asked_model(model, model_script, None)
    loaded = foveate.load(
        named, weights=weights, random_weights=random_weights, allow_pickle=allow_pickle, preprocess=own, **options
    )
    say(loaded.said)
    with stages() as progress:
        found = foveate.profile(
            loaded.model, target, seconds=seconds, fresh=fresh,
            progress=lambda done, total, text: progress("profile", done / max(total, 1), text),
        )  # fmt: skip
    if out_file is not None:
        found.save(out_file)
    if not as_json:
        curve = found.table.block
        made = table("tokens", "ms a block", "right edge", title=f"{model}, {target}")
        edges = set(found.table.right_edges(curve.tokens[0], curve.tokens[-1]))
        for n, ms in zip(curve.tokens, curve.ms, strict=True):
            made.add_row(str(n), f"{ms:.3f}", "*" if n in edges else "")
        out.print(made)
    if found.disturbed is not None:
        err.print(f"[bold yellow]disturbed[/] {escape(found.disturbed)}")
    emit(found.model_dump(mode="json"), as_json)


def compare(
    model: ModelArg = BUNDLED,
    weights: Weights = None,
    random_weights: RandomWeights = False,
    allow_pickle: AllowPickle = False,
    model_option: ModelOption = None,
    model_script: ModelScript = None,
    preprocess: PreprocessOpt = None,
    outputs: OutputsOpt = None,
    data: Data = None,
    device: DeviceOpt = DEVICE,
    runtime: RuntimeOpt = "auto",
    precision: PrecisionOpt = "auto",
    batch: Batch = 1,
    threads: Threads = None,
    level: Annotated[list[float] | None, typer.Option(help="latency, as a share of the dense build's")] = None,
    method: Annotated[list[str] | None, typer.Option(help="methods to compare; all by default")] = None,
    images: Annotated[int, typer.Option(help="photographs used at most")] = 512,
    out_dir: Annotated[Path, typer.Option("--out", help="folder for results.jsonl and compare.html")] = Path(
        "foveate-compare"
    ),
    published: Annotated[
        bool, typer.Option("--published", help="only list tokens and GMACs of the papers' settings; measures nothing")
    ] = False,
    seconds: Annotated[
        float, typer.Option(help="all of it, about; the same command goes on with what did not fit")
    ] = 300.0,
    fresh: Annotated[bool, typer.Option("--fresh", help="begin anew, whatever the folder holds")] = False,
    seed: Seed = 0,
    plugin: Plugin = None,
    as_json: AsJson = False,
) -> None:
    """Every method at the same latencies, and the planner's own choice: one table and one plot.

    Every row is written as it comes, and the page can be opened meanwhile. Run again, it goes on where it was ended.

    Examples:

        foveate compare vit_tiny_patch16_224 --weights vit_tiny.safetensors --data photos/ --level 0.8 --level 0.65

        foveate compare deit_small_patch16_224 --random-weights --published
    """
    from foveate.fitting.request import Request, as_tuple

    options = model_options(model_option)
    Request(
        model, weights=weights, data=data, device=device, runtime=runtime, precision=precision, batch=batch,
        threads=threads, methods=as_tuple(method), images=images, out=out_dir, outputs=outputs,
    ).check_here(folder=False)  # fmt: skip
    check_asked(model, model_script, preprocess)
    from foveate.commands.compare import LEVELS
    from foveate.commands.compare import compare as run_compare

    named, own = asked_model(model, model_script, preprocess)
    if published:
        list_published(named, weights, random_weights, allow_pickle, options, as_json)
        return
    with stages() as progress:
        rows = run_compare(
            named, weights=weights, random_weights=random_weights, allow_pickle=allow_pickle, data=data, preprocess=own,
            runtime=runtime, precision=precision, batch=batch, threads=threads,
            levels=level or LEVELS,
            methods=method, images=images, out=out_dir, seed=seed, progress=progress, outputs=outputs,
            options=options, device=device, seconds=seconds, fresh=fresh, say=lambda line: say([line]),
        )  # fmt: skip
    if not as_json:
        made = table(
            "level",
            "method",
            "speed-up",
            "99 %",
            "agreement",
            "loss",
            "drop",
            "GMACs",
            box=SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        for r in rows:
            made.add_row(
                f"{r['level']:.2f}", r["method"], f"{r['speedup']:.3f}", f"{r['low']:.3f}-{r['high']:.3f}",
                f"{r['agreement']:.1f} %", f"{r['loss']:.4f}", "-" if r["drop"] is None else f"{r['drop']:+.2f}",
                f"{r['gmacs']:.3f}",
            )  # fmt: skip
        out.print(made)
    err.print(f"written  {escape(str(out_dir))}/ (compare.html, results.jsonl)")
    emit({"rows": rows}, as_json)


def list_published(
    model: Any,
    weights: Path | None,
    random_weights: bool,
    allow_pickle: bool,
    options: Mapping[str, Any],
    as_json: bool,
) -> None:
    import foveate
    from foveate.adapters import describe
    from foveate.commands.published import published

    loaded = foveate.load(model, weights=weights, random_weights=random_weights, allow_pickle=allow_pickle, **options)
    say(loaded.said)
    rows = published(describe(loaded.model))
    if not as_json:
        made = table("setting", "tokens after every block", "GMACs", "of dense", title=loaded.ref.name)
        for r in rows:
            tokens = " ".join(map(str, r["tokens"]))
            made.add_row(r["setting"], tokens, f"{r['gmacs']:.3f}", f"{r['share']:.1%}")
        out.print(made)
    emit({"rows": rows}, as_json)


def evaluate(
    target: Annotated[
        str, typer.Argument(metavar="DIR|MODEL", help="a fitted or trained folder, or a model name")
    ] = BUNDLED,
    data: Data = None,
    task: Annotated[
        str | None, typer.Option(help="classification, embedding or segmentation; by default as the model answers")
    ] = None,
    split: Annotated[str | None, typer.Option(help="of masks; by default the first of val, validation, test")] = None,
    page: Annotated[Path | None, typer.Option(help="HTML to write: masks laid over photographs")] = None,
    weights: Weights = None,
    random_weights: RandomWeights = False,
    allow_pickle: AllowPickle = False,
    model_option: ModelOption = None,
    model_script: ModelScript = None,
    preprocess: PreprocessOpt = None,
    outputs: OutputsOpt = None,
    images: Annotated[int, typer.Option(help="photographs used at most")] = 100_000,
    threads: Threads = None,
    trust: Trust = False,
    plugin: Plugin = None,
    as_json: AsJson = False,
) -> None:
    """How good a folder or a model is on labelled photographs, with its 95 % interval: top-1; of a model that embeds
    leave-one-out accuracy of the 10 nearest, labels by folder; of one that draws masks mean IoU.

    Examples:

        foveate evaluate foveate-out --data photos/

        foveate evaluate runs/camvid_vit --data camvid.zip --split test --page masks.html
    """
    from foveate.commands.evaluate import evaluate as run_evaluate

    options = model_options(model_option)
    named, own = asked_model(target, model_script, preprocess)
    with stages() as progress:
        result = run_evaluate(
            named, task=task, data=data, split=split, page=page, weights=weights, random_weights=random_weights,
            allow_pickle=allow_pickle, images=images, threads=threads, trust=trust, progress=progress, say=say,
            outputs=outputs, preprocess=own, **options,
        )  # fmt: skip
    if not as_json:
        named = {"accuracy": "top1 accuracy"}.get(result.name, result.name)
        out.print(escape(f"{result.model_copy(update={'name': named})}, {result.n} photographs"))
    if page is not None:
        err.print(f"written  {escape(str(page))}")
    emit(result.model_dump(mode="json"), as_json)
