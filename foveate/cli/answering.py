"""Commands that answer with a folder that was written: photographs here, requests over HTTP."""

from pathlib import Path
from typing import Annotated, Any

import typer

from foveate.cli.options import AsJson, Threads, Trust
from foveate.console import emit, err, escape, out, stages


def run(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a folder that fit or export wrote")],
    photos: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="photographs")],
    budget_ms: Annotated[
        float | None, typer.Option(help="take the best operating point whose median is within so many milliseconds")
    ] = None,
    gallery: Annotated[
        Path | None, typer.Option(help="of a model that embeds: folder or zip of photographs to compare with")
    ] = None,
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="of a model that draws masks: folder for a PNG a photograph")
    ] = None,
    threads: Threads = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """What a fitted model answers to photographs, and the time each took: the five likeliest classes; of a model that
    embeds the five nearest photographs; of one that draws masks the share of pixels by class.

    Examples:

        foveate run foveate-out photo.jpg

        foveate run foveate-out photo.jpg --budget-ms 5     # of a folder fitted with --points

        foveate run foveate-out photo.jpg --gallery photos/  # nearest of one's own photographs

        foveate run foveate-out *.jpg --out masks/
    """
    import foveate
    from foveate.commands.answer import answer
    from foveate.preprocess import read_image

    for photo in photos:  # before the model is loaded: bad input is told at once
        read_image(photo)
    artefact = foveate.open(folder, threads=threads, trust=trust)
    point = None if budget_ms is None else artefact.within_ms(budget_ms)
    with stages() as progress:
        rows = answer(artefact, photos, gallery=gallery, out=out_dir, progress=progress)
    if point is not None:
        err.print(f"point    {escape(str(point))}")
    if artefact.card.note:
        err.print(f"[bold red]note[/] {escape(artefact.card.note)}")
    if not as_json:
        for row in rows:
            _print_row(row)
        if "norm" in rows[0] and "nearest" not in rows[0]:
            err.print("note     the folder holds no gallery; --gallery DIR shows the nearest photographs of one")
    told = None if point is None else point.model_dump(mode="json")
    said = {"images": rows, "outputs": artefact.outputs, "note": artefact.card.note, "point": told}
    emit(said, as_json)


def _print_row(row: dict[str, Any]) -> None:
    out.print(f"[bold]{escape(row['image'])}[/]  {row['latency_ms']:.2f} ms")
    for name, share in row.get("top", ()):
        out.print(f"  {share:6.1%}  {escape(str(name))}")
    if "norm" in row and "nearest" not in row:
        out.print(f"  a vector of length {row['norm']:.4g}")
    for near in row.get("nearest", ()):
        out.print(f"  {near['cosine']:6.3f}  {escape(near['name'])}")
    for part in row.get("shares", ()):
        out.print(f"  {part['share']:6.1%}  {escape(part['class'])}")
    if "mask" in row:
        out.print(f"  written {escape(row['mask'])}")


def serve(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a folder that fit or export wrote")],
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: one that is free")] = 8000,
    name: Annotated[str | None, typer.Option(help="of the model in URLs; by default the plan's")] = None,
    slo_ms: Annotated[
        float | None, typer.Option(help="a request's time in the server, held by the operating point")
    ] = None,
    point: Annotated[int | None, typer.Option(help="always this operating point (default 0, the whole model)")] = None,
    batch_ms: Annotated[float, typer.Option(help="how long a call waits for its batch to fill")] = 2.0,
    queue: Annotated[int, typer.Option(help="images that may wait; past it 503")] = 256,
    max_body_mb: Annotated[float, typer.Option(help="of a request")] = 32.0,
    max_megapixels: Annotated[float, typer.Option(help="of a photograph")] = 50.0,
    receive_s: Annotated[float, typer.Option(help="seconds a body may take to come")] = 30.0,
    drain_s: Annotated[float, typer.Option(help="seconds that SIGTERM leaves for what was accepted")] = 30.0,
    token: Annotated[str | None, typer.Option(envvar="FOVEATE_TOKEN", help="bearer token asked of clients")] = None,
    workers: Annotated[int, typer.Option(help="processes, each with its own model, queue and metrics")] = 1,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N; by default the plan's")] = None,
    threads: Threads = None,
    trust: Trust = False,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error")] = "info",
    as_json: AsJson = False,
) -> None:
    """Answer requests over HTTP: Open Inference Protocol v2 and image upload (docs/serve.md). Photographs go to
    /classify, of a model that embeds to /embed, of one that draws masks to /segment.

    Examples:

        foveate serve foveate-out

        foveate serve foveate-out --slo-ms 50 --port 0 --json

        curl --data-binary @photo.jpg localhost:8000/classify

        curl --data-binary @photo.jpg localhost:8000/segment -o mask.png
    """
    from foveate.serve import Settings
    from foveate.serve import serve as run_serve

    settings = Settings(
        folder=folder, host=host, port=port, name=name, slo_ms=slo_ms, point=point, batch_ms=batch_ms, queue=queue,
        max_body_mb=max_body_mb, max_megapixels=max_megapixels, receive_s=receive_s, drain_s=drain_s,
        token=token or None, workers=workers, device=device, threads=threads, trust=trust,
        log_level=log_level,
    )  # fmt: skip
    run_serve(
        settings,
        say=lambda kind, line: err.print(f"[bold]{kind:8}[/] {escape(line)}"),
        ready=lambda url: emit({"url": url}, as_json),
    )
