"""ModelSpec: the numbers that travel inside a model file, and their JSON. Opens no file; knows no runtime.

docs/format.md is the contract. A reader never guesses: what is missing, unknown or out of range is refused.
"""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ddpm_export.errors import BadFileError, ModelRefusedError
from ddpm_export.noise import NOISE_TAG

__all__ = [
    "GRAPHS",
    "MAX_JSON_BYTES",
    "METADATA_KEY",
    "VARIANCES",
    "VARIANCE_FRACTION",
    "Defaults",
    "ModelSpec",
    "json_from_spec",
    "spec_from_json",
]

METADATA_KEY = "ddpm_export"
FORMAT = "ddpm-export/1"
PREDICTIONS = ("eps", "x_0", "v")
VARIANCES = ("fixed_small", "fixed_large", "learned")
GRAPHS = ("sampler", "slice")  # what a file holds that is no denoiser, docs/format.md section 5
VARIANCE_FRACTION = "variance_fraction"  # the second output of a network that learned its variances
UNDERSTOOD = frozenset({VARIANCE_FRACTION})  # the entries of `requires` that this reader can honour
MAX_JSON_BYTES = 256 * 1024
MAX_NESTING = 32
MAX_PIXELS = 2**26  # numbers in one image: a header alone must not fill the memory


@dataclass(frozen=True)
class Defaults:
    """Name the sampler a model is used with when the user says nothing."""

    sampler: str = "ddim"
    num_steps: int = 50
    eta: float = 0.0


@dataclass(frozen=True)
class ModelSpec:
    """Hold all that sampling needs to know of a network.

    prediction: eps, x_0 or v. image_shape: (C, H, W). alphas_cumprod: T floats, strictly falling within (0, 1); the
    last may be 0 unless the prediction is eps. clip_x_0: bound on |x_0|, or None. variance: of the ddpm sampler;
    learned needs a network with a second output, and then requires has variance_fraction.
    golden: outputs to verify a file by where it lands. source: for people only, nothing depends on it.
    graph: None for a denoiser, else which graph around one the file holds: sampler or slice.
    Raises BadFileError for what is not possible, ModelRefusedError for what is possible but unknown to this reader.
    """

    name: str
    prediction: str
    image_shape: tuple[int, int, int]
    alphas_cumprod: tuple[float, ...]
    clip_x_0: float | None = 1.0
    variance: str = "fixed_small"
    value_range: tuple[float, float] = (-1.0, 1.0)
    defaults: Defaults = field(default_factory=Defaults)
    noise: str = NOISE_TAG
    golden: dict[str, Any] | None = None
    source: dict[str, Any] = field(default_factory=dict)
    requires: tuple[str, ...] = ()
    graph: str | None = None

    @property
    def num_train_timesteps(self) -> int:
        """Return T."""
        return len(self.alphas_cumprod)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the names of the network's outputs, in order."""
        return (self.prediction, *(name for name in (VARIANCE_FRACTION,) if name in self.requires))

    def __post_init__(self) -> None:
        if not all(isinstance(name, str) for name in self.requires):
            raise _bad("requires", self.requires, "a list of names")
        unknown = sorted(set(self.requires) - UNDERSTOOD)
        if unknown:
            raise ModelRefusedError(
                f"spec: asks for what this version cannot do. got requires {unknown[:5]!r}, expected some of "
                f"{sorted(UNDERSTOOD)!r}. Do install a newer ddpm-export."
            )
        if self.graph is not None and self.graph not in GRAPHS:
            raise ModelRefusedError(
                f"spec: unknown graph. got {str(self.graph)[:80]!r}, expected a denoiser or one of "
                f"{', '.join(GRAPHS)}. Do install a newer ddpm-export."
            )
        if not isinstance(self.name, str) or len(self.name) > 200:
            raise _bad("name", self.name, "a short string")
        if self.prediction not in PREDICTIONS:
            raise _bad("prediction", self.prediction, f"one of {', '.join(PREDICTIONS)}")
        if self.variance not in VARIANCES:
            raise _bad("variance", self.variance, f"one of {', '.join(VARIANCES)}")
        if self.variance == "learned" and VARIANCE_FRACTION not in self.requires:
            raise _bad("variance", self.variance, f"{VARIANCE_FRACTION!r} among requires")
        if self.noise != NOISE_TAG:
            raise ModelRefusedError(
                f"spec: unknown noise. got {str(self.noise)[:80]!r}, expected {NOISE_TAG!r}. Do install a newer "
                "ddpm-export."
            )
        shape = self.image_shape
        if (
            not isinstance(shape, tuple)
            or len(shape) != 3
            or not all(type(size) is int and size > 0 for size in shape)
            or math.prod(shape) > MAX_PIXELS
        ):
            raise _bad(
                "image_shape", shape, f"three positive integers [C, H, W] with a product of at most {MAX_PIXELS}"
            )
        if self.value_range != (-1.0, 1.0) or not all(_is_number(v) for v in self.value_range):
            raise _bad("value_range", self.value_range, "[-1, 1]")
        if self.clip_x_0 is not None and not (_is_number(self.clip_x_0) and self.clip_x_0 > 0):
            raise _bad("clip_x_0", self.clip_x_0, "a positive number or null")
        self._check_alphas_cumprod()
        if not isinstance(self.defaults.sampler, str):
            raise _bad("defaults.sampler", self.defaults.sampler, "a sampler's name")
        if type(self.defaults.num_steps) is not int or not 1 <= self.defaults.num_steps <= self.num_train_timesteps:
            raise _bad("defaults.num_steps", self.defaults.num_steps, f"1 to {self.num_train_timesteps}")
        if not _is_number(self.defaults.eta) or not 0 <= self.defaults.eta <= 1:
            raise _bad("defaults.eta", self.defaults.eta, "a number from 0 to 1")
        if not isinstance(self.source, dict) or not isinstance(self.golden, (dict, type(None))):
            raise _bad("source or golden", type(self.source).__name__, "objects")

    def _check_alphas_cumprod(self) -> None:
        alphas = self.alphas_cumprod
        if not alphas or not all(_is_number(a) for a in alphas):
            raise _bad("alphas_cumprod", alphas, "at least one number")
        if alphas[0] >= 1 or any(b >= a for a, b in pairwise(alphas)):
            raise _bad("alphas_cumprod", alphas, "numbers that strictly fall within (0, 1)")
        last_may_be_zero = self.prediction != "eps"
        if alphas[-1] < 0 or (alphas[-1] == 0 and not last_may_be_zero):
            raise _bad("alphas_cumprod", alphas[-1], "a last value above 0 (0 itself only with x_0 or v)")


def _is_number(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]}")
    return value


def _is_nested_within(value: Any, levels: int) -> bool:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_nested_within(child, levels - 1) for child in children)


def _bad(where: str, got: Any, expected: str) -> BadFileError:
    text = repr(got)
    shown = text if len(text) <= 80 else text[:77] + "..."
    return BadFileError(f"spec: {where} is not usable. got {shown}, expected {expected}. Do export the model again.")


def json_from_spec(spec: ModelSpec) -> str:
    """Return the spec as JSON: sorted keys, no time stamps, the same text for the same spec."""
    values = dataclasses.asdict(spec)
    if spec.graph is None:  # a denoiser, as in files of before there was another graph
        del values["graph"]
    return json.dumps({"format": FORMAT, **values}, sort_keys=True, allow_nan=False)


def spec_from_json(text: str) -> ModelSpec:
    """Read and validate a spec; unknown keys are ignored, unknown requirements and majors are refused.

    Raises BadFileError where the text is no valid spec, ModelRefusedError where a newer reader is needed.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_JSON_BYTES:
        raise _bad("size", len(text), f"at most {MAX_JSON_BYTES} bytes")
    try:
        values = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as exc:
        raise BadFileError(f"spec: not JSON. got {exc}, expected one object. Do export the model again.") from exc
    if not _is_nested_within(values, MAX_NESTING):
        raise _bad("nesting", "a deeper one", f"at most {MAX_NESTING} levels")
    if not isinstance(values, dict):
        raise _bad("it", values, "an object")
    version = values.get("format")
    if not isinstance(version, str) or not version.startswith("ddpm-export/"):
        raise _bad("format", version, f"{FORMAT!r}")
    if version.split("/")[1].split(".")[0] != FORMAT.split("/")[1]:
        raise ModelRefusedError(
            f"spec: unknown format. got {version[:80]!r}, expected {FORMAT!r}. Do install a newer ddpm-export."
        )
    optional = {"golden", "source", "graph"}
    required = [f.name for f in dataclasses.fields(ModelSpec) if f.name not in optional]
    missing = [key for key in required if key not in values]
    if missing:
        raise _bad("a key", f"none of {missing}", "all of them")
    known = {f.name: values[f.name] for f in dataclasses.fields(ModelSpec) if f.name in values}
    for name in ("image_shape", "alphas_cumprod", "value_range", "requires"):
        if not isinstance(known[name], list) or not all(isinstance(v, (int, float, str)) for v in known[name]):
            raise _bad(name, known[name], "a list")
        known[name] = tuple(known[name])
    known["value_range"] = tuple(float(v) if _is_number(v) else v for v in known["value_range"])
    defaults = known["defaults"]
    wanted = [f.name for f in dataclasses.fields(Defaults)]
    if not isinstance(defaults, dict) or not set(wanted) <= set(defaults):
        raise _bad("defaults", defaults, f"an object with {', '.join(wanted)}")
    known["defaults"] = Defaults(**{name: defaults[name] for name in wanted})
    return ModelSpec(**known)
