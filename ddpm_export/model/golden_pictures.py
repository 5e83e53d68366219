"""Golden vectors of a one-call file: pixels that it promises, and their replay. NumPy only; knows no runtime.

docs/format.md section 5 is the contract. golden.py has those of a denoiser, whose outputs can be seen.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ddpm_export.model.codec import OBJECT, Form, MisfitError, array, choice, integer, nullable, number, record, rule
from ddpm_export.model.examples import example_of_inputs
from ddpm_export.model.golden import Promised, cases_of, golden_vectors, places_form
from ddpm_export.model.guidance import GUIDANCE_FORM, Guidance, json_from_guidance
from ddpm_export.model.spec import GUIDANCE, OPENABLE, PLAN, TIMES, ModelSpec, times_form
from ddpm_export.process.equations import Array
from ddpm_export.process.noise import INPUTS, noise_stream

LEVELS = 1.0  # promised of a pixel: other kernels sum in another order, and a level may round to its neighbour
# promised of the mean over all pixels, of which a few per mille may be off by one: a wrong weight that happens to leave
# the chosen pixels as they are moves it
MEAN_LEVELS = 0.1
VALUES = 1e-3  # promised of numbers that are no pixels, of the largest that counts
NUM_POSITIONS = 64
MAX_PLANS = 3  # how many have a case of their own, the shortest
MANY_STEPS = 100  # from which on fixed ones are proven by few images
MAX_IMAGES, MAX_EVALUATIONS = 64, 4096  # a file must not keep its reader busy for hours


@dataclass(frozen=True)
class Draw:
    """Name pictures: images first to first + n - 1 of a seed, by num_steps steps of ddim with eta.

    times: those of the steps, which are evenly spaced without. plan: the name of one of num_steps rows, in their place.
    guidance: None for a scale of 1, whatever the file's own. strength: of an edit, whose pictures are examples, 0 for a
    start from noise; None where nothing is given.
    """

    seed: int
    first: int
    n: int
    num_steps: int
    eta: float
    times: tuple[int, ...] | None = None
    plan: str | None = None
    guidance: Guidance | None = None
    strength: float | None = None

    @property
    def numbers(self) -> range:
        """Return the numbers of the images."""
        return range(self.first, self.first + self.n)

    @property
    def settings(self) -> tuple[Any, ...]:
        """Return the arguments of a one-call file, in order."""
        guidance = self.guidance or Guidance()
        return self.seed, self.numbers, self.num_steps, self.eta, self.times, self.plan, guidance

    def __str__(self) -> str:
        of = f"seed {self.seed}, images {self.first} to {self.numbers[-1]}"
        how = f"{self.num_steps} steps, eta {self.eta:g}" if self.plan is None else f"plan {self.plan}"
        guided = "" if self.guidance is None else f", guidance {self.guidance.scale:g}"
        of += f", strength {self.strength:g}" if self.strength else ""
        return f"{of}, {how}{guided}" + ("" if self.times is None else f", at times {', '.join(map(str, self.times))}")

    def settled(self, spec: ModelSpec) -> "Draw":
        """Return the draw with the choices that are fixed in a one-call file."""
        if spec.open is None:
            return self
        fixed = spec.fixed_choices
        guidance, plan = fixed.get(GUIDANCE, self.guidance), fixed.get(PLAN, self.plan)
        settled = replace(
            self,
            eta=fixed.get("eta", self.eta),
            times=fixed.get(TIMES, self.times) if plan is None else None,
            plan=plan,
            guidance=None if guidance is None or guidance.scale == 1 else guidance,
        )
        return replace(settled, num_steps=spec.steps_of(settled.plan, settled.times, settled.num_steps))


CASES = (Draw(0, 0, 1, 1, 0.0), Draw(0, 0, 2, 10, 0.0), Draw(1, 5, 1, 7, 1.0))  # cut to T steps where T is less


@dataclass(frozen=True)
class PictureResult(Promised):
    """The result of one case; error is the largest difference in levels, or ten times that of the means.

    Of numbers that are no pixels it is the largest difference, or ten times that of the means, over the largest number.
    """

    draw: Draw
    error: float
    tolerance: float

    @property
    def place(self) -> str:
        """Return which case it was."""
        return str(self.draw)


def draws_of(spec: ModelSpec, draws: Iterable[Draw]) -> list[Draw]:
    """Return draws that a one-call file can make: these, cut to T steps, one of times, one of each of its plans.

    One more is guided at some of its times, if the network takes guidance; for an edit one more begins with pictures.
    Of the plans, the three with the fewest rows, none too long to replay. Choices that are fixed in the file stay; of
    many fixed steps there are two draws of an image.
    """
    opens = OPENABLE if spec.open is None else spec.open
    T = spec.num_train_timesteps
    cut = [replace(draw, num_steps=min(draw.num_steps, T)) for draw in draws]
    times = tuple(sorted({T - 1, (2 * T) // 3, T // 5}, reverse=True))  # neither evenly spaced nor down to 0
    timed = [Draw(2, 3, 1, len(times), 0.5, times)] if TIMES in opens else []
    plans = spec.plans if PLAN in opens else {}
    short = sorted((len(plan.rows), name) for name, plan in plans.items() if len(plan.rows) <= MAX_EVALUATIONS)
    guidance = Guidance(2.5, (T // 4, T - 1 - T // 4))
    guided = [Draw(4, 2, 2, min(6, T), 0.5, guidance=guidance)] if spec.takes_guidance and GUIDANCE in opens else []
    draws = [*cut, *timed, *guided, *(Draw(3, 1, 1, rows, 0.0, plan=name) for rows, name in short[:MAX_PLANS])]
    if spec.graph == "edit":
        draws = [replace(draw, strength=0.0) for draw in draws] + [Draw(5, 4, 2, min(9, T), 0.5, strength=0.6)]
    draws = [draw.settled(spec) for draw in draws]
    if max(draw.num_steps for draw in draws) <= MANY_STEPS:
        return draws
    return [replace(draw, n=1) for draw in (draws[0], draws[-1])]


def inputs_in(spec: ModelSpec, draw: Draw) -> dict[str, Any]:
    """Return the values of the network's inputs in a draw that do not follow from its rows."""
    examples = example_of_inputs(spec.asked_inputs, draw.seed, draw.numbers)
    return {entry.name: examples[entry.name] for entry in spec.asked_inputs if entry.is_given}


def given_in(spec: ModelSpec, draw: Draw) -> dict[str, Any]:
    """Return the pictures of an edit in a draw: image and mask (n, *shape), and strength; nothing for other files.

    With K inputs of the network, the k-th image is its draw K of the domain of examples, clipped to [-1, 1], and its
    mask draw K + 1 plus 0.5, clipped to [0, 1].
    """
    if draw.strength is None:
        return {}
    noise, K = noise_stream(draw.seed, draw.numbers, spec.state_shape, domain=INPUTS), len(spec.asked_inputs)
    image, mask = np.clip(noise(K), -1.0, 1.0), np.clip(noise(K + 1) + np.float32(0.5), 0.0, 1.0)
    return {"image": image, "mask": mask, "strength": draw.strength}


def fixed_names(spec: ModelSpec) -> set[str]:
    """Return the names in a draw of what is fixed in a one-call file."""
    fixed = set() if spec.open is None else set(OPENABLE) - set(spec.open)
    return {"num_steps" if name == "steps" else name for name in fixed}


def golden_from_pictures(pictures: Callable[[Draw], Array], spec: ModelSpec) -> dict[str, Any] | None:
    """Return golden vectors as JSON for `spec.golden` of a one-call file, None where a replay would take too long.

    pictures: uint8 (n, H, W, C) of a draw, which the file must reproduce. Cases: `draws_of`; 64 pixels of each, evenly
    spread, and the mean of all. Costs 31 evaluations of one image, 20 for guidance, and one a row of the plans.
    """
    cases = []
    for draw in draws_of(spec, CASES):
        if draw.n * draw.num_steps > MAX_EVALUATIONS:
            continue
        levels = pictures(draw).reshape(-1)
        positions = np.unique(np.linspace(0, levels.size - 1, min(levels.size, NUM_POSITIONS)).round().astype(np.int64))
        mean = float(levels.astype(np.float64).mean())
        values = {"positions": positions.tolist(), _kind(spec): levels[positions].tolist(), "mean": mean}
        options = {name: value for name, value in vars(draw).items() if value is not None}
        lists = {"times": list(draw.times)} if draw.times else {}
        guided = {"guidance": json_from_guidance(draw.guidance)} if draw.guidance else {}
        case = {**options, **lists, **guided, **values}
        cases.append({name: value for name, value in case.items() if name not in fixed_names(spec)})
    return {"cases": cases, "tolerance": {_kind(spec): _promise(spec)}} if cases else None


def _kind(spec: ModelSpec) -> str:
    return "levels" if spec.is_picture else "values"


def _promise(spec: ModelSpec) -> float:
    return LEVELS if spec.is_picture else VALUES


def replay_golden_pictures(pictures: Callable[[Draw], Array], spec: ModelSpec) -> list[PictureResult]:
    """Return one result for each golden case of the spec, in the file's order; none for a file without golden vectors.

    Then one picture is made all the same: a file that does not run is not sound. pictures: what the file makes of a
    draw, uint8 (n, H, W, C). Raises BadFileError for golden vectors that are not valid, and what `pictures` raises.
    """
    if spec.golden is None:
        draw = Draw(seed=0, first=0, n=1, num_steps=1, eta=0.0, strength=0.0 if spec.graph == "edit" else None)
        pictures(draw.settled(spec))
        return []
    # a file may promise more than this version does, never less: a broken file could vouch for itself
    kind = _kind(spec)
    promise = record({"tolerance": record({kind: number(0, _promise(spec))})})
    with golden_vectors():
        tolerance = float(promise(spec.golden, "")["tolerance"][kind])
        cases = cases_of(spec.golden, _case_form(spec))
    results = []
    for draw, case in cases:
        levels = pictures(draw).reshape(-1).astype(np.float64)
        expected = np.array(case["levels"])
        scale = 1.0 if spec.is_picture else max(1.0, float(np.abs(expected).max()))
        off = float(np.abs(levels[case["positions"]] - expected).max()) / scale
        off_mean = abs(float(levels.mean()) - case["mean"]) / scale
        results.append(PictureResult(draw, max(off, off_mean * LEVELS / MEAN_LEVELS), tolerance))
    return results


def _case_form(spec: ModelSpec) -> Form:
    """Return the form of a case, read as its draw, choices fixed in the file included, and its values."""
    fixed, T = {} if spec.open is None else spec.fixed_choices, spec.num_train_timesteps
    absent = rule(lambda value: value is None, "absent")
    choices = {PLAN: nullable(choice(tuple(spec.plans))), TIMES: nullable(times_form(T))}
    entries = {
        **{"seed": integer(0, 2**63 - 1), "first": integer(0, 2**32 - MAX_IMAGES), "n": integer(1, MAX_IMAGES)},
        **{"eta": number(0, 1), _kind(spec): array(integer(0, 255) if spec.is_picture else number())},
        "mean": number(0, 255) if spec.is_picture else number(),
    }
    options = {GUIDANCE: nullable(GUIDANCE_FORM) if spec.takes_guidance else absent}
    (entries if spec.graph == "edit" else options)["strength"] = number(0, 1) if spec.graph == "edit" else absent

    def read(value: Any, place: str) -> tuple[Draw, dict[str, Any]]:
        case = {**OBJECT(value, place), **{name: fixed[name] for name in ("eta", PLAN) if name in fixed}}
        if GUIDANCE in fixed:
            case[GUIDANCE] = None
        if TIMES in fixed:
            case[TIMES] = fixed[TIMES] if case.get(PLAN) is None else None
        chosen = record({}, choices)(case, place)
        plan, times = chosen.get(PLAN), chosen.get(TIMES)
        if plan is not None:
            absent(times, f"{place}.{TIMES}")
        rows = spec.plans[plan].rows if plan is not None else times
        if "num_steps" in fixed_names(spec):
            case["num_steps"] = spec.steps_of(plan, times, 0)
        steps = integer(1, T) if rows is None else integer(len(rows), len(rows))
        numbers = record({**entries, "num_steps": steps}, options)(case, place)
        n, levels = numbers["n"], numbers.pop(_kind(spec))
        if n * numbers["num_steps"] > MAX_EVALUATIONS:
            raise MisfitError(place, f"of at most {MAX_EVALUATIONS} evaluations", n * numbers["num_steps"])
        positions = places_form(n * math.prod(spec.state_shape))(case.get("positions"), f"{place}.positions")
        if len(levels) != len(positions):
            raise MisfitError(f"{place}.{_kind(spec)}", "as many as positions", levels)
        values = {"positions": positions, "levels": levels, "mean": numbers.pop("mean")}
        return Draw(**numbers, times=times, plan=plan).settled(spec), values

    return read
