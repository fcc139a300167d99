"""Commands that write a folder: a model fitted, a plan built for a runtime, a recipe trained."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

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
    Weights,
    asked_model,
    check_asked,
    model_options,
)
from foveate.console import command_line, emit, err, escape, say, stages
from foveate.errors import InputError, one_of


def fit(
    model: ModelArg = BUNDLED,
    weights: Weights = None,
    random_weights: RandomWeights = False,
    allow_pickle: AllowPickle = False,
    model_option: ModelOption = None,
    model_script: ModelScript = None,
    preprocess: PreprocessOpt = None,
    outputs: OutputsOpt = None,
    data: Data = None,
    max_drop: Annotated[
        float | None, typer.Option(help="points of top-1, kNN accuracy or mIoU that may be lost (default 1)")
    ] = None,
    latency_ms: Annotated[float | None, typer.Option(help="milliseconds a call may take (p50)")] = None,
    speedup: Annotated[float | None, typer.Option(help="how many times faster than the best dense build")] = None,
    confident: Annotated[
        bool, typer.Option("--confident", help="demand that the photographs show the loss to be within the budget")
    ] = False,
    min_cosine: Annotated[float | None, typer.Option(help="of the worst unseen embedding to the given model's")] = None,
    device: DeviceOpt = DEVICE,
    runtime: RuntimeOpt = "auto",
    precision: PrecisionOpt = "auto",
    batch: Batch = 1,
    threads: Threads = None,
    out_dir: Annotated[Path, typer.Option("--out", help="folder to write")] = Path("foveate-out"),
    method: Annotated[list[str] | None, typer.Option(help="methods the search may use; repeat for several")] = None,
    planner: Annotated[str, typer.Option(help="pareto; or pomt, as published, for comparison")] = "pareto",
    alpha: Annotated[float, typer.Option(help="weight of latency in POMT's utility, 0 to 1")] = 0.5,
    images: Annotated[int, typer.Option(help="photographs used at most")] = 512,
    points: Annotated[
        int | None, typer.Option(help="measure so many operating points, for `run --budget-ms` and `serve`")
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="how long the whole fit should take, about")] = None,
    seed: Seed = 0,
    fresh: Fresh = False,
    plugin: Plugin = None,
    as_json: AsJson = False,
) -> None:
    """Fit a model to this machine: proven faster, or the best dense build.

    Examples:

        foveate fit

        foveate fit vit_tiny_patch16_224 --weights vit_tiny.safetensors --data photos/ --max-drop 1.0

        foveate fit vit_tiny_patch16_224 --weights vit_tiny.safetensors --model-option num_classes=0 --data photos/

        foveate fit --model-script mine.py:build --preprocess mean=0.5 --preprocess std=0.5 --data photos/

        foveate fit deit_small_patch16_224 --random-weights --latency-ms 12 --runtime openvino

        foveate fit --max-drop 2 --confident --seconds 120

        foveate fit runs/clothing_iret --data photos/ --points 6
    """
    from foveate.fitting.budget import Budget
    from foveate.fitting.request import Request, as_tuple

    asked = Request(
        model, weights=weights, random_weights=random_weights, allow_pickle=allow_pickle, data=data,
        budget=Budget(max_drop, latency_ms, speedup, confident, min_cosine), device=device, runtime=runtime,
        precision=precision, batch=batch, threads=threads, out=out_dir, methods=as_tuple(method), planner=planner,
        alpha=alpha, images=images, points=points, seed=seed, fresh=fresh, seconds=seconds, command=command_line(),
        outputs=outputs, options=model_options(model_option),
    )  # fmt: skip
    asked.check_here()
    check_asked(model, model_script, preprocess)
    with stages() as progress:
        progress("start", 0.0, model)  # importing torch takes longer than a person waits for a sign of life
        from foveate.cli.verdict import show
        from foveate.fitting.job import run as run_fit

        named, own = asked_model(model, model_script, preprocess)
        outcome = run_fit(replace(asked, name=named, preprocess=own), progress, lambda line: say([line]))
    show(outcome)
    emit(outcome.to_dict(), as_json)
    raise typer.Exit(outcome.exit_code)


def export(
    plan: Annotated[Path, typer.Argument(help="plan.json, or a folder that holds one")],
    weights: Weights = None,
    allow_pickle: AllowPickle = False,
    runtime: Annotated[str | None, typer.Option(help="another runtime than the plan's")] = None,
    precision: Annotated[str | None, typer.Option(help="another precision than the plan's")] = None,
    batch: Annotated[int | None, typer.Option(help="another batch size than the plan's")] = None,
    data: Annotated[Path | None, typer.Option(help="photographs to calibrate int8 on; the bundled by default")] = None,
    out_dir: Annotated[Path, typer.Option("--out", help="folder to write")] = Path("foveate-export"),
    plugin: Plugin = None,
    as_json: AsJson = False,
) -> None:
    """Build a plan for a runtime: a folder that `foveate run` and `foveate.open` take.

    Example:

        foveate export foveate-out/plan.json --runtime onnxruntime --out for-the-server
    """
    from foveate.commands.export import export_plan

    folder = export_plan(
        plan, weights=weights, allow_pickle=allow_pickle, runtime=runtime, precision=precision, batch=batch, data=data,
        out=out_dir,
    )  # fmt: skip
    err.print(f"written  {escape(str(folder))}/")
    emit({"folder": str(folder)}, as_json)


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="a Python file with a `recipe`")],
    changes: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="changes of it")] = None,
    out_dir: Annotated[Path | None, typer.Option("--out", help="folder to write; runs/RECIPE by default")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on where the run in that folder was broken off")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a model by a recipe; with `accelerate launch -m foveate train ...` on several processes or machines.

    Examples:

        foveate train recipes/imagenette.py

        foveate train recipes/imagenette.py epochs=2 augment.mixup=0 --out runs/short

        foveate train recipes/imagenette.py --resume
    """
    from foveate.train import load_recipe
    from foveate.train import train as run_train

    made = load_recipe(recipe, changes or ())
    with stages() as progress:
        done = run_train(made, out_dir or Path("runs") / recipe.stem, resumed=resume, progress=progress)
    err.print(f"best     {done.best_score:.2f} % {done.figure} ({done.steps:,} steps, {done.seconds / 60:.1f} min)")
    err.print(f"written  {escape(str(done.out))}/ (best.safetensors, last.pt to resume from, log.csv)")
    emit({k: str(v) if isinstance(v, Path) else v for k, v in vars(done).items()}, as_json)


def reparameterize(
    model: ModelArg = BUNDLED,
    weights: Weights = None,
    allow_pickle: AllowPickle = False,
    model_option: ModelOption = None,
    model_script: ModelScript = None,
    preprocess: PreprocessOpt = None,
    outputs: OutputsOpt = None,
    data: Annotated[
        str | None, typer.Option(help="photographs to learn from, a folder or a .zip; no label is looked at")
    ] = None,
    attention: Annotated[str, typer.Option(help="as `foveate list attention` has them; softmax stays")] = "softmax",
    mlp: Annotated[str, typer.Option(help="of MLPs, as `foveate list linears` has them; linear stays")] = "linear",
    projections: Annotated[str, typer.Option(help="the same for the layers around attention")] = "linear",
    blocks: Annotated[str, typer.Option(help="which are converted: all, or as 0-5,8")] = "all",
    epochs: Annotated[int, typer.Option(help="of each of the two stages, attention first")] = 10,
    batch: Annotated[int, typer.Option(help="photographs an optimiser step")] = 64,
    lr: Annotated[float, typer.Option(help="learning rate at its highest")] = 3e-4,
    precision: Annotated[str, typer.Option(help="bf16 or fp32")] = "bf16",
    out_dir: Annotated[Path, typer.Option("--out", help="folder to write")] = Path("foveate-converted"),
    resume: Annotated[bool, typer.Option("--resume", help="go on where a run in that folder was broken off")] = False,
    seed: Seed = 0,
    plugin: Plugin = None,
    as_json: AsJson = False,
) -> None:
    """Give a trained ViT other arithmetic, learnt from its own answers; the result is a model like any other.

    Examples:

        foveate reparameterize --attention hashed_linear --mlp mixture --data photos/ --out converted

        foveate reparameterize vit_tiny_patch16_224 --weights vit_tiny.safetensors --attention sigmoid --data photos/

        foveate reparameterize runs/mine --mlp shift:format=apot2 --blocks 0-5 --data photos/ --epochs 3

        foveate reparameterize --attention hashed_linear --mlp mixture --data photos/ --out converted --resume

        foveate fit converted --data photos/
    """
    from pydantic import ValidationError

    from foveate.commands.reparameterize import Training, Words, convert
    from foveate.loading.load import load

    if data is None:
        raise InputError("--data is missing: a folder or a .zip of photographs like those the model will see")
    words = Words(attention, mlp, projections, blocks)
    words.stages()
    if precision not in ("bf16", "fp32"):
        raise one_of("precision", precision, ("bf16", "fp32"))
    training = Training(epochs, batch, lr, precision, seed)  # type: ignore[arg-type]
    with stages() as progress:
        progress("start", 0.0, model)
        named, own = asked_model(model, model_script, preprocess)
        given = {} if model_script is not None else {
            "weights": weights, "allow_pickle": allow_pickle, **model_options(model_option)
        }  # fmt: skip
        loaded = load(named, outputs=outputs, preprocess=own, **given)
        try:
            done = convert(loaded, data, out_dir, words, training, resumed=resume, progress=progress)
        except ValidationError as e:
            wrong = e.errors()[0]
            where = ".".join(map(str, wrong["loc"]))
            raise InputError(f"{where} is {wrong['input']!r:.80}: {wrong['msg']}") from None
    say(f"{part}: {line}" for part, line in done.measured.items())
    for name, stage in done.stages.items():
        minutes = stage.seconds / 60
        err.print(f"{name:9} {stage.best_score:.2f} % {stage.figure} with the model given ({minutes:.1f} min)")
    err.print(f"written  {escape(str(done.out))}/ (foveate fit {escape(str(done.out))} takes it)")
    emit(
        {"folder": str(done.out), **done.words.options(), "measured": done.measured}
        | {f"{stage.figure} {name} %": stage.best_score for name, stage in done.stages.items()},
        as_json,
    )
