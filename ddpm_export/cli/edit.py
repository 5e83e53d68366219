"""`ddpm-edit`: images made from pictures, or between two seeds."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ddpm_export.cli.console import APP, print_json, script_of
from ddpm_export.cli.help import HELP, HOW, SAFETY, WHAT, WHERE, add_command, how, what, where
from ddpm_export.cli.options import Batch, Choices, Confinable, Json, Model
from ddpm_export.cli.progress import phases
from ddpm_export.cli.sampling import ImageOptions, make_images, opened_model
from ddpm_export.cli.texts import numbers_from_text
from ddpm_export.errors import UsageError, printable

MODEL, PICTURE = "exported/unet.onnx", "docs/given/pictures/00.png"

Picture = Annotated[Path, typer.Argument(help="A picture, or a folder of pictures.")]
OfEach = Annotated[int | None, what("Number of images from each picture. [default: 1]", "--n")]
Strength = Annotated[float | None, how("How much noise to start from, above 0 to 1. [default: pure noise]")]
Returns = Annotated[int, how("How many times to go back and denoise again, for a better fit.")]
Jump = Annotated[int, how("With --returns: how many steps to go back.")]


def fill(
    model: Model,
    image: Picture,
    *,
    mask: Annotated[Path, what("A picture that is white where to fill, black where to keep, grey to blend.")],
    n: OfEach = None,
    options: ImageOptions,
    strength: Strength = None,
    returns: Returns = 0,
    jump: Jump = 1,
) -> None:
    """Fill in a part of a picture and keep the rest."""
    given = {"n": n, "strength": strength, "returns": returns, "jump": jump}
    _edit(model, options, {"image": image, "mask": mask}, given)


def vary(
    model: Model,
    image: Picture,
    *,
    n: OfEach = None,
    options: ImageOptions,
    strength: Annotated[float, how("How much to change: above 0 (little) to 1 (everything).")],
) -> None:
    """Add noise to a picture and remove it again, which varies the picture."""
    _edit(model, options, {"image": image}, {"n": n, "strength": strength})


def measure(
    model: Model,
    image: Annotated[Path, typer.Argument(help="A picture or a folder of pictures, at full size or averaged.")],
    *,
    by: Annotated[str, what("What the images share with the picture: average:K (enlarge), grey (colour) or mask.")],
    mask: Annotated[Path | None, what("With --by mask: black where the picture is known.")] = None,
    n: OfEach = None,
    options: ImageOptions,
    strength: Strength = None,
    returns: Returns = 0,
    jump: Jump = 1,
) -> None:
    """Make images that agree with a measurement of a picture, such as its average over blocks."""
    given = {"measure": by, "n": n, "strength": strength, "returns": returns, "jump": jump}
    _edit(model, options, {"image": image, "mask": mask}, given)


def between(
    model: Model,
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="[IMAGE IMAGE]", help="Two pictures, or else --seeds.")
    ] = None,
    *,
    seeds: Annotated[str | None, what("Two seeds, such as 7,11, instead of pictures and --seed.")] = None,
    n: Annotated[int | None, what("Number of images, both ends included. [default: 9]")] = None,
    options: ImageOptions,
    strength: Annotated[float | None, how("With pictures: how much noise to start from, above 0 to 1.")] = None,
) -> None:
    """Make a row of images from one picture or seed to another."""
    ends = numbers_from_text("--seeds", seeds)
    if (ends is None) == (not images):
        raise UsageError("ddpm-edit between needs two pictures or --seeds, such as --seeds 7,11.")
    if images and len(images) != 2:
        raise UsageError(f"ddpm-edit between needs two pictures, got {len(images)}.")
    if images and strength is None:
        raise UsageError("ddpm-edit between needs --strength with pictures, such as --strength 0.6.")
    if ends is not None and strength is not None:
        raise UsageError("Give --seeds or --strength, not both.")
    given = {"n": n, "strength": strength, "seeds": ends}
    _edit(model, options, {"between": images or None}, given, in_line=True)


def invert(
    model: Model,
    image: Picture,
    *,
    choices: Choices,
    batch: Batch = 16,
    runtime: Confinable,
    out: Annotated[Path, where("The .npy file to write the noise to.")] = Path("x_T.npy"),
    as_json: Json = False,
) -> None:
    """Find the noise that leads to a picture; `ddpm-run --from` makes images of it."""
    if out.suffix != ".npy":
        raise UsageError(f"--out must end in .npy, got {printable(out.name)!r}.")
    place, opened, asked = opened_model(model, out, choices, runtime, {"image": image})
    from ddpm_export.images.write import save_array
    from ddpm_export.sampling.edit import invert as inverted
    from ddpm_export.system.files import sha256_of

    with phases() as report:
        x_T, rmse = inverted(opened, **asked, batch=batch, report=lambda done, total: report(done, total, "inverting"))
    save_array(place, x_T)
    errors: list[float] = rmse.tolist()
    if as_json:
        about = {"model": opened.spec.name, "model_sha256": sha256_of(model)}
        print_json({**about, "out": str(out), "n": len(errors), "rmse": errors})
    else:
        pictures = f"{len(errors)} picture{'s' if len(errors) > 1 else ''}"
        error = f"RMSE on the way back {sum(errors) / len(errors):.2f} levels of 255"
        typer.echo(f"{printable(str(out))}: noise of {pictures}, {error}")


def _edit(
    model: Path, options: ImageOptions, files: dict[str, Any], given: dict[str, Any], *, in_line: bool = False
) -> None:
    """Make the images of an edit: `files` by their paths, `given` as keywords of a request."""
    any_size = given.get("measure") is not None
    place, opened, asked = opened_model(model, options.out, options.choices, options.runtime, files, any_size=any_size)
    make_images(opened, model, place, options, asked | given, in_line=in_line)


app = typer.Typer(
    **APP,
    help="Make images from pictures, or between two seeds (docs/given.md).\n\n"
    "Exit codes: 0 done, 2 usage, 3 bad file, 4 model refused, 5 environment, 6 not finite, 130 interrupted.",
    epilog=f"Example: ddpm-edit vary {MODEL} {PICTURE} --strength 0.6",
)
for function, rest in (
    (fill, f"{PICTURE} --mask docs/given/right-half.png"),
    (vary, f"{PICTURE} --strength 0.6"),
    (measure, f"{PICTURE} --by average:4"),
    (between, "--seeds 7,11"),
    (invert, PICTURE),
):
    line = f"ddpm-edit {function.__name__} {MODEL} {rest}"
    add_command(
        app,
        function,
        function.__name__,
        {
            WHAT: f"{line} --label bag",
            HOW: f"{line} --sampler ddim --steps 100",
            WHERE: f"{line} --threads 2 --json",
            SAFETY: f"{line} --untrusted 60s",
            HELP: f"ddpm-edit {function.__name__} --help",
        },
    )
main = script_of(app)
