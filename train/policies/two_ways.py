"""Demonstrations of `two-ways`: a point goes to a goal round a disc, on either side, by a taut string's way.

Places are as the point sees them: it is at (0, 0), and the goal on the axis x ahead of it. Also what tells of plans how
they go: `clearance` and `is_left`.
"""

import numpy as np

from ddpm_export.process.equations import Array

RADIUS = 0.12  # of the disc
GOAL, DISC = "observation.state", "observation.environment_state"  # how far the goal is; the disc's middle x, y
DISTANCES = (0.05, 0.95)  # of the goal, the far ones more often
MARGINS = (0.02, 0.05)  # how far off the disc a way is
LENGTH_SCALE = 0.15  # a way longer by this is e times as rare


def demonstrations(rng: np.random.Generator, count: int, horizon: int) -> tuple[dict[str, Array], Array]:
    """Return observations (count, 1, D) by name and plans (count, horizon, 2): places at equal distances, goal last.

    Six discs of seven lie about the way, the others anywhere. Only where one blocks the straight line is there a
    choice, taken at random.
    """
    goals, discs = np.empty((0, 2)), np.empty((0, 2))
    while len(goals) < count:
        goal = np.stack([np.interp(rng.random(count) ** 0.5, (0, 1), DISTANCES), np.zeros(count)], axis=1)
        about = np.stack([rng.uniform(-0.1, goal[:, 0] + 0.1), rng.normal(0, 0.1, count)], axis=1)
        disc = np.where(rng.random((count, 1)) < 0.85, about, rng.uniform(-1, 1, (count, 2)))
        far = RADIUS + MARGINS[1] + 1e-3
        free = (np.linalg.norm(disc, axis=1) > far) & (np.linalg.norm(disc - goal, axis=1) > far)
        goals, discs = (np.concatenate([old, new[free]])[:count] for old, new in ((goals, goal), (discs, disc)))
    radii = RADIUS + rng.uniform(*MARGINS, count)
    ways, lengths, bent = zip(*(_ways(goals, discs, radii, sign, horizon) for sign in (1, -1)), strict=True)
    left_share = 1 / (1 + np.exp((lengths[0] - lengths[1]) / LENGTH_SCALE))
    turns_left = np.where(bent[0] & bent[1], rng.random(count) < left_share, ~bent[0])
    plans = np.where(turns_left[:, None, None], *ways)
    inputs = {GOAL: goals[:, None, :1], DISC: discs[:, None]}
    return {name: values.astype(np.float32) for name, values in inputs.items()}, plans.astype(np.float32)


def _ways(b: Array, o: Array, r: Array, sign: int, horizon: int) -> tuple[Array, Array, Array]:
    """Return taut ways (N, horizon, 2) to b that turn about o, 1 against the clock; their lengths; are they bent."""
    to_a, to_b = -o, b - o
    far_a, far_b = np.linalg.norm(to_a, axis=1), np.linalg.norm(to_b, axis=1)
    angle_a, angle_b = (sign * np.arctan2(v[:, 1], v[:, 0]) for v in (to_a, to_b))
    off_a, off_b = np.arccos(r / far_a), np.arccos(r / far_b)
    arc = (angle_b - angle_a) % (2 * np.pi) - off_a - off_b
    bent = arc > 0
    lines = np.sqrt(far_a**2 - r**2), np.sqrt(far_b**2 - r**2)
    lengths = np.where(bent, lines[0] + lines[1] + r * arc, np.linalg.norm(b, axis=1))
    s = np.arange(1, horizon + 1) / horizon * lengths[:, None]  # (N, horizon)
    touch = [
        o + r[:, None] * np.stack([np.cos(turn), sign * np.sin(turn)], axis=1)
        for turn in (angle_a + off_a, angle_b - off_b)
    ]
    turn = (angle_a + off_a)[:, None] + np.clip((s - lines[0][:, None]) / r[:, None], 0, np.maximum(arc, 0)[:, None])
    on_arc = o[:, None] + r[:, None, None] * np.stack([np.cos(turn), sign * np.sin(turn)], axis=2)
    first = (s / lines[0][:, None])[..., None] * touch[0][:, None]
    left = (lengths[:, None] - s) / lines[1][:, None]
    last = b[:, None] + left[..., None] * (touch[1] - b)[:, None]
    around = np.where((s < lines[0][:, None])[..., None], first, np.where((left < 1)[..., None], last, on_arc))
    straight = np.linspace(0, b, horizon + 1, axis=1)[:, 1:]
    return np.where(bent[:, None, None], around, straight), lengths, bent


def clearance(plans: Array, discs: Array) -> Array:
    """Return how near each way, from (0, 0) through its plan (N, horizon, 2), comes to the disc's middle (N, 2)."""
    ways = np.pad(plans, ((0, 0), (1, 0), (0, 0))) - discs[:, None]
    first, step = ways[:, :-1], np.diff(ways, axis=1)
    share = -(first * step).sum(axis=2) / np.maximum((step**2).sum(axis=2), 1e-12)
    nearest: Array = np.linalg.norm(first + np.clip(share, 0, 1)[..., None] * step, axis=2).min(axis=1)
    return nearest


def is_left(plans: Array, discs: Array) -> Array:
    """Return whether each way (as of `clearance`) turns about the disc against the clock, (N,) bool."""
    ways = np.pad(plans, ((0, 0), (1, 0), (0, 0))) - discs[:, None]
    angles = np.arctan2(ways[..., 1], ways[..., 0])
    turns: Array = ((np.diff(angles, axis=1) + np.pi) % (2 * np.pi) - np.pi).sum(axis=1)
    return turns > 0
