"""`python -m train.tune`: plans of few evaluations for one network, whose pictures come near to those of many.

Learns times and weights of a solver's table, not the network, and needs no data: only noise, and where a solution of
many steps brings it (as LD3, Tong et al. 2024, and S4S, Frankel et al. 2025, do by gradients). A table has some dozens
of numbers, so that Gauss and Newton's method, with a derivative for each number from walking on with that number
changed, needs a handful of iterations; it reads the network as any sampler does, and takes exported files as well.
"""

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from ddpm_export.cli.console import entry_point, print_json
from ddpm_export.cli.options import Debug
from ddpm_export.cli.texts import guidance_from_text
from ddpm_export.errors import UsageError
from ddpm_export.exporting.export import eager_model
from ddpm_export.exporting.plans import with_plans
from ddpm_export.importers.load import load_checkpoint
from ddpm_export.model.denoiser import denoiser
from ddpm_export.model.guidance import Guidance
from ddpm_export.model.plans import json_from_plan
from ddpm_export.model.spec import ModelSpec
from ddpm_export.model.steps import plan
from ddpm_export.process.equations import Array, Denoiser, Model
from ddpm_export.process.noise import noise_stream
from ddpm_export.process.rows import Plan, Row
from ddpm_export.process.schedules import GRIDS
from ddpm_export.process.walk import State, walk, weighted_sum
from ddpm_export.runtimes.opening import open_model
from ddpm_export.sampling.request import request_for

from .pages import write_json

Float64 = NDArray[np.float64]

TEACHER = {"sampler": "dpmpp_2m", "grid": "quadratic"}
# of one evaluation a step and no noise; unipc of order 2, the better one where steps are few
SOLVERS: dict[str, dict[str, Any]] = {
    "ddim": {"eta": 0.0},
    "dpmpp_2m": {},
    "dpmpp_3m": {},
    "ipndm": {},
    "deis": {},
    "unipc": {"order": 2},
}
REACH = 4  # evaluations that a tuned row reads at most: what older ones add does not show
LEVELS = 127.5  # of a pixel's 255, in a unit of the state
MOVE = 1e-2  # of a weight's share, to find a derivative in float32
DAMPING, MOST_DAMPING = 1e-3, 1e3
EDGES = 1.0  # what a difference between neighbours counts, beside a pixel
NEAR = 1.0  # levels: an image at a smaller distance weighs no more
ENOUGH = 1e-3  # a smaller part of the error is not worth another iteration


@dataclass(frozen=True)
class Table:
    """A plan by numbers of order 1: times (N,), and for row k the shares (2, reach) of what was found, newest first.

    shares: weights of clean images and of noises, divided by those of a ddim step, so that they stay of use where the
    times move. The row to the picture has those of clean images only, (1, reach): noises would leave specks in the
    picture, which a distance hardly sees and people do.
    """

    times: tuple[int, ...]
    shares: tuple[Float64, ...]

    def plan(self, alphas_cumprod: Sequence[float]) -> Plan:
        """Return the rows that walk it."""
        rows = []
        for k, (t, shares, scale) in enumerate(zip(self.times, self.shares, self.scales(alphas_cumprod), strict=True)):
            weights = [tuple(map(float, of_one_kind)) for of_one_kind in scale * shares]
            rows.append(Row(k + 1, t, alphas_cumprod[t], *weights))
        return Plan(tuple(rows))

    def scales(self, alphas_cumprod: Sequence[float]) -> list[Float64]:
        """Return each row's ddim weights of clean image and noise, (2, 1), (1, 1) of the last one, without noise."""
        after = [alphas_cumprod[t] for t in self.times[1:]]
        return [np.sqrt([[a], [1.0 - a]]) for a in after] + [np.ones((1, 1))]

    def moved(self, by: Float64, T: int) -> "Table":
        """Return the table with numbers added to the times, which are rounded and kept apart, then to all shares."""
        N = len(self.times)
        times = list(np.rint(np.add(self.times, by[:N])).astype(int))
        for k in range(N):  # strictly falling, with room for the rest
            times[k] = max(min(times[k], T - 1 if k == 0 else times[k - 1] - 1), N - 1 - k)
        ends = N + np.cumsum([shares.size for shares in self.shares])
        parts = np.split(by[N:], ends[:-1] - N)
        shares = [own + part.reshape(own.shape) for own, part in zip(self.shares, parts, strict=True)]
        return Table(tuple(map(int, times)), tuple(shares))


def table_from_plan(plan: Plan, alphas_cumprod: Sequence[float], reach: int = REACH) -> Table:
    """Return the table of a plan without noise, with room for `reach` evaluations a row, less what it cannot hold."""
    times = tuple(int(row.t) for row in plan.rows)
    shares = [np.zeros((2, min(row.i, reach))) for row in plan.rows[:-1]]
    table = Table(times, (*shares, np.zeros((1, min(len(times), reach)))))
    for row, own, scale in zip(plan.rows, table.shares, table.scales(alphas_cumprod), strict=True):
        for kind, weights in enumerate((row.x_0, row.eps)[: len(own)]):
            most = min(len(weights), own.shape[1])
            own[kind, :most] = np.divide(weights[:most], scale[kind])
    return table


class Lesson(NamedTuple):
    """Noise to start from, the network as it is told of these images, and where many steps end, both (B, C, H, W)."""

    noise: Array
    denoise: Denoiser
    end: Array


class Fit(NamedTuple):
    """What was learned, from what, and the mean distances in levels at first and after each iteration.

    errors: of what was learned from, in pixels and edges. held_out: of other noise, in pixels.
    """

    table: Table
    start: str
    errors: list[float]
    held_out: list[float]


def pixels(x: Array, bound: float = 1.0) -> Array:
    """Return pixels as a picture shows them, of which a distance is the RMS in levels, (B, C * H * W).

    bound: beyond which nothing shows; infinity for states that are no pictures, where a level is 1 / 127.5.
    """
    flat = np.clip(x, -bound, bound).reshape(len(x), -1)
    result: Array = flat * np.float32(LEVELS / math.sqrt(flat.shape[1]))
    return result


def pixels_and_edges(x: Array, bound: float = 1.0) -> Array:
    """Return pixels, and EDGES times the differences of neighbours, where noise shows and shades hardly do, (B, K)."""
    picture = np.clip(x, -bound, bound)
    seen = [picture, *(np.float32(EDGES) * np.diff(picture, axis=axis) for axis in range(2, x.ndim))]
    scale = np.float32(LEVELS / math.sqrt(picture[0].size))
    return scale * np.concatenate([part.reshape(len(x), -1) for part in seen], axis=1)


@dataclass(frozen=True)
class Walker:
    """Walk the plans of one network, and measure where they end.

    Of K classes, image k is of class k mod K. guidance: None is the file's own.
    """

    model: Model
    spec: ModelSpec
    guidance: Guidance | float | None = None

    @property
    def bound(self) -> float:
        """Return beyond which value of a state nothing shows."""
        return 1.0 if self.spec.state_is_picture else math.inf

    def lessons(self, numbers: range, seed: int, num_steps: int, batch: int) -> Iterator[Lesson]:
        """Yield lessons of the numbers, `batch` at a time: where a solver of second order ends after num_steps."""
        teacher = plan(self.spec, num_steps=num_steps, **TEACHER)
        for start in range(0, len(numbers), batch):
            images = numbers[start : start + batch]
            noise = noise_stream(seed, images, self.spec.state_shape)(0)
            inputs = request_for(self.spec, seed=seed).inputs_of(images)
            lesson = Lesson(noise, denoiser(self.model, self.spec, guidance=self.guidance, **inputs), noise)
            yield lesson._replace(end=self.end(lesson, teacher))

    def untuned(self, num_steps: int, lesson: Lesson) -> tuple[str, Table]:
        """Return the solver and grid that come nearest to the lesson in num_steps evaluations, by name and as a table.

        Costs num_steps evaluations for each solver and grid.
        """
        found: dict[tuple[str, str], tuple[float, Plan]] = {}
        for sampler, knobs in SOLVERS.items():
            for grid in GRIDS:
                rows = plan(self.spec, sampler=sampler, num_steps=num_steps, grid=grid, **knobs)
                found[sampler, grid] = self.distance(rows, [lesson]), rows
        best = min(found, key=lambda name: found[name][0])
        return " ".join(best), table_from_plan(found[best][1], self.spec.alphas_cumprod)

    def states(self, lesson: Lesson, rows: Plan, state: State | None = None) -> list[State]:
        """Return the states after all rows of a plan without noise, or those after `state`."""
        return list(walk(lesson.denoise, _no_noise, rows, x=lesson.noise, state=state))

    def end(self, lesson: Lesson, rows: Plan) -> Array:
        """Return where a plan without noise ends."""
        return self.states(lesson, rows)[-1].x

    def distance(self, rows: Plan, lessons: list[Lesson], look: Callable[[Array, float], Array] = pixels) -> float:
        """Return the mean over images of the distance to where they shall come.

        Not the root of the mean square: the few that become another picture, which no table can prevent, would count
        for more than all others.
        """
        differences = [look(self.end(lesson, rows), self.bound) - look(lesson.end, self.bound) for lesson in lessons]
        return float(np.mean(_lengths(np.concatenate(differences))))

    def normal_equations(self, table: Table, lessons: list[Lesson], times_move: bool) -> tuple[Float64, Float64]:
        """Return J^T J and J^T r of the differences r by times and shares, (P, P) and (P,); 0 for times that stay.

        Each image weighs as one over its distance, which makes of the sum of squares one of distances (Lawson 1961).
        """
        square, slope = 0.0, 0.0
        rows = table.plan(self.spec.alphas_cumprod)
        for lesson in lessons:
            states = self.states(lesson, rows)
            seen = pixels_and_edges(states[-1].x, self.bound)
            r = seen - pixels_and_edges(lesson.end, self.bound)
            w = (1.0 / np.sqrt(np.maximum(_lengths(r), NEAR)))[:, None].astype(np.float32)
            J = np.stack([(w * column).ravel() for column in self.derivatives(table, states, lesson, seen, times_move)])
            square, slope = square + (J @ J.T).astype(np.float64), slope + (J @ (w * r).ravel()).astype(np.float64)
        return np.asarray(square), np.asarray(slope)

    def derivatives(
        self, table: Table, states: list[State], lesson: Lesson, seen: Array, times_move: bool
    ) -> Iterator[Array]:
        """Yield those of what is seen by each time, then by each share, row by row, each by walking on from there.

        states: those of the lesson's noise by the table's plan; seen: what is seen of the last, (B, K).
        """
        a, N = self.spec.alphas_cumprod, len(table.times)
        rows = table.plan(a)

        def onward(k: int, x: Array, rows: Plan) -> Array:
            """Return what is seen of the end where the state after row k, from 0 on, is x."""
            state = states[k]._replace(x=x)
            return pixels_and_edges([state, *self.states(lesson, rows, state)][-1].x, self.bound)

        for k, t in enumerate(table.times):
            below, above = t - (table.times[k + 1] if k + 1 < N else -1), (table.times[k - 1] if k else len(a)) - t
            by = -max(1, below // 8) if below >= above else max(1, above // 8)
            if not times_move or max(below, above) < 2:
                yield np.zeros_like(seen)
                continue
            other = replace(table, times=(*table.times[:k], t + by, *table.times[k + 1 :])).plan(a)
            if k == 0:
                moved = pixels_and_edges(self.end(lesson, other), self.bound)
            else:
                row = other.rows[k - 1]
                moved = onward(k - 1, weighted_sum(row.x_0, row.eps, _found(states, k - 1)), other)
            yield (moved - seen) / np.float32(by)
        for k, (shares, scale) in enumerate(zip(table.shares, table.scales(a), strict=True)):
            found = _found(states, k)
            for kind, age in np.ndindex(shares.shape):
                along = float(scale[kind, 0]) * MOVE * found[age][kind]
                yield (onward(k, states[k].x + along, rows) - seen) / np.float32(MOVE)


def tune(
    walker: Walker,
    start: tuple[str, Table],
    learned: list[Lesson],
    held_out: list[Lesson],
    iterations: int,
    report: Callable[[Fit], None] = lambda _: None,
) -> Fit:
    """Return the table that brings the noise of the lessons nearest to their ends, by least squares from `start` on.

    Times and shares together for two thirds of the iterations, then the shares for times that are fixed (Levenberg
    1944, Marquardt 1963: each step is damped until it lessens the error).
    """
    name, table = start
    a, T = walker.spec.alphas_cumprod, walker.spec.num_train_timesteps

    def error(table: Table) -> float:
        return walker.distance(table.plan(a), learned, pixels_and_edges)

    def of_held_out(table: Table) -> float:
        return walker.distance(table.plan(a), held_out)

    fit, damping, times_move = Fit(table, name, [error(table)], [of_held_out(table)]), DAMPING, True
    for i in range(iterations):
        report(fit)
        times_move = times_move and 3 * i < 2 * iterations
        square, slope = walker.normal_equations(fit.table, learned, times_move)
        while damping <= MOST_DAMPING:
            step = np.linalg.solve(square + damping * np.diag(np.diag(square)) + 1e-9 * np.eye(len(square)), -slope)
            tried = fit.table.moved(step, T)
            reached = error(tried)
            if reached < fit.errors[-1]:
                break
            damping *= 8.0
        else:
            reached = fit.errors[-1]  # there is no better one near by
        gain = 1.0 - reached / fit.errors[-1]
        if gain > 0.0:
            fit = Fit(tried, name, [*fit.errors, reached], [*fit.held_out, of_held_out(tried)])
        if gain < ENOUGH and not times_move:
            break
        times_move, damping = times_move and gain >= ENOUGH, DAMPING if gain == 0.0 else damping / 8.0
    report(fit)
    return fit


def _no_noise(draw: int) -> Array:
    raise AssertionError(f"a tuned plan has no noise, and starts from what it is given, not from draw {draw}")


def _lengths(differences: Array) -> Array:
    """Return each row's Euclidean length, (B,)."""
    return np.sqrt(np.sum(np.square(differences, dtype=np.float64), axis=1))


def _found(states: list[State], k: int) -> tuple[tuple[Array, Array], ...]:
    """Return what row k, from 0 on, may read, newest first."""
    before = states[k - 1].history if k else ()
    return ((states[k].x_0, states[k].eps), *before)


def _opened(path: Path) -> tuple[Model, ModelSpec]:
    if path.suffix == ".onnx":
        return open_model(path)
    checkpoint = load_checkpoint(path)
    return eager_model(checkpoint), checkpoint.spec


def command(
    model: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A checkpoint or an exported .onnx.")],
    steps: Annotated[str, typer.Option(help="Evaluations of a plan; several with commas.")] = "5",
    out: Annotated[Path, typer.Option(help="Where plans lie by name; others in it are kept.")] = Path("plans.json"),
    n: Annotated[int, typer.Option(min=1, help="Images to learn from; half as many more are held out.")] = 64,
    teacher_steps: Annotated[int, typer.Option(min=2, help="Steps to where the images shall come.")] = 100,
    iterations: Annotated[int, typer.Option(min=1, help="At most.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 32,
    guidance: Annotated[
        str | None, typer.Option(help="Of the pictures, such as 2 or 2@300-700. [default: the file's own, or 1]")
    ] = None,
    debug: Debug = False,
) -> None:
    """Learn plans tuned-3, tuned-5, ... of so many evaluations, which `ddpm-export --plans FILE` puts into a model.

    The file is written after every iteration. A plan that lies in it is gone on from. A network with classes learns
    with all of them in turn; at times with a scale other than 0 and 1 an evaluation takes twice as long.
    """
    try:
        counts = [int(count) for count in steps.split(",")]
    except ValueError as exc:
        raise UsageError(f"--steps must be numbers with commas between them, got {steps!r}.") from exc
    network, spec = _opened(model)
    walker = Walker(network, spec, guidance_from_text(spec, guidance))
    of = [
        list(walker.lessons(numbers, seed, teacher_steps, batch)) for numbers in (range(n), range(n, n + (n + 1) // 2))
    ]
    for count in counts:
        name = f"tuned-{count}"

        def report(fit: Fit, name: str = name) -> None:
            levels = f"error {fit.errors[-1]:.2f}, {fit.held_out[-1]:.2f} levels of held-out noise"
            print(f"{name} from {fit.start}: {levels}, t {fit.table.times}", file=sys.stderr, flush=True)
            _add(out, name, json_from_plan(fit.table.plan(spec.alphas_cumprod)))

        known = with_plans(replace(spec, plans={}), [str(out)]).plans if out.exists() else {}
        if name in known:
            start = f"{name} as it was", table_from_plan(known[name], spec.alphas_cumprod)
        else:
            start = walker.untuned(count, of[0][0])
        fit = tune(walker, start, *of, iterations, report)
        print_json(
            {
                "plan": name,
                "start": fit.start,
                "times": fit.table.times,
                "errors": [round(error, 2) for error in fit.errors],
                "levels_held_out": [round(error, 2) for error in fit.held_out],
            }
        )


def _add(path: Path, name: str, values: dict[str, Any]) -> None:
    """Put a plan into a file of plans, which keeps its others."""
    plans = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_json(path, {**plans, name: values})


main = entry_point(command)

if __name__ == "__main__":
    main()
