"""The command line: one short function a command, each calling one public function.

Every command takes `--json` for one machine-readable object on stdout; progress and prose go to stderr.
Exit codes: 0 done; 2 wrong arguments or input; 3 done, but nothing faster within the budget.
"""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from foveate import __version__
from foveate.console import command_line, emit, err, escape, guarded, out, stages

app = typer.Typer(
    name="foveate",
    help="Fits a vision transformer to the device that has to run it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

ModelArg = Annotated[str, typer.Argument(help="timm model name, or the bundled clothing_vit", show_default=True)]
Weights = Annotated[Path | None, typer.Option(help="safetensors file with the model's weights")]
RandomWeights = Annotated[bool, typer.Option("--random-weights", help="random weights: for latency work only")]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="let --weights be a pickle (.pth); it may run code")]
Data = Annotated[Path | None, typer.Option(help="folder or zip of photographs; the bundled ones by default")]
RuntimeOpt = Annotated[str, typer.Option(help="auto, eager, compile, onnxruntime or openvino")]
PrecisionOpt = Annotated[str, typer.Option(help="auto, fp32, bf16 or int8")]
Batch = Annotated[int, typer.Option(help="images a call")]
Threads = Annotated[int | None, typer.Option(help="CPU threads; by default the physical cores allowed to us")]
Seed = Annotated[int, typer.Option(help="seed of every random choice")]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object on stdout")]
Fresh = Annotated[bool, typer.Option("--fresh", help="measure again instead of reading the profile from the cache")]
BUNDLED = "clothing_vit"


@app.command()
def fit(
    model: ModelArg = BUNDLED,
    weights: Weights = None,
    random_weights: RandomWeights = False,
    allow_pickle: AllowPickle = False,
    data: Data = None,
    max_drop: Annotated[float | None, typer.Option(help="points of top-1 that may be lost (default 1)")] = None,
    latency_ms: Annotated[float | None, typer.Option(help="milliseconds a call may take (p50)")] = None,
    speedup: Annotated[float | None, typer.Option(help="how many times faster than the best dense build")] = None,
    device: Annotated[str, typer.Option(help="cpu")] = "cpu",
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
        int | None, typer.Option(help="measure so many operating points: the knob of `run --budget-ms` and `serve`")
    ] = None,
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Fit a model to this machine: proven faster, or the best dense build.

    Examples:

        foveate fit

        foveate fit vit_tiny_patch16_224 --weights vit_tiny.safetensors --data photos/ --max-drop 1.0

        foveate fit deit_small_patch16_224 --random-weights --latency-ms 12 --runtime openvino

        foveate fit runs/clothing_iret --data photos/ --points 6
    """
    from foveate.fitting import Budget
    from foveate.fitting import fit as run_fit

    with stages() as progress:
        outcome = run_fit(
            model, weights=weights, random_weights=random_weights, allow_pickle=allow_pickle, data=data,
            budget=Budget(max_drop=max_drop, latency_ms=latency_ms, speedup=speedup), device=device, runtime=runtime,
            precision=precision, batch=batch, threads=threads, out=out_dir, methods=method, planner=planner,
            alpha=alpha, images=images, points=points, seed=seed, fresh=fresh, command=command_line(),
            progress=progress,
        )  # fmt: skip
    err.print()
    err.print(("[bold green]faster[/]  " if outcome.faster else "[bold yellow]dense[/]   ") + escape(outcome.reason))
    err.print(f"plan     {escape(outcome.plan.summary())}")
    err.print(f"written  {outcome.folder}/ (report.html, plan.json, model; {outcome.seconds:.0f} s)")
    if outcome.note:
        err.print(f"[bold red]note[/]     {escape(outcome.note)}")
    emit(outcome.to_dict(), as_json)
    raise typer.Exit(outcome.exit_code)


@app.command()
def run(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a folder that fit or export wrote")],
    photos: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="photographs")],
    budget_ms: Annotated[
        float | None, typer.Option(help="take the best operating point whose median is within so many milliseconds")
    ] = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Classify photographs with a fitted model: the five likeliest classes and the time each took.

    Examples:

        foveate run foveate-out photo.jpg

        foveate run foveate-out photo.jpg --budget-ms 5     # of a folder fitted with --points
    """
    import foveate
    from foveate.preprocess import read_image

    for photo in photos:  # before the model is loaded: bad input is told at once
        read_image(photo)
    artefact = foveate.open(folder, threads=threads)
    point = None if budget_ms is None else artefact.within_ms(budget_ms)
    rows = artefact.timed(photos)
    if point is not None:
        err.print(f"point    {escape(str(point))}")
    if artefact.card.note:
        err.print(f"[bold red]note[/] {escape(artefact.card.note)}")
    if not as_json:
        for row in rows:
            out.print(f"[bold]{escape(row['image'])}[/]  {row['latency_ms']:.2f} ms")
            for name, share in row["top"]:
                out.print(f"  {share:6.1%}  {escape(str(name))}")
    told = None if point is None else point.model_dump(mode="json")
    emit({"images": rows, "note": artefact.card.note, "point": told}, as_json)


@app.command()
def profile(
    model: ModelArg = BUNDLED,
    weights: Weights = None,
    random_weights: RandomWeights = False,
    allow_pickle: AllowPickle = False,
    runtime: Annotated[str, typer.Option(help="eager, compile, onnxruntime or openvino")] = "openvino",
    precision: Annotated[str, typer.Option(help="fp32, bf16 or int8")] = "fp32",
    batch: Batch = 1,
    threads: Threads = None,
    seconds: Annotated[float, typer.Option(help="time to spend on measuring")] = 45.0,
    out_file: Annotated[Path | None, typer.Option("--out", help="write the profile as JSON")] = None,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Measure latency against token count on this machine, in the runtime that will serve.

    Example:

        foveate profile deit_small_patch16_224 --random-weights --runtime onnxruntime
    """
    import foveate

    loaded = foveate.load(model, weights=weights, random_weights=random_weights, allow_pickle=allow_pickle)
    with stages() as progress:
        found = foveate.profile(
            loaded.model, runtime=runtime, precision=precision, batch=batch, threads=threads, seconds=seconds,
            fresh=fresh, progress=lambda done, total, text: progress("profile", done / max(total, 1), text),
        )  # fmt: skip
    if out_file is not None:
        found.save(out_file)
    if not as_json:
        curve = found.table.block
        table = Table("tokens", "ms a block", "right edge", title=f"{model}, {runtime} {precision}, batch {batch}")
        edges = set(found.table.right_edges(curve.tokens[0], curve.tokens[-1]))
        for n, ms in zip(curve.tokens, curve.ms, strict=True):
            table.add_row(str(n), f"{ms:.3f}", "*" if n in edges else "")
        out.print(table)
    emit(found.model_dump(mode="json"), as_json)


@app.command()
def compare(
    model: ModelArg = BUNDLED,
    weights: Weights = None,
    random_weights: RandomWeights = False,
    allow_pickle: AllowPickle = False,
    data: Data = None,
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
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Every method at the same latencies, and the planner's own choice: one table and one plot.

    Examples:

        foveate compare vit_tiny_patch16_224 --weights vit_tiny.safetensors --data photos/ --level 0.8 --level 0.65

        foveate compare deit_small_patch16_224 --random-weights --published
    """
    if published:
        list_published(model, weights, random_weights, allow_pickle, as_json)
        return
    from foveate.fitting.comparing import compare as run_compare

    with stages() as progress:
        rows = run_compare(
            model, weights=weights, random_weights=random_weights, allow_pickle=allow_pickle, data=data,
            runtime=runtime, precision=precision, batch=batch, threads=threads, levels=level or (0.85, 0.7, 0.55),
            methods=method, images=images, out=out_dir, seed=seed, progress=progress,
        )  # fmt: skip
    if not as_json:
        table = Table("level", "method", "speed-up", "99 %", "agreement", "KL", "drop", "GMACs")
        for r in rows:
            table.add_row(
                f"{r['level']:.2f}", r["method"], f"{r['speedup']:.3f}", f"{r['low']:.3f}-{r['high']:.3f}",
                f"{r['agreement']:.1%}", f"{r['kl']:.4f}", "-" if r["drop"] is None else f"{r['drop']:+.2f}",
                f"{r['gmacs']:.3f}",
            )  # fmt: skip
        out.print(table)
    err.print(f"written  {out_dir}/ (compare.html, results.jsonl)")
    emit({"rows": rows}, as_json)


def list_published(model: str, weights: Path | None, random_weights: bool, allow_pickle: bool, as_json: bool) -> None:
    import foveate
    from foveate.adapters import describe
    from foveate.fitting.published import published

    loaded = foveate.load(model, weights=weights, random_weights=random_weights, allow_pickle=allow_pickle)
    rows = published(describe(loaded.model))
    if not as_json:
        table = Table("setting", "tokens after every block", "GMACs", "of dense", title=model)
        for r in rows:
            tokens = " ".join(map(str, r["tokens"]))
            table.add_row(r["setting"], tokens, f"{r['gmacs']:.3f}", f"{r['share']:.1%}")
        out.print(table)
    emit({"rows": rows}, as_json)


@app.command()
def evaluate(
    target: Annotated[
        str, typer.Argument(metavar="DIR|MODEL", help="a fitted or trained folder, or a model name")
    ] = BUNDLED,
    data: Data = None,
    task: Annotated[str, typer.Option(help="classification or segmentation")] = "classification",
    split: Annotated[str | None, typer.Option(help="of masks; by default the first of val, validation, test")] = None,
    page: Annotated[Path | None, typer.Option(help="HTML to write: masks laid over photographs")] = None,
    weights: Weights = None,
    random_weights: RandomWeights = False,
    allow_pickle: AllowPickle = False,
    images: Annotated[int, typer.Option(help="photographs used at most")] = 100_000,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Top-1, or the mean IoU of masks, of a folder or a model on labelled photographs, with its 95 % interval.

    Examples:

        foveate evaluate foveate-out --data photos/

        foveate evaluate runs/camvid_vit --task segmentation --data camvid.zip --split test --page masks.html
    """
    from foveate.fitting.evaluating import evaluate as run_evaluate

    with stages() as progress:
        result = run_evaluate(
            target, task=task, data=data, split=split, page=page, weights=weights, random_weights=random_weights,
            allow_pickle=allow_pickle, images=images, threads=threads, progress=progress,
        )  # fmt: skip
    if not as_json:
        out.print(str(result))
    if page is not None and task == "segmentation":
        err.print(f"written  {page}")
    emit(result.model_dump(mode="json"), as_json)


@app.command()
def export(
    plan: Annotated[Path, typer.Argument(help="plan.json, or a folder that holds one")],
    weights: Weights = None,
    allow_pickle: AllowPickle = False,
    runtime: Annotated[str | None, typer.Option(help="another runtime than the plan's")] = None,
    precision: Annotated[str | None, typer.Option(help="another precision than the plan's")] = None,
    batch: Annotated[int | None, typer.Option(help="another batch size than the plan's")] = None,
    data: Annotated[Path | None, typer.Option(help="photographs to calibrate int8 on; the bundled by default")] = None,
    out_dir: Annotated[Path, typer.Option("--out", help="folder to write")] = Path("foveate-export"),
    as_json: AsJson = False,
) -> None:
    """Build a plan for a runtime: a folder that `foveate run` and `foveate.open` take.

    Example:

        foveate export foveate-out/plan.json --runtime onnxruntime --out for-the-server
    """
    from foveate.fitting.exporting import export_plan

    folder = export_plan(
        plan, weights=weights, allow_pickle=allow_pickle, runtime=runtime, precision=precision, batch=batch, data=data,
        out=out_dir,
    )  # fmt: skip
    err.print(f"written  {folder}/")
    emit({"folder": str(folder)}, as_json)


@app.command()
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
    err.print(f"written  {done.out}/ (best.safetensors, last.pt to resume from, log.csv)")
    emit({k: str(v) if isinstance(v, Path) else v for k, v in vars(done).items()}, as_json)


@app.command()
def serve(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a folder that fit or export wrote")],
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: one that is free")] = 8000,
    name: Annotated[str | None, typer.Option(help="of the model in URLs; by default the plan's")] = None,
    slo_ms: Annotated[float | None, typer.Option(help="a request's time in the server, held by the knob")] = None,
    point: Annotated[int | None, typer.Option(help="always this operating point (default 0, the whole model)")] = None,
    batch_ms: Annotated[float, typer.Option(help="how long a call waits for its batch to fill")] = 2.0,
    queue: Annotated[int, typer.Option(help="images that may wait; past it 503")] = 256,
    max_body_mb: Annotated[float, typer.Option(help="of a request")] = 32.0,
    max_megapixels: Annotated[float, typer.Option(help="of a photograph")] = 50.0,
    receive_s: Annotated[float, typer.Option(help="seconds a body may take to come")] = 30.0,
    drain_s: Annotated[float, typer.Option(help="seconds that SIGTERM leaves for what was accepted")] = 30.0,
    token: Annotated[str | None, typer.Option(envvar="FOVEATE_TOKEN", help="bearer token asked of clients")] = None,
    workers: Annotated[int, typer.Option(help="processes, each with its own model, queue and metrics")] = 1,
    threads: Threads = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error")] = "info",
    as_json: AsJson = False,
) -> None:
    """Answer requests over HTTP: Open Inference Protocol v2 and image upload (docs/serve.md).

    Examples:

        foveate serve foveate-out

        foveate serve foveate-out --slo-ms 50 --port 0 --json

        curl --data-binary @photo.jpg localhost:8000/classify
    """
    from foveate.serve import Settings
    from foveate.serve import serve as run_serve

    settings = Settings(
        folder=folder, host=host, port=port, name=name, slo_ms=slo_ms, point=point, batch_ms=batch_ms, queue=queue,
        max_body_mb=max_body_mb, max_megapixels=max_megapixels, receive_s=receive_s, drain_s=drain_s,
        token=token or None, workers=workers, threads=threads, log_level=log_level,
    )  # fmt: skip
    run_serve(
        settings,
        say=lambda kind, line: err.print(f"[bold]{kind:8}[/] {escape(line)}"),
        ready=lambda url: emit({"url": url}, as_json),
    )


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="methods, models or runtimes")] = "methods",
    as_json: AsJson = False,
) -> None:
    """What foveate knows.

    Example:

        foveate list runtimes
    """
    from foveate.fitting.listing import listing

    rows = listing(what)
    if not as_json:
        table = Table(*rows[0], title=what)
        for row in rows:
            table.add_row(*(escape(str(v)) for v in row.values()))
        out.print(table)
    emit({what: rows}, as_json)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """What this machine is: cores, instruction sets, memory, runtimes, and the peaks it reaches.

    Example:

        foveate doctor --json
    """
    from foveate.fitting.listing import examine

    facts = examine()
    if not as_json:
        table = Table("fact", "value", show_header=False)
        for key, value in facts.items():
            table.add_row(key, escape(value if isinstance(value, str) else json.dumps(value)))
        out.print(table)
    emit(facts, as_json)


def version(show: bool) -> None:
    if show:
        out.print(f"foveate {__version__}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    """Fits a vision transformer to the device that has to run it."""


def main() -> None:
    """Entry point."""
    guarded(app)


if __name__ == "__main__":
    main()
