"""Networks of EDM and EDM2 (NVlabs), whose weights and options were taken out of pickles, with their sampler's steps.

The pickles themselves run code; docs/importing-paths.md has the line that takes the weights out.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ddpm_export.importers import choices
from ddpm_export.importers.edm2_unet import Balance, MPUNet, preserving
from ddpm_export.importers.edm_unet import Kind, UNet, name_of
from ddpm_export.importers.layout import (
    Found,
    Imported,
    built,
    check_dense,
    label_of,
    misfit,
    shape_of,
    spec_of,
)
from ddpm_export.importers.loops import Loop, karras_loop, with_loops
from ddpm_export.importers.path_network import wrapped
from ddpm_export.importers.paths import OPTIONS as PATH_OPTIONS
from ddpm_export.importers.paths import Path, iddpm_sigmas
from ddpm_export.model.inputs import Input
from ddpm_export.model.spec import Defaults, ModelSpec

SIGNS, SIGNS_2 = ("map_layer0.weight", "map_layer1.weight"), ("emb_fourier.freqs", "emb_noise.weight")  # of EDM2
STEM = re.compile(r"enc\.(\d+)x\d+_conv\.weight")
# of both -> our names of the preconditioners
CLASSES = {"EDMPrecond": "edm", "Precond": "edm", "VPPrecond": "vp", "VEPrecond": "ve", "iDDPMPrecond": "iddpm"}
SUPPORTED = {  # the sigmas at which they are called
    "edm": (0.0, math.inf),
    "vp": (1e-3, 152.2),
    "ve": (0.02, 100.0),
    "iddpm": tuple(iddpm_sigmas()[[-2, 0]].tolist()),
}
# of VP and improved DDPM, as their formulas here have them
FIXED = {"beta_d": 19.9, "beta_min": 0.1, "M": 1000, "epsilon_t": 1e-5, "C_1": 0.001, "C_2": 0.008}
CHURN = {
    "S_churn": choices.within(0.0, 1e9, 0.0),
    "S_min": choices.within(0.0, 1e9, 0.0),
    "S_max": choices.within(0.0, 1e9, 1e9),
    "S_noise": choices.within(0.0, 1e9, 1.0),
}
OPTIONS: dict[str, choices.Option] = {
    "preconditioner": choices.one_of(SUPPORTED, "edm"),
    "num_steps": choices.within(2, 1000),
    **{name: PATH_OPTIONS[name] for name in ("sigma_data", "sigma_min", "sigma_max", "rho")},
    **CHURN,
    "label_dropout": choices.within(0.0, 1.0, 0.0),
    **{name: choices.like(value) for name, value in Balance()._asdict().items()},
    "classes": choices.like(None),  # ours: the names of the classes
}
LIMIT = choices.within(0.0, math.inf)


def signs(found: Found) -> dict[str, bool]:
    """Return what a state dict of EDM is known by, and whether it is there."""
    state = _state(found.contents)
    return {name: name in state for name in (SIGNS_2 if _is_edm2(state) else SIGNS)}


def _is_edm2(state: Mapping[str, Any]) -> bool:
    return any(name in state for name in SIGNS_2)


def _state(contents: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights of the network itself, from under its preconditioner or alone."""
    state = contents.get("state_dict", contents)
    named = state.items() if isinstance(state, Mapping) else ()
    names = {re.sub(r"^(model|unet)\.", "", str(key)): value for key, value in named}
    unused = re.compile("u|logvar_.*")  # improved DDPM's table of sigmas, and what EDM2's training weighs by
    return {name: value for name, value in names.items() if not unused.fullmatch(name)}


def load(found: Found, weights: str, options: Mapping[str, Any]) -> Imported:
    """Return the network with its weights, whichever are asked for, wrapped, and the steps of EDM's sampler.

    Raises BadFileError for weights that are no such network, UsageError for options that are missing or do not fit.
    """
    given = found.contents.get("options", {})
    if not isinstance(given, Mapping):
        raise misfit("options", type(given).__name__, "arguments by name")
    stated = {"preconditioner": CLASSES.get(str(given.get("class_name")))}
    stated |= {name: given[name] for name in ("sigma_data", "label_dropout", *Balance._fields) if name in given}
    chosen = choices.read_options({**stated, **options}, OPTIONS)
    choices.require(["preconditioner"], chosen, OPTIONS)
    state = _state(found.contents)
    is_edm2 = _is_edm2(state)
    choices.check_agrees(given, {**FIXED, "resample_filter": [1, 1]} if is_edm2 else FIXED)
    chosen["num_steps"] = chosen["num_steps"] or (32 if is_edm2 else 18)  # as their scripts do
    limits = dict(zip(("sigma_min", "sigma_max"), SUPPORTED[chosen["preconditioner"]], strict=True))
    limits = choices.read_options(
        {name: given.get(name, limit) for name, limit in limits.items()}, dict.fromkeys(limits, LIMIT)
    )
    ends = max(chosen["sigma_min"], limits["sigma_min"]), min(chosen["sigma_max"], limits["sigma_max"])
    if ends[0] >= ends[1]:
        raise choices.misused("sigma_min", f"below sigma_max, {ends[1]:g}", ends[0])
    churn = {name: float(chosen[name]) for name in CHURN}
    # a step that churns begins above its own sigma
    raised = ends[1] * (1.0 + min(churn["S_churn"] / 2, math.sqrt(2.0) - 1.0))
    path = Path(
        chosen["preconditioner"],
        sigma_data=float(chosen["sigma_data"]),
        sigma_min=ends[0],
        sigma_max=raised if churn["S_churn"] else ends[1],
        rho=float(chosen["rho"]),
    )
    path = replace(path, sigma_min=path.rounded(path.sigma_min), sigma_max=path.rounded(path.sigma_max))
    network, label, shape = _network(state, chosen)
    spec = spec_of(
        found,
        prediction=path.form.prediction,
        state_shape=shape,
        alphas_cumprod=path.alphas_cumprod(1000),
        clip_x_0=None,
        inputs=label,
        defaults=Defaults("ddim", chosen["num_steps"], 0.0),
    )

    def loop_of(num_steps: int) -> Loop:
        return karras_loop(num_steps, path, *ends, **churn)

    def stepping(spec: ModelSpec, counts: Sequence[int] | None) -> ModelSpec:
        numbers = counts or (chosen["num_steps"],)
        return with_loops(spec, path, "edm", {num_steps: loop_of(num_steps) for num_steps in numbers})

    network, spec = wrapped(network, spec, path)
    source = {name: value for name, value in chosen.items() if name != "classes"}
    return Imported(network, spec, {"edm": source}, (), stepping)


def _network(
    state: dict[str, Any], chosen: Mapping[str, Any]
) -> tuple[nn.Module, tuple[Input, ...], tuple[int, int, int]]:
    """Return the network, its inputs and the shape of its state."""
    check_dense(state, "weights")
    state = {
        name: value.float() for name, value in state.items() if name != "map_augment.weight"
    }  # nothing is augmented
    is_edm2, is_adm = _is_edm2(state), "out_norm.weight" in state
    stem = next(filter(STEM.fullmatch, state), "enc.NxN_conv.weight")
    channels = shape_of(state, "weights", stem, 4)[1] - is_edm2
    size = int(re.findall(r"\d+", stem)[0])
    shape = (channels, size, size)
    if chosen["preconditioner"] == "iddpm":  # the other half of what it says is a variance, which EDM does not use
        state |= {name: value[:channels] for name, value in state.items() if name.startswith("out_conv.")}
    taps = (0.5, 0.5) if is_edm2 else _taps(state)
    inputs: tuple[Input, ...] = ()
    table = "emb_label.weight" if is_edm2 else "map_label.weight"
    if table in state:
        dim, count = shape_of(state, "weights", table, 2)
        none = count if chosen["label_dropout"] > 0.0 else None
        inputs = (label_of(count, f"weights.{table}", chosen["classes"], none=none),)
    elif chosen["classes"] is not None:
        raise choices.misused("classes", "left out for a network without classes", chosen["classes"])

    def build() -> nn.Module:
        if any(0 in sizes for sizes in shapes.values()):
            raise ValueError("a weight without values")
        kind = Kind(is_adm, taps)
        balance = Balance(**{name: chosen[name] for name in Balance._fields})
        network = MPUNet(shapes, kind, balance) if is_edm2 else UNet(shapes, kind)
        y = torch.zeros(1, dtype=torch.int64) if inputs else None
        network(torch.zeros(1, *shape), torch.zeros(1), y)  # shapes only
        return network

    try:
        if is_edm2:
            state = _scaled(state)
        if inputs:  # a class is a row; none of them leaves the bias
            rows = state[table].t() * (1.0 if is_adm else math.sqrt(count))
            rows = rows if none is None else torch.cat([rows, torch.zeros(1, dim)])
            state[table] = rows + state.pop("map_label.bias", torch.zeros(dim))
        sizes = sorted({int(size) for name in state for size in re.findall(r"^enc\.(\d+)x", name)}, reverse=True)
        ours = {_inner(name_of(name, sizes)): _ordered(name, value) for name, value in state.items()}
        if "freqs" in ours and not is_edm2:
            ours["freqs"] = 2.0 * math.pi * ours["freqs"]
        shapes = {name: tuple(value.shape) for name, value in ours.items()}
        return built(build, ours, "weights"), inputs, shape
    except (LookupError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as exc:
        raise misfit("weights", f"{type(exc).__name__}: {exc}", "a network as EDM or EDM2 builds it") from exc


def _scaled(state: dict[str, Any]) -> dict[str, Any]:
    """Return EDM2's weights as its layers multiply by them, gains included."""
    gains = {name: value for name, value in state.items() if name.endswith("_gain")}
    layers = {name: re.sub(r"emb_gain$", "emb_linear.weight", name) for name in gains} | {"out_gain": "out_conv.weight"}
    by_layer = {layers[name]: gain for name, gain in gains.items()}
    return {
        name: preserving(value, by_layer.get(name, 1.0)) if name.endswith(".weight") else value
        for name, value in state.items()
        if name not in gains
    }


def _taps(state: dict[str, Any]) -> tuple[float, ...]:
    """Take the filters that resample out of the weights; return the one that all of them are, along one side."""
    parts = {".".join(name.split(".")[:2]) for name in state}
    alone = [part for part in parts if part.endswith(("_aux_down", "_aux_up", "_aux_residual"))]
    blocks = [part for part in parts.difference(alone) if part.endswith(("_down", "_up"))]
    names = [*alone, *(f"{part}.{name}" for part in blocks for name in ("conv0", "skip"))]
    names = [f"{name}.resample_filter" for name in names]
    missing = sorted(set(names) - set(state))
    if missing:
        raise misfit(f"weights.{missing[0]}", "no tensor", "the filter that resamples")
    if not names:
        return 0.5, 0.5
    shape_of(state, "weights", names[0], 4)
    first, *others = (state.pop(name).double() for name in names)
    line = first.sum(dim=(0, 1, 2))
    if not all(torch.equal(first, other) for other in (torch.outer(line, line)[None, None], *others)):
        raise misfit("weights.*.resample_filter", "others", "one separable filter for all levels")
    return tuple(line.tolist())


def _inner(name: str) -> str:
    """Return the name of an attention's weight by the module that it is in here."""
    for theirs, ours in (("norm2", "norm"), ("qkv", "qkv"), ("proj", "out")):
        name = re.sub(rf"(^|\.){theirs}\.(weight|bias)$", rf"\1attention.{ours}.\2", name)
    return name


def _ordered(name: str, value: Any) -> Any:
    """Return q, k and v one after the other, as ours are; EDM's take turns."""
    if not re.search(r"[._]qkv\.", name) or value.shape[0] % 3:
        return value
    return value.unflatten(0, (-1, 3)).transpose(0, 1).flatten(0, 1)
