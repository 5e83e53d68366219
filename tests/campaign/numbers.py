"""Numbers: NaN and infinity at any step, input or output, and flipped bits of weights."""

import random
import tempfile
from pathlib import Path

import numpy as np
import onnx
from commands import run_here
from models import constant, learned_model, mix_model, node, scale_model, tiny_spec, told_model
from onnx import ModelProto

from ddpm_export.errors import BadFileError, NonFiniteError
from ddpm_export.exporting.export import export
from ddpm_export.exporting.onnx_file import writing_model
from ddpm_export.model.denoiser import denoiser
from ddpm_export.model.inputs import Input
from ddpm_export.model.steps import plan
from ddpm_export.process.noise import noise_stream
from ddpm_export.process.walk import walk
from ddpm_export.runtimes.external_data import check_weights
from ddpm_export.runtimes.opening import open_file, open_model
from ddpm_export.sampling.generate import pictures
from ddpm_export.sampling.request import request_for

BAD = (np.nan, np.inf, -np.inf)
FLIPS = 10_000


class Sick:
    """A model or a stream of noise that gives one bad number: in one call, at an image and a place drawn at random."""

    def __init__(self, healthy, call, value, noise):
        self.healthy, self.call, self.value, self.noise = healthy, call, value, noise
        self.calls = 0

    def __call__(self, *given, **inputs):
        made = self.healthy(*given, **inputs)
        number, self.calls = self.calls, self.calls + 1
        if number != self.call:
            return made
        if isinstance(made, dict):
            name = self.noise.choice(sorted(made))
            return {**made, name: self.with_one_bad(made[name])}
        return self.with_one_bad(made)

    def with_one_bad(self, values):
        values = values.copy()
        self.image = self.noise.randrange(len(values))
        values[self.image].flat[self.noise.randrange(values[self.image].size)] = self.value
        return values


def inject(tally, seed, steps=8):
    """Walk with one bad number at every step: it is told in that step, with the image that it is in."""
    noise = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in {
            "eps": mix_model(),
            "learned": learned_model(),
            "v": scale_model(tiny_spec(prediction="v")),
        }.items():
            path = Path(folder, f"{name}.onnx")
            path.write_bytes(content)
            model, spec = open_model(path, threads=1)
            for solver in ("ddim", "ddpm", "dpmpp_2m", "unipc"):
                rows = plan(spec, sampler=solver, num_steps=steps)
                healthy = noise_stream(0, range(3), spec.state_shape)
                draws = Sick(healthy, None, 0, noise)
                list(walk(denoiser(model, spec), draws, rows))
                for value in BAD:
                    for k in range(len(rows.rows)):
                        sick = Sick(model, k, value, noise)
                        why = told_at(sick, k + 1, sick, healthy, spec, rows)
                        tally.count("numbers", f"{value} from the network, {solver}", f"{name}, {k}", why)
                    for k in range(draws.calls):  # draw k is in the state that evaluation k reads
                        sick, counted = Sick(healthy, k, value, noise), Sick(model, None, 0, noise)
                        why = told_at(sick, k + 1, counted, sick, spec, rows)
                        tally.count("numbers", f"{value} in the state, {solver}", f"{name}, {k}", why)


def told_at(sick, evaluations, model, draws, spec, rows):
    """Return what is wrong with how a bad number is told, None where it is told in its step, of its image."""
    try:
        list(walk(denoiser(model, spec), draws, rows))
    except NonFiniteError as exc:
        if model.calls > evaluations:
            return f"told after {model.calls} evaluations, not {evaluations}: {exc}"
        return None if exc.index == sick.image else f"told of image {exc.index}, not {sick.image}"
    return "no error"


def through_files(tally):
    """Commands on files that give, or are told, what is not finite: 6 or 3, and no picture."""
    inputs = (Input("w", "vector", (1,), none=0.0),)
    told = told_model(tiny_spec(inputs=inputs, requires=("inputs",)))
    from ddpm_export.cli.run import main

    with tempfile.TemporaryDirectory() as folder:
        model, out = Path(folder, "m.onnx"), Path(folder, "a.npy")
        for value in BAD:
            cases = {"a weight": (scale_model(weight=constant("w", value)), [])}
            cases["an input"] = told, ["--input", f"w={value}"]
            for name, (content, options) in cases.items():
                model.write_bytes(content)
                ending = run_here(main, model, "--n", 1, "--steps", 2, "--out", out, *options)
                why = None if ending.code in (2, 3, 6) and not out.exists() else f"{ending}"
                tally.count("numbers", f"{name} of a file", value, why)
        for kind in ("sampler", "slice"):
            model.write_bytes(scale_model())
            for value in BAD:
                path = Path(folder, f"m.{kind}.onnx")
                export(model, path, format=kind, opens="all")
                made = ModelProto.FromString(path.read_bytes())
                spoil(made, value)
                path.write_bytes(made.SerializeToString())
                why = "a picture"
                try:
                    opened = open_file(path, threads=1)
                    list(pictures(opened, request_for(opened.spec, n=2, seed=0, num_steps=3), lambda _step: True))
                except NonFiniteError:
                    why = None
                tally.count("numbers", "a network within a one-call file", f"{kind} {value}", why)


def spoil(model, value):
    """Multiply the network within a one-call file by a bad number."""

    def graphs(graph):
        yield graph
        for each in graph.node:
            for attribute in each.attribute:
                if attribute.HasField("g"):
                    yield from graphs(attribute.g)

    for graph in graphs(model.graph):
        for tensor in graph.initializer:
            if tensor.name.split("/")[-1] == "w":
                tensor.CopyFrom(constant(tensor.name, value))
                return
    raise AssertionError("no weight")


def flip_weights(tally, seed, count=FLIPS):
    """Flip one bit at a time of the weights of exported files, inline and beside: ddpm-check sees each."""
    from ddpm_export.cli.check import main

    noise = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "m.onnx")
        model.write_bytes(mix_model())
        inline, beside = Path(folder, "inline.onnx"), Path(folder, "beside.onnx")
        with writing_model(onnx.load(model), inline):
            pass
        large = ModelProto.FromString(model.read_bytes())
        large.graph.initializer.append(constant("more", np.ones(3000)))
        large.graph.node.append(node("Identity", ["more"], "unused"))
        with writing_model(large, beside, max_inline_bytes=0):
            pass
        (data,) = Path(folder).glob("beside.onnx.*.data")
        for path in (inline, beside):
            assert check_weights(path) is not None
        content = inline.read_bytes()
        raw = next(one.raw_data for one in onnx.load(inline).graph.initializer if one.name == "w")
        start = content.index(raw)
        places = {
            "in the file": (inline, inline, range(start, start + len(raw))),
            "in a file beside": (beside, data, range(data.stat().st_size)),
        }
        for name, (path, file, bytes_) in places.items():
            whole = file.read_bytes()
            for k in range(count // len(places)):
                at, bit = noise.choice(bytes_), noise.randrange(8)
                file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
                why = "missed"
                try:
                    check_weights(path)
                except BadFileError:
                    why = None
                if k % (count // 20) == 0:  # by the command itself now and then
                    ending = run_here(main, path)
                    if ending.code != 3 or "are not those that were exported" not in ending.err:
                        why = f"{ending}"
                tally.count("numbers", f"a bit of the weights {name}", f"bit {bit} of byte {at}", why)
            file.write_bytes(whole)


def run(tally, seed, *, flips=FLIPS, steps=20):
    inject(tally, seed, steps)
    through_files(tally)
    flip_weights(tally, seed, flips)
