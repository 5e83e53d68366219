"""`ddpm-run`: sample images from an exported model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ddpm_export.cli.console import entry_point
from ddpm_export.cli.help import HELP, HOW, SAFETY, WHAT, WHERE, what
from ddpm_export.cli.options import Model, N
from ddpm_export.cli.sampling import ImageOptions, make_images, opened_model
from ddpm_export.errors import UsageError

if TYPE_CHECKING:
    from ddpm_export.model.spec import ModelSpec

OF_EACH = 10
EXAMPLES = {
    WHAT: "ddpm-run exported/unet.onnx --n 9 --label sneaker,bag --seed 7",
    HOW: "ddpm-run exported/unet.onnx --sampler ddim:eta=1 --steps 50 --guidance 2@300-700",
    WHERE: "ddpm-run exported/unet.onnx --out denoising.gif --batch 4 --threads 2",
    SAFETY: "ddpm-run theirs.onnx --untrusted 60s,4GiB",
    HELP: "ddpm-run --install-completion",
}


def run(
    model: Model,
    *,
    n: N = None,
    each_label: Annotated[
        bool, what("A row of images for each class, or for each of --label, with its name. [default of --n: 10 a row]")
    ] = False,
    noise: Annotated[Path | None, what("Noise to start from, as ddpm-edit invert writes it.", "--from")] = None,
    options: ImageOptions,
) -> None:
    """Sample images from an exported diffusion model or one-call file, without torch.

    Exit codes: 0 done, 2 usage, 3 bad file, 4 model refused, 5 environment, 6 not finite, 130 interrupted.
    """
    if each_label and noise is not None:
        raise UsageError("Give --each-label or --from, not both.")
    place, opened, asked = opened_model(model, options.out, options.choices, options.runtime, {"x_T": noise})
    asked["n"] = _of_each(opened.spec, asked["label"], n) if each_label else n
    make_images(opened, model, place, options, asked, in_rows=each_label)


def _of_each(spec: "ModelSpec", labels: str | list[str] | None, n: int | None) -> int:
    """Return how many images there are of all labels together, equally many of each."""
    if spec.label is None:
        raise UsageError("--each-label does not apply: the model has no classes.")
    count = len(spec.label.classes if labels is None else spec.label.cycle_of(labels))
    if n is not None and n % count:
        raise UsageError(f"--n must be a multiple of {count}, the number of labels, with --each-label, got {n}.")
    return OF_EACH * count if n is None else n


main = entry_point(run, EXAMPLES)
