"""Commands that ask a model of hardware, and no hardware."""

from typing import Annotated

import typer

from foveate.cli.options import AsJson, ModelArg, ModelOption, model_options
from foveate.console import emit, err, out, stages, table

CLAIM = 42.9  # % less energy: You et al., NeurIPS 2023, abstract
app = typer.Typer(name="simulate", help="What a modelled accelerator would take.", no_args_is_help=True)


@app.callback()
def about() -> None:
    """What a modelled accelerator would take."""


@app.command()
def energy(
    model: ModelArg = "clothing_vit",
    attention: Annotated[str, typer.Option(help="as `foveate list attention` has them")] = "softmax",
    mlp: Annotated[str, typer.Option(help="of MLPs, as `foveate list linears` has them")] = "linear",
    projections: Annotated[str, typer.Option(help="the same for the layers around attention")] = "linear",
    bits: Annotated[int, typer.Option(help="of operands: 32, 16 or 8")] = 32,
    model_option: ModelOption = None,
    as_json: AsJson = False,
) -> None:
    """Energy part by part on an Eyeriss-like accelerator of 45 nm, as ShiftAddViT's authors model it.

    Twice: with their charges for what is moved (additions pay for almost nothing, shifts move 10 bits), and complete.
    Weights do not matter, and no energy is measured.

    Examples:

        foveate simulate energy vit_tiny_patch16_224 --attention hashed_linear --mlp mixture --projections mixture

        foveate simulate energy converted --bits 8

        foveate simulate energy deit_small_patch16_224 --attention hashed_linear --mlp shift --json
    """
    from pathlib import Path

    from foveate.commands.energy import MOVEMENTS, energies, saved
    from foveate.commands.reparameterize import Words
    from foveate.loading.bundled import BUNDLED
    from foveate.loading.load import load

    words = Words(attention, mlp, projections).options()
    with stages() as progress:
        progress("start", 0.0, model)
        options = model_options(model_option)
        weightless = model != BUNDLED and not Path(model).exists() and ":" not in model
        loaded = load(model, random_weights=weightless, **options)
        progress("tilings", 0.2, "of every layer")
        rows = energies(loaded.model, bits=bits, **words)
    if not as_json:
        head = ("model", "charged", "part", "mJ", "operations", "DRAM", "on chip", "ms")
        shown = table(*head, title=f"energy of one image, {bits} bits")
        for r in rows:
            figures = ("energy_mj", "operations_mj", "dram_mj", "on_chip_mj", "ms")
            shown.add_row(r["model"], r["movement"], r["part"], *(f"{r[f]:.3g}" for f in figures))
        out.print(shown)
    shares = {m: saved(rows, m) for m in MOVEMENTS}
    for movement, share in shares.items():
        if share is not None:
            err.print(f"{movement:9} {100 * share:.1f} % less energy than the model as it is")
    if any(share is not None for share in shares.values()):
        err.print(f"claimed   {CLAIM} % (ShiftAddViT's abstract, over its own baselines)")
    emit({"rows": rows, "saved": shares}, as_json)
