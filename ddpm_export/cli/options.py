"""The options that several commands have, and records of those that belong together."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddpm_export.cli.help import HOW, SAFETY, WHAT, WHERE
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
from ddpm_export.runtimes.providers import PROVIDERS
from ddpm_export.sandbox.child import MEMORY_GIB, TIMEOUT_S, confine

if TYPE_CHECKING:
    from ddpm_export.model.spec import ModelSpec
    from ddpm_export.runtimes.opened import DenoiserFile, OneCallFile

USUAL_LIMITS = Limits(TIMEOUT_S, MEMORY_GIB)

Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback on errors.", rich_help_panel=SAFETY)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=WHERE)]
Provider = Annotated[str, typer.Option(help=f"Where the model runs: {', '.join(PROVIDERS)}.", rich_help_panel=WHERE)]
Threads = Annotated[int | None, typer.Option(help="CPU threads. [default: one per core]", rich_help_panel=WHERE)]
Batch = Annotated[
    int, typer.Option(help="Images at a time. Changes memory and speed, never the images.", rich_help_panel=WHERE)
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Open a .ts or .pt2 file, which can run code.", rich_help_panel=SAFETY)
]
Untrusted = Annotated[
    str | None,
    typer.Option(
        metavar="[LIMITS]",
        help=f"Open the model in a separate process with limits. [default limits: {TIMEOUT_S:g}s,{MEMORY_GIB:g}GiB]",
        rich_help_panel=SAFETY,
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        help="x.png (a grid), x.gif or x.webp (the denoising), x.npy (an array), or a folder.", rich_help_panel=WHERE
    ),
]
N = Annotated[int | None, typer.Option(help="Number of images. [default: 16]", rich_help_panel=WHAT)]
Seed = Annotated[
    int | None,
    typer.Option(help="The same seed gives the same images. [default: a fresh one, printed]", rich_help_panel=WHAT),
]
First = Annotated[
    int, typer.Option(help="Number of the first image. Image 7 is the same in every run.", rich_help_panel=WHAT)
]
Label = Annotated[
    str | None,
    typer.Option(
        help="A class by name or index, none, or several: 0,1,2. [default: each class in turn]", rich_help_panel=WHAT
    ),
]
InputValues = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME=VALUE",
        help="Another input of the model: numbers (0.1,0.2), an image (x.png) or an array (x.npy). Repeatable.",
        rich_help_panel=WHAT,
    ),
]
Steps = Annotated[
    str | None,
    typer.Option(
        metavar="N|TIMES",
        help="How many denoising steps, such as 50, or at which times: 980,960,0. [default: the model's]",
        rich_help_panel=HOW,
    ),
]
Sampler = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[:KEY=VALUE]",
        help="A sampler and its settings, such as ddpm, ddim:eta=1 or unipc:order=2,grid=karras; see docs/samplers.md. "
        "[default: the model's]",
        rich_help_panel=HOW,
    ),
]
PlanName = Annotated[
    str | None,
    typer.Option("--plan", help="A plan in the model, instead of --sampler and --steps.", rich_help_panel=HOW),
]
GuidanceText = Annotated[
    str | None,
    typer.Option(
        "--guidance",
        metavar="SCALE[@LOW-HIGH]",
        help="How closely to follow the class: 0 ignores it, 1 is plain, 2@300-700 is 2 at those times only. "
        "[default: the model's]",
        rich_help_panel=HOW,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(help="A JSON file with what the checkpoint does not contain.", rich_help_panel=WHAT),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="One value of that kind (docs/importing.md). Repeatable.",
        rich_help_panel=WHAT,
    ),
]
Network = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:CLASS",
        help="Your own class, for weights in no known layout. Runs its code.",
        rich_help_panel=WHAT,
    ),
]


@dataclass(frozen=True)
class Choices:
    """What the images show and how they are made, whichever images they are."""

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
    """Which images: of which seed, from which number on, and how many at a time."""

    seed: Seed = None
    first: First = 0
    batch: Batch = 16

    def asked(self) -> dict[str, Any]:
        """Return them as keywords of a request."""
        return {"seed": self.seed, "first": self.first, "batch": self.batch}


@dataclass(frozen=True)
class Runtime:
    """Where a model runs, and whether it may run code."""

    provider: Provider = "cpu"
    threads: Threads = None
    trust: Trust = False

    def opened(self, model: Path) -> "DenoiserFile | OneCallFile":
        """Open a model file."""
        from ddpm_export.runtimes.opening import open_file

        return open_file(model, self.provider, threads=self.threads, trust=self.trust)

    def asked(self) -> dict[str, Any]:
        """Return these choices as keywords of whoever opens the model elsewhere."""
        return {"provider": self.provider, "threads": self.threads, "trust": self.trust}


@dataclass(frozen=True)
class Confinable(Runtime):
    """Where a model runs, and whether in a process of its own with limits."""

    untrusted: Untrusted = None

    def bound(self, model: Path, out: Path, reads: Iterable[Path]) -> Path:
        """Bind this process where the model is untrusted; return where to write in place of `out`."""
        if self.untrusted is None:
            return out
        if self.trust:
            raise UsageError("Give --untrusted or --trust, not both.")
        limits = limits_of(self.untrusted)._asdict()
        return confine(model, **limits, out=out, reads=reads, fully=self.provider == "cpu").place or out


def limits_of(untrusted: str | None) -> Limits:
    """Return the limits of --untrusted, the usual ones where it names none."""
    return USUAL_LIMITS if untrusted in (None, "usual") else limits_from_text(str(untrusted), USUAL_LIMITS)
