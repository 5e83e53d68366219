"""`ddpm-edit`: images made from pictures, or between two seeds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddpm_export.cli.console import APP, print_json, script_of
from ddpm_export.cli.help import HELP, HOW, SAFETY, WHAT, WHERE, add_command
from ddpm_export.cli.options import Batch, Choices, Confinable, Debug, Json, Numbers, Out
from ddpm_export.cli.progress import phases
from ddpm_export.cli.sampling import DEFAULT_OUT, make_images
from ddpm_export.cli.texts import numbers_from_text
from ddpm_export.errors import UsageError, printable

if TYPE_CHECKING:
    from ddpm_export.runtimes.opened import DenoiserFile, OneCallFile

MODEL, PICTURE = "exported/unet.onnx", "docs/given/pictures/00.png"

Model = Annotated[Path, typer.Argument(help="An exported model, such as exported/unet.onnx, or a one-call edit.")]
Picture = Annotated[Path, typer.Argument(help="A picture, or a folder of pictures.")]
OfEach = Annotated[
    int | None, typer.Option("--n", help="Number of images from each picture. [default: 1]", rich_help_panel=WHAT)
]
Along = Annotated[
    int | None, typer.Option("--n", help="Number of images, both ends included. [default: 9]", rich_help_panel=WHAT)
]
Strength = Annotated[
    float | None,
    typer.Option(help="How much noise to start from, above 0 to 1. [default: pure noise]", rich_help_panel=HOW),
]
Returns = Annotated[
    int, typer.Option(help="How often to go back and denoise again, for a better fit.", rich_help_panel=HOW)
]
Jump = Annotated[int, typer.Option(help="With --returns: how many steps to go back.", rich_help_panel=HOW)]


def fill(
    model: Model,
    image: Picture,
    *,
    mask: Annotated[
        Path,
        typer.Option(
            help="A picture that is white where to fill, black where to keep, grey to blend.", rich_help_panel=WHAT
        ),
    ],
    n: OfEach = None,
    choices: Choices,
    strength: Strength = None,
    returns: Returns = 0,
    jump: Jump = 1,
    numbers: Numbers,
    runtime: Confinable,
    out: Out = DEFAULT_OUT,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Fill in a part of a picture and keep the rest."""
    given = {"strength": strength, "returns": returns, "jump": jump}
    _edit(model, out, choices, numbers, runtime, as_json, n, {"image": image, "mask": mask}, given)


def vary(
    model: Model,
    image: Picture,
    *,
    n: OfEach = None,
    choices: Choices,
    strength: Annotated[
        float,
        typer.Option(help="How much to change: above 0 (little) to 1 (everything).", rich_help_panel=HOW),
    ],
    numbers: Numbers,
    runtime: Confinable,
    out: Out = DEFAULT_OUT,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Add noise to a picture and remove it again, which varies the picture."""
    _edit(model, out, choices, numbers, runtime, as_json, n, {"image": image}, {"strength": strength})


def measure(
    model: Model,
    image: Annotated[Path, typer.Argument(help="A picture, a folder of pictures, or what average:K makes of them.")],
    *,
    by: Annotated[
        str,
        typer.Option(
            help="What the images share with the picture: average:K (enlarge), grey (colour) or mask.",
            rich_help_panel=WHAT,
        ),
    ],
    mask: Annotated[
        Path | None, typer.Option(help="With --by mask: black where the picture is known.", rich_help_panel=WHAT)
    ] = None,
    n: OfEach = None,
    choices: Choices,
    strength: Strength = None,
    returns: Returns = 0,
    jump: Jump = 1,
    numbers: Numbers,
    runtime: Confinable,
    out: Out = DEFAULT_OUT,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make images that agree with a measurement of a picture, such as its average over blocks."""
    given = {"measure": by, "strength": strength, "returns": returns, "jump": jump}
    _edit(model, out, choices, numbers, runtime, as_json, n, {"image": image, "mask": mask}, given)


def between(
    model: Model,
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="[IMAGE IMAGE]", help="Two pictures, or else --seeds.")
    ] = None,
    *,
    seeds: Annotated[
        str | None, typer.Option(help="Two seeds, such as 7,11, instead of pictures and --seed.", rich_help_panel=WHAT)
    ] = None,
    n: Along = None,
    choices: Choices,
    strength: Annotated[
        float | None,
        typer.Option(help="With pictures: how much noise to start from, above 0 to 1.", rich_help_panel=HOW),
    ] = None,
    numbers: Numbers,
    runtime: Confinable,
    out: Out = DEFAULT_OUT,
    as_json: Json = False,
    debug: Debug = False,
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
    files = {"between": images or None}
    _edit(model, out, choices, numbers, runtime, as_json, n, files, {"strength": strength, "seeds": ends}, in_line=True)


def invert(
    model: Model,
    image: Picture,
    *,
    choices: Choices,
    batch: Batch = 16,
    runtime: Confinable,
    out: Annotated[Path, typer.Option(help="The .npy file of the noise.", rich_help_panel=WHERE)] = Path("x_T.npy"),
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Find the noise that leads to a picture; `ddpm-run --from` makes images of it."""
    if out.suffix != ".npy":
        raise UsageError(f"--out must end in .npy, got {printable(out.name)!r}.")
    place, opened, given = _opened(model, out, choices, runtime, {"image": image})
    from ddpm_export.images.write import save_array
    from ddpm_export.sampling.edit import invert as inverted
    from ddpm_export.system.files import sha256_of

    asked = {**choices.asked(opened.spec), "batch": batch}
    with phases() as report:
        x_T, rmse = inverted(
            opened, given["images"], report=lambda done, total: report(done, total, "inverting"), **asked
        )
    save_array(place, x_T)
    errors: list[float] = rmse.tolist()
    if as_json:
        about = {"model": opened.spec.name, "model_sha256": sha256_of(model)}
        print_json({**about, "out": str(out), "n": len(errors), "rmse": errors})
    else:
        pictures = f"{len(errors)} picture{'s' if len(errors) > 1 else ''}"
        error = f"RMSE on the way back {sum(errors) / len(errors):.2f} levels of 255"
        typer.echo(f"{printable(str(out))}: noise of {pictures}, {error}")


def _opened(
    model: Path, out: Path, choices: Choices, runtime: Confinable, files: dict[str, Any], *, any_size: bool = False
) -> "tuple[Path, DenoiserFile | OneCallFile, dict[str, Any]]":
    """Return where to write, the model, and what its files give to an edit."""
    paths = [path for value in files.values() if value for path in (value if isinstance(value, list) else [value])]
    place = runtime.bound(model, out, [*choices.paths, *paths])
    opened = runtime.opened(model)
    from ddpm_export.sampling.given_files import given_from_files

    return place, opened, given_from_files(opened.spec, **files, any_size=any_size)


def _edit(
    model: Path,
    out: Path,
    choices: Choices,
    numbers: Numbers,
    runtime: Confinable,
    as_json: bool,
    n: int | None,
    files: dict[str, Any],
    how: dict[str, Any],
    *,
    in_line: bool = False,
) -> None:
    """Make the images of an edit: `files` by their paths, `how` as keywords of a request."""
    place, opened, given = _opened(model, out, choices, runtime, files, any_size=how.get("measure") is not None)
    from ddpm_export.sampling.request import request_for

    asked = {**choices.asked(opened.spec), **numbers.asked(), **given, **how}
    request = request_for(opened.spec, n=n, **asked)
    make_images(opened, request, model, out, place, runtime, as_json=as_json, in_line=in_line)


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
