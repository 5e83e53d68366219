"""The options that several commands have, and records of those that belong together."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddpm_export.cli.help import Debug as Debug
from ddpm_export.cli.help import how, safety, what, where
from ddpm_export.cli.texts import (
    Limits,
    guidance_from_text,
    inputs_from_settings,
    labels_from_text,
    limits_from_text,
    sampler_from_text,
    steps_from_text,
)
from ddpm_export.errors import UsageError
from ddpm_export.runtimes.named import NAMED, model_path
from ddpm_export.runtimes.providers import PROVIDERS
from ddpm_export.sandbox.child import MEMORY_GIB, TIMEOUT_S, confine

if TYPE_CHECKING:
    from ddpm_export.model.spec import ModelSpec
    from ddpm_export.runtimes.opened import DenoiserFile, OneCallFile

USUAL_LIMITS = Limits(TIMEOUT_S, MEMORY_GIB)


def file_of(context: typer.Context, model: Path) -> Path:
    """Return the file of a model that is named; a shell that completes the line downloads nothing."""
    return model if context.resilient_parsing else model_path(model)


MODEL_HELP = f"An exported model, such as exported/unet.onnx, or a name: {', '.join(NAMED)}."
Model = Annotated[Path, typer.Argument(help=MODEL_HELP, callback=file_of)]
Json = Annotated[bool, where("Print the result as JSON.", "--json")]
Provider = Annotated[str, where(f"Where the model runs: {', '.join(PROVIDERS)}.")]
Threads = Annotated[int | None, where("CPU threads. [default: one per core]")]
Batch = Annotated[int, where("Images at a time. Changes memory and speed, never the images.")]
Trust = Annotated[bool, safety("Open a .ts or .pt2 file, which can run code.", "--trust")]
LIMITS_HELP = f"Open the model in a separate process with limits. [default limits: {TIMEOUT_S:g}s,{MEMORY_GIB:g}GiB]"
Untrusted = Annotated[str | None, safety(LIMITS_HELP, metavar="[LIMITS]")]
Out = Annotated[Path, where("x.png (a grid), x.gif or x.webp (the denoising), x.npy (an array), or a folder.")]
N = Annotated[int | None, what("Number of images. [default: 16]")]
Seed = Annotated[int | None, what("The same seed gives the same images. [default: a fresh one, printed]")]
FixedSeed = Annotated[int, what("The same seed gives the same images.")]
First = Annotated[int, what("Number of the first image. Image 7 is the same in every run.")]
Label = Annotated[
    str | None,
    what(
        "A class by name or index, none, or several: 0,1,2. In an edit, name the picture's class for the best result. "
        "[default: each class in turn; in an edit, none]"
    ),
]
InputValues = Annotated[
    list[str] | None,
    what(
        "Another input of the model: numbers (0.1,0.2), an image (x.png) or an array (x.npy). Repeatable.",
        "--input",
        metavar="NAME=VALUE",
    ),
]
Steps = Annotated[
    str | None,
    how(
        "How many denoising steps, such as 50, or at which times: 980,960,0. [default: the model's]", metavar="N|TIMES"
    ),
]
Sampler = Annotated[
    str | None,
    how(
        "A sampler and its settings, such as ddpm, ddim:eta=1 or unipc:order=2,grid=karras; see docs/samplers.md. "
        "[default: the model's]",
        metavar="NAME[:KEY=VALUE]",
    ),
]
PlanName = Annotated[str | None, how("A plan in the model, instead of --sampler and --steps.", "--plan")]
GuidanceText = Annotated[
    str | None,
    how(
        "How closely to follow the class: 0 ignores it, 1 is plain, 2@300-700 is 2 at those times only. "
        "[default: the model's]",
        "--guidance",
        metavar="SCALE[@LOW-HIGH]",
    ),
]
Config = Annotated[Path | None, what("A JSON file of settings that the checkpoint does not contain.")]
Settings = Annotated[
    list[str] | None, what("One such setting (docs/importing.md). Repeatable.", "--set", metavar="KEY=VALUE")
]
Network = Annotated[
    str | None, what("Your own class, for weights in an unknown layout. Runs its code.", metavar="MODULE:CLASS")
]


@dataclass(frozen=True)
class Choices:
    """What the images show and how they are made."""

    label: Label = None
    inputs: InputValues = None
    steps: Steps = None
    sampler: Sampler = None
    plan: PlanName = None
    guidance: GuidanceText = None

    def asked(self, spec: "ModelSpec") -> dict[str, Any]:
        """Return these choices as keywords of a request."""
        return {
            "label": labels_from_text(spec, self.label),
            "inputs": inputs_from_settings(spec, self.inputs or []),
            "guidance": guidance_from_text(spec, self.guidance),
            "plan": self.plan,
            **steps_from_text(self.steps),
            **sampler_from_text(self.sampler),
        }

    @property
    def paths(self) -> list[Path]:
        """Return the files among the inputs."""
        values = (Path(setting.partition("=")[2]) for setting in self.inputs or [])
        return [path for path in values if path.is_file()]


@dataclass(frozen=True)
class Numbers:
    """Which images, and how many at a time; the fields are keywords of a request."""

    seed: Seed = None
    first: First = 0
    batch: Batch = 16


@dataclass(frozen=True)
class Runtime:
    """Where a model runs, and whether it may run code; the fields are keywords of `open_file`."""

    provider: Provider = "cpu"
    threads: Threads = None
    trust: Trust = False

    def opened(self, model: Path) -> "DenoiserFile | OneCallFile":
        """Open a model file."""
        from ddpm_export.runtimes.opening import open_file

        return open_file(model, self.provider, threads=self.threads, trust=self.trust)


@dataclass(frozen=True)
class Confinable(Runtime):
    """Where a model runs, and whether in a process of its own with limits."""

    untrusted: Untrusted = None

    def bound(self, model: Path, out: Path, reads: Iterable[Path]) -> Path:
        """Confine this process where the model is untrusted; return where to write in place of `out`."""
        if self.untrusted is None:
            return out
        if self.trust:
            raise UsageError("Give --untrusted or --trust, not both.")
        limits = limits_of(self.untrusted)._asdict()
        return confine(model, **limits, out=out, reads=reads, fully=self.provider == "cpu").place or out


def limits_of(untrusted: str | None) -> Limits:
    """Return the limits of --untrusted, the usual ones where it names none."""
    return USUAL_LIMITS if untrusted in (None, "usual") else limits_from_text(str(untrusted), USUAL_LIMITS)
