"""Hostile graphs and the child: patterns that a runtime writes to the terminal, foreign files in adoption."""

from models import crashing_model, endless_model, greedy_model, mix_model, text_model
from onnx import ModelProto

from .cases import REFUSED, Case, check, evaluate, family, files_of_eval, flips, run, truncations
from .hostile_data import folder_of

ESCAPES = "\x1b[2J\x1b]0;owned\x07\nerror: all is well"


@family("patterns that a runtime writes to the terminal")
def patterns(noise):
    for operator in ("RegexFullMatch", "Tokenizer"):
        content = text_model(operator, f"({ESCAPES}")
        yield Case(f"{operator}, run", {"m.onnx": content}, run(), apart=True)
        yield Case(f"{operator}, check", {"m.onnx": content}, check(), apart=True)
        files = {**files_of_eval(), **folder_of()}
        yield Case(f"{operator}, eval, extractor", {**files, "e.onnx": content}, evaluate("data"), apart=True)
        yield Case(f"{operator}, adopt", {"theirs.onnx": foreign(content)}, ADOPT, apart=True)


ADOPT = ("adopt", "theirs.onnx", "--schedule", "linear", "--timesteps", "40", "--untrusted", "8s", "--out", "out")


def foreign(content):
    """Return a file without our metadata."""
    model = ModelProto.FromString(content)
    del model.metadata_props[:]
    return model.SerializeToString()


@family("foreign .onnx, adopted in a child")
def adopted(noise):
    for name, content in {"crashing": crashing_model(), "endless": endless_model(), "greedy": greedy_model(40)}.items():
        yield Case(name, {"theirs.onnx": foreign(content)}, ADOPT, apart=True)
        against = check("--against", "theirs.onnx", "--untrusted", "8s")
        yield Case(f"{name}, against", {"theirs.onnx": foreign(content), "m.onnx": mix_model()}, against, apart=True)
    sound = foreign(crashing_model())
    for name, content in [*truncations(sound, 10), *flips(sound, 20, noise)]:
        yield Case(name, {"theirs.onnx": content}, ADOPT, REFUSED | {0}, apart=True)
