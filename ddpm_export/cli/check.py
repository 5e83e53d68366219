"""`ddpm-check`: what a model file says, and whether it still computes what it promises."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ddpm_export.cli.console import entry_point, print_json
from ddpm_export.cli.help import HELP, SAFETY, WHAT, WHERE, what, where
from ddpm_export.cli.options import Config, Confinable, Json, Model, Network, Settings, limits_of
from ddpm_export.cli.texts import options_from_settings
from ddpm_export.errors import ModelRefusedError, UsageError, printable
from ddpm_export.sandbox.child import confine, is_child

if TYPE_CHECKING:
    from ddpm_export.exporting.proof import PictureProof, Proof
    from ddpm_export.model.inputs import Input
    from ddpm_export.model.spec import ModelSpec
    from ddpm_export.process.equations import Model as Predictor
    from ddpm_export.runtimes.accepted import Results
    from ddpm_export.runtimes.opened import DenoiserFile, OneCallFile


EXAMPLES = {
    WHAT: "ddpm-check unet.onnx --against results/model-10.pt --set image_size=64",
    WHERE: "ddpm-check exported/unet.onnx --provider cuda --precision float16 --json",
    SAFETY: "ddpm-check theirs.onnx --untrusted 60s,4GiB",
    HELP: "ddpm-check --install-completion",
}


def check(
    model: Model,
    *,
    against: Annotated[
        str | None, what("The checkpoint or .onnx it was made from; repeats the export's proof.")
    ] = None,
    weights: Annotated[str, what("With --against: the checkpoint's weights in the file, ema or raw.")] = "ema",
    config: Config = None,
    settings: Settings = None,
    network: Network = None,
    precision: Annotated[
        str | None,
        where(
            "What the provider computes in: float32, or float16 or bfloat16 with looser bounds. "
            "[default: the provider's]"
        ),
    ] = None,
    runtime: Confinable,
    as_json: Json = False,
) -> None:
    """Show what a model file says and replay its golden vectors on a provider, without torch.

    The file is always opened in a separate process; --untrusted sets its limits.

    Exit codes: 0 sound, 2 usage, 3 bad file, 4 wrong numbers, 5 environment, 130 interrupted.
    """
    guards, limits, provider = list[str](), limits_of(runtime.untrusted), runtime.provider
    if is_child():
        is_torch = network is not None or (against is not None and Path(against).suffix != ".onnx")
        reads = [*([] if config is None else [config]), *([] if against is None else [Path(against).parent])]
        fully = provider == "cpu" and not is_torch and not runtime.trust
        names = " or ".join(filter(None, (str(model), against)))
        guards = confine(model, **limits._asdict(), what=names, reads=reads, fully=fully).guards
    from ddpm_export.runtimes.accepted import replayed
    from ddpm_export.runtimes.external_data import check_weights
    from ddpm_export.runtimes.opened import DenoiserFile, OneCallFile
    from ddpm_export.runtimes.opening import open_file
    from ddpm_export.runtimes.providers import PROVIDERS
    from ddpm_export.system.files import sha256_of

    sealed = check_weights(model) if model.suffix == ".onnx" and model.is_file() else None
    opened = open_file(model, provider, threads=runtime.threads, trust=runtime.trust, timeout_s=limits.timeout_s)
    spec = opened.spec
    about = {"file": str(model), "bytes": model.stat().st_size, "sha256": sha256_of(model), "weights_sha256": sealed}
    facts: dict[str, Any] = {**about, "provider": provider, "confined": guards, **_facts(spec)}
    if precision is not None and isinstance(opened, OneCallFile):
        raise UsageError("--precision does not apply to a one-call file.")
    results = replayed(opened, precision or PROVIDERS[provider].precision, model)
    proof: Proof | PictureProof | None = None
    if against is not None:
        from ddpm_export.exporting.proof import prove, prove_pictures

        options = options_from_settings(config, settings or [])
        reference, original = _reference(model, opened, against, weights, options, network)
        if isinstance(opened, DenoiserFile):
            proof = prove(opened.model, reference, spec, where=str(model))
        else:
            proof = prove_pictures(opened, reference, original, where=str(model))
    if as_json:
        golden = [{**dataclasses.asdict(result), "passed": result.passed} for result in results]
        print_json({**facts, "golden": golden, "proof": proof.to_json() if proof else None})
    else:
        shown = {**facts, "golden": _golden_line(results)}
        if proof is not None:
            shown["against"] = f"{against}: {_proof_line(proof)}"
        _print_table(shown)
    failed = [result for result in results if not result.passed]
    if failed:
        worst = max(failed, key=lambda result: result.error)
        raise ModelRefusedError(
            f"{model} does not compute what it promises: {len(failed)} of {len(results)} golden cases fail, the worst "
            f"with an error of {worst.error:.3g} in {worst.place}, where {worst.tolerance:g} is allowed. Export or "
            "copy it again."
        )


def _reference(
    model: Path,
    opened: "DenoiserFile | OneCallFile",
    against: str,
    weights: str,
    options: dict[str, Any],
    network: str | None,
) -> "tuple[Predictor, ModelSpec]":
    """Return the network a file was made from, its weights rounded as the file stores them, and its spec."""
    from ddpm_export.exporting import export as exporting
    from ddpm_export.importers import load

    spec, storage = opened.spec, exporting.storage_of(model)
    if Path(against).suffix == ".onnx" and network is None:
        from ddpm_export.exporting.foreign import model_from_foreign

        if spec.graph is not None or storage != "float32":
            raise UsageError(f"--against {against} applies only to a denoiser with float32 weights.")
        return model_from_foreign(exporting.load_onnx(against, spec, options)), spec
    if network is None:
        checkpoint = load.load_checkpoint(against, weights=weights, options=options, steps=())
        _refuse_other_spec(model, spec, against, checkpoint.spec)
    else:  # a class does not contain the spec: the file's own is taken
        checkpoint = load.load_network(against, network, spec, arguments=options, weights=weights, steps=())
    return exporting.stored_model(checkpoint, storage), checkpoint.spec


def _facts(spec: "ModelSpec") -> dict[str, Any]:
    """Return what the spec says, by name; `source` is whatever the file's maker wrote there."""
    from ddpm_export.model.guidance import json_from_guidance

    a, guidance = spec.alphas_cumprod, spec.defaults.guidance
    return {
        "name": spec.name,
        "graph": spec.graph or "denoiser",
        "prediction": spec.prediction,
        "state_shape": list(spec.state_shape),
        "num_train_timesteps": spec.num_train_timesteps,
        "alphas_cumprod": {"first": a[0], "last": a[-1]},
        "clip_x_0": spec.clip_x_0,
        "variance": spec.variance,
        "defaults": {**vars(spec.defaults), "guidance": None if guidance is None else json_from_guidance(guidance)},
        "inputs": [_input_line(entry) for entry in spec.asked_inputs],
        **({} if spec.label is None else {"classes": list(spec.label.classes)}),
        "noise": spec.noise,
        "requires": list(spec.requires),
        "source": spec.source,
    }


def _input_line(entry: "Input") -> str:
    """Return an input's name, kind, size and default."""
    if not entry.is_given:
        return f"{entry.name} ({entry.kind}, fed by the sampler)"
    size = "x".join(map(str, entry.shape or [len(entry.classes)]))
    default = "must be given" if entry.kind != "label" else "cannot be none"
    if entry.none is not None:
        default = "may be none" if entry.kind == "label" else f"{entry.none:g} unless given"
    return f"{entry.name} ({entry.kind} of {size}, {default})"


def _refuse_other_spec(model: Path, spec: "ModelSpec", against: str, other: "ModelSpec") -> None:
    variance = () if spec.graph is not None else ("variance",)  # a one-call file has no variance of the checkpoint's
    for name in ("state_shape", "prediction", "alphas_cumprod", "clip_x_0", "inputs", *variance):
        if getattr(spec, name) != getattr(other, name):
            raise ModelRefusedError(
                f"{model} was not made from {against}, which has another {name}. Name the checkpoint it was made from."
            )


def _proof_line(proof: "Proof | PictureProof") -> str:
    from ddpm_export.exporting.proof import PictureProof

    pixels = f"{proof.equal_share:.2%} equal pixels"
    others = f"others within {proof.max_level_difference}"
    if isinstance(proof, PictureProof):
        return f"largest error of x_0 {proof.error:.1e} at {proof.at}; {pixels} in {len(proof.draws)} draws, {others}"
    kind = "relative" if proof.relative else "absolute (zeros expected)"
    return (
        f"largest error {proof.error:.1e} {kind} at t={proof.t}, batch {proof.batch}; {pixels} after {proof.num_steps} "
        f"steps, {others}"
    )


def _golden_line(results: "Results") -> str:
    if not results:
        return "none in the file; use --against to verify it"
    passed = sum(result.passed for result in results)
    worst = max(results, key=lambda result: result.error)
    return f"{passed} of {len(results)} reproduced, largest error {worst.error:.1e} (at most {worst.tolerance:g})"


def _print_table(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():  # an object has a row for each of its entries
        parts = [(f"{name}.{key}", part) for key, part in sorted(value.items())] if isinstance(value, dict) else []
        for label, part in parts or [(name, value)]:
            # text from the file: neither the terminal nor rich may act on it
            table.add_row(escape(printable(label)), escape(printable(_text(part))))
    Console(width=None if sys.stdout.isatty() else 120, highlight=False).print(table)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    text = "none" if value is None else str(value)
    return text if len(text) <= 400 else f"{text[:400]}... ({len(text)} characters)"


main = entry_point(check, EXAMPLES)
