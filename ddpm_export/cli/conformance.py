"""Score a program in any language over the golden cases: it reads a case a line, and answers each with a line.

docs/conformance.md says what the lines are; a file of `tests/golden/` has the cases of each family.
"""

import hashlib
import json
import math
import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from ddpm_export.cli.console import entry_point, print_json
from ddpm_export.cli.help import HELP, what
from ddpm_export.cli.options import Json
from ddpm_export.errors import ModelRefusedError, UsageError, shown
from ddpm_export.runtimes.named import shipped

EXAMPLES = {HELP: "python -m ddpm_export.conformance --families words,noise -- ./their-program"}
TIMEOUT_S = 120.0  # for all cases of a family
SKIP = "skip"  # a program's answer to a case of a family that it does not know


class Case(NamedTuple):
    """A line for the program, and what is wrong with the words of its answer, None where nothing is."""

    line: str
    wrong: Callable[[list[str]], str | None]


class Score(NamedTuple):
    """How many cases of a family a program passed, and what is wrong with the first that it did not."""

    cases: int
    passed: int
    skipped: int
    first_wrong: str | None


def golden_file(name: str) -> dict[str, Any]:
    """Return a golden file: of the installed package, or of `tests/golden/` in a clone."""
    return dict(json.loads(shipped(f"golden/{name}", f"tests/golden/{name}").read_text(encoding="ascii")))


def _exact(expected: Sequence[object], words: Sequence[str], start: int = 0) -> str | None:
    if len(words) != len(expected):
        return f"{len(words)} values in place of {len(expected)}"
    differ = [k for k, (word, value) in enumerate(zip(words, expected, strict=True)) if word != str(value)]
    if not differ:
        return None
    return f"value {start + differ[0]} is {shown(words[differ[0]])}, expected {expected[differ[0]]}"


def _digest(count: int, case: dict[str, Any], words: list[str]) -> str | None:
    first, last = case["first_bits"], case["last_bits"]
    if len(words) != count:
        return f"{len(words)} values in place of {count}"
    if found := _exact(first, words[: len(first)]) or _exact(last, words[-len(last) :], count - len(last)):
        return found
    digest = hashlib.sha256(np.array([int(word) for word in words], "<u4").tobytes()).hexdigest()
    return None if digest == case["sha256"] else f"a value from {len(first)} to {count - len(last) - 1} differs"


def _near(expected: NDArray[np.float64], tolerance: float, words: list[str]) -> str | None:
    if len(words) != expected.size:
        return f"{len(words)} values in place of {expected.size}"
    given = np.array([float(word) for word in words])
    off = np.flatnonzero(~(np.abs(given - expected) <= tolerance))  # a NaN is off
    return f"value {off[0]} is {given[off[0]]:g}, expected {expected[off[0]]:g}" if off.size else None


def _case(wrong: Callable[[list[str]], str | None], *asked: object) -> Case:
    return Case(" ".join(map(str, asked)), wrong)


def _words() -> Iterator[Case]:
    for case in golden_file("philox.json")["cases"]:
        yield _case(partial(_exact, case["words"]), "words", *case["counter"], *case["key"])


def _normals() -> Iterator[Case]:
    for case in golden_file("normals.json")["cases"]:
        yield _case(partial(_exact, [case["bits"]]), "normals", case["word"])


def _noise() -> Iterator[Case]:
    for case in golden_file("noise.json")["cases"]:
        count, names = math.prod(case["shape"]), ("seed", "image", "draw", "domain")
        yield _case(partial(_digest, count, case), "noise", *(case[name] for name in names), count)


def _times() -> Iterator[Case]:
    for case in golden_file("time_grids.json")["cases"]:
        yield _case(partial(_exact, case["t"]), "times", case["num_train_timesteps"], case["num_steps"])


def _levels() -> Iterator[Case]:
    for case in golden_file("pixels.json")["cases"]:
        yield _case(partial(_exact, [case["level"]]), "levels", case["bits"])


def _trajectory() -> Iterator[Case]:
    golden = golden_file("trajectories.json")
    count, num_steps = math.prod(golden["shape"]), golden["num_steps"]
    for case in golden["cases"]:
        states = np.array([state["x"] for state in case["states"]]).reshape(num_steps, -1, count)
        if (case["sampler"], case["prediction"]) == ("ddim", "eps"):
            clip = "none" if case["clip_x_0"] is None else case["clip_x_0"]
            how = (count, num_steps, case["eta"], clip, golden["mean"], golden["std"], *golden["alphas_cumprod"])
            for k, image in enumerate(golden["images"]):
                wrong = partial(_near, states[:, k].ravel(), golden["tolerance"])
                yield _case(wrong, "trajectory", golden["seed"], image, *how)


def _spec() -> Iterator[Case]:
    changes = golden_file("spec_attacks/changes.json")
    texts = [(case["text"], case["accepted"]) for case in golden_file("spec_attacks/texts.json")["cases"]]
    for case in changes["cases"]:
        spec = {**changes["sound"], **case["change"]}
        kept = {name: value for name, value in spec.items() if name not in case.get("without", ())}
        texts.append((json.dumps(kept), case["accepted"]))
    for text, accepted in texts:
        yield _case(partial(_exact, ["yes" if accepted else "no"]), "spec", text.encode().hex() or "-")


FAMILIES: dict[str, Callable[[], Iterator[Case]]] = {
    **{"words": _words, "normals": _normals, "noise": _noise, "times": _times},
    **{"levels": _levels, "trajectory": _trajectory, "spec": _spec},
}


def score(program: Sequence[str], family: str) -> Score:
    """Run a program once over the cases of a family and return its score."""
    cases = list(FAMILIES[family]())
    lines = "".join(f"{case.line}\n" for case in cases).encode()
    ending = ""
    try:
        done = subprocess.run(program, input=lines, capture_output=True, timeout=TIMEOUT_S, check=False)
        out, ending = done.stdout, f"the program ended with code {done.returncode}"
    except subprocess.TimeoutExpired as exc:
        out, ending = exc.stdout or b"", f"the program took longer than {TIMEOUT_S:g} s"
    answers = out.decode(errors="replace").splitlines()
    reasons = [_reason(case, answers[k].split() if k < len(answers) else None, ending) for k, case in enumerate(cases)]
    wrong = [f"case {k + 1}: {reason}" for k, reason in enumerate(reasons) if reason]
    return Score(len(cases), len(cases) - len(wrong), answers.count(SKIP), wrong[0] if wrong else None)


def _reason(case: Case, words: list[str] | None, ending: str) -> str | None:
    if words is None:
        return f"no answer; {ending}"
    try:
        return "skipped" if words == [SKIP] else case.wrong(words)
    except (ValueError, OverflowError):
        return f"{shown(' '.join(words))} is not what the family's answers are"


def conformance(
    program: Annotated[list[str], typer.Argument(help="The program and its arguments, after --.")],
    *,
    families: Annotated[str, what("What to ask for, names with commas.")] = ",".join(FAMILIES),
    as_json: Json = False,
) -> None:
    """Score a program in any language over the golden cases: noise, steps, trajectories, specs.

    Exit codes: 0 all asked families pass, 2 usage, 3 no such program, 4 a case fails.
    """
    asked = families.split(",")
    if unknown := [name for name in asked if name not in FAMILIES]:
        raise UsageError(f"--families must be of {', '.join(FAMILIES)}, got {shown(unknown[0])}.")
    scores = {name: score(program, name) for name in asked}
    failed = [name for name, found in scores.items() if found.passed < found.cases]
    if as_json:
        by_family = {name: found._asdict() for name, found in scores.items()}
        print_json({"program": list(program), "families": by_family, "passed": not failed})
    else:
        for name, found in scores.items():
            print(f"{name}: {found.passed}/{found.cases}" + (f"; {found.first_wrong}" if found.first_wrong else ""))
    if failed:
        raise ModelRefusedError(f"{program[0]} fails {len(failed)} of {len(asked)} families: {', '.join(failed)}.")


main = entry_point(conformance, EXAMPLES)
