"""`python -m train.policies.push_t_demonstrations OUT.npz`: a planner pushes the T of gym-pusht in its own simulator.

It tries pushes of a grid, each a way around the block to a place on its edge and on in a line, with the environment's
own physics, and looks two pushes ahead. An episode is kept where the environment's own coverage ended at 95 %. Needs
gym-pusht 0.1.8.
"""

import argparse
import heapq
import itertools
import time
from pathlib import Path

import gym_pusht  # noqa: F401  (registers its environments)
import gymnasium
import numpy as np
import shapely
import shapely.ops
from shapely.geometry import LineString, Point, Polygon

ENVIRONMENT = "gym_pusht/PushT-v0"
RADIUS, CLEARANCE, GAP = 15.0, 9.0, 8.0  # of the agent; of a way around the block; of where a push begins
FREE, PUSHING = 24.0, 10.0  # how far the target goes in a step
LENGTHS = (5, 9, 13, 18, 24, 32, 44, 60, 85, 120, 160)  # of a push
SPACING, ANGLES = 20.0, (0.0,)  # of the places of the edge, and of a push from its normal
BEAM, SETTLE, MAX_STEPS, MAX_PUSHES = 3, 2, 300, 20
HALVING, PACE, ARM = 20.0, 0.5, 70.0  # steps a halving of the distance is worth, a pixel of it; pixels in a radian
TEE = np.array([(-60, 30), (-60, 0), (60, 0), (60, 30), (15, 30), (15, 120), (-15, 120), (-15, 30)], float)
ROOM = (16.0, 496.0)


class Simulator:
    """The environment's space, whose state can be put back."""

    def __init__(self, env):
        self.env = env
        env.collision_handeler.post_solve = lambda *_: None  # it only counts contacts

    @staticmethod
    def corners(x, y, angle):
        """Return the T's corners (8, 2)."""
        c, s = np.cos(angle), np.sin(angle)
        return TEE @ np.array([(c, s), (-s, c)]) + (x, y)

    @property
    def block(self):
        """Return the T's corners (8, 2)."""
        body = self.env.block
        return self.corners(*body.position, body.angle)

    @property
    def agent(self):
        """Return where the agent is (2,)."""
        return np.array(self.env.agent.position)

    def state(self):
        """Return what `restore` puts back."""
        a, b = self.env.agent, self.env.block
        return a.position, a.velocity, b.angle, b.position, b.velocity, b.angular_velocity

    def restore(self, state):
        """Put a state back."""
        a, b = self.env.agent, self.env.block
        a.position, a.velocity, b.angle, b.position, b.velocity, b.angular_velocity = state  # the angle turns its place
        self.env.space.reindex_shapes_for_body(a)
        self.env.space.reindex_shapes_for_body(b)

    def step(self, x, y):
        """Do what the environment's step does to its bodies."""
        env, agent = self.env, self.env.agent
        (px, py), (vx, vy), dt = agent.position, agent.velocity, env.dt
        for _ in range(10):
            vx += (env.k_p * (x - px) - env.k_v * vx) * dt
            vy += (env.k_p * (y - py) - env.k_v * vy) * dt
            agent.velocity = vx, vy
            env.space.step(dt)
            px, py = px + vx * dt, py + vy * dt

    def value(self):
        """Return about how many steps are left to the goal."""
        body, (x, y, angle) = self.env.block, self.env.goal_pose
        turn = abs((body.angle - angle + np.pi) % (2 * np.pi) - np.pi)
        away = np.hypot(body.position[0] - x, body.position[1] - y) + ARM * turn
        if away < 12 and self.env._get_coverage() > self.env.success_threshold:
            return 0.0
        return 20.0 + HALVING * np.log2(max(away, 1.0)) + PACE * away


def way_around(corners, start, end):
    """Return the places (N, 2) of a short way from start to end that keeps off the block, or None."""
    block = Polygon(corners)
    hull = np.array(block.buffer(RADIUS + CLEARANCE, join_style="mitre").exterior.coords)[:-1]
    inner = block.buffer(RADIUS + 2.0)
    near = block.distance(Point(start))
    if near < RADIUS + 2.5:  # it touches: first straight away from the edge
        turns = np.arange(16) * np.pi / 8
        offs = start + np.stack([np.cos(turns), np.sin(turns)], axis=1) * 14.0
        room = [
            block.distance(Point(off)) if block.distance(LineString([start, off])) > near - 0.5 else 0.0 for off in offs
        ]
        if max(room) < RADIUS + 2.5:
            return None
        rest = way_around(corners, offs[int(np.argmax(room))], end)
        return None if rest is None else np.vstack([start, rest])
    nodes = [start, *hull[((hull > ROOM[0]) & (hull < ROOM[1])).all(axis=1)], end]
    shapely.prepare(inner)
    pairs = list(itertools.combinations(range(len(nodes)), 2))
    crosses = shapely.intersects(inner, [LineString([nodes[i], nodes[j]]) for i, j in pairs])
    lengths = {}
    for (i, j), crossed in zip(pairs, crosses, strict=True):
        if not crossed:
            lengths[i, j] = lengths[j, i] = float(np.linalg.norm(nodes[i] - nodes[j])) + 5.0
    heap, seen = [(0.0, 0, (0,))], set()
    while heap:
        length, node, path = heapq.heappop(heap)
        if node == len(nodes) - 1:
            return np.array([nodes[k] for k in path])
        if node in seen:
            continue
        seen.add(node)
        for (i, j), added in lengths.items():
            if i == node and j not in seen:
                heapq.heappush(heap, (length + added, j, (*path, j)))
    return None


def targets(places, speed):
    """Return the places (N, 2) of a target that goes along a way, the last one its end."""
    gaps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    at = np.concatenate([[0.0], np.cumsum(gaps)])
    s = np.append(np.arange(speed, at[-1], speed), at[-1])
    return np.stack([np.interp(s, at, places[:, k]) for k in range(2)], axis=1)


def edge_places(corners):
    """Yield places on the block's edge and the normals that point out."""
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        side = b - a
        length = np.linalg.norm(side)
        normal = np.array([side[1], -side[0]]) / length
        if Polygon(corners).contains(Point((a + b) / 2 + normal)):
            normal = -normal
        count = max(2, round(length / SPACING))
        for share in (np.arange(count) + 0.5) / count:
            yield a + share * side, normal


def pushes(sim):
    """Return the pushes from the simulator's state: (cost so far, value, actions, state after), the state put back."""
    before, corners, found = sim.state(), sim.block, []
    block = Polygon(corners)
    for place, normal in edge_places(corners):
        begin = place + normal * (RADIUS + GAP)
        if not (ROOM[0] < begin.min() and begin.max() < ROOM[1]) or block.distance(Point(begin)) < RADIUS + 3:
            continue
        way = way_around(corners, np.array(before[0]), begin)
        if way is None:
            continue
        approach = targets(way, FREE)
        sim.restore(before)
        for x, y in approach:
            sim.step(x, y)
        near = sim.state()
        for angle in ANGLES:
            c, s = np.cos(angle), np.sin(angle)
            direction = -np.array([c * normal[0] - s * normal[1], s * normal[0] + c * normal[1]])
            sim.restore(near)
            line, done = [], 0.0
            for length in LENGTHS:
                end = begin + direction * (GAP + length)
                if not (ROOM[0] < end.min() and end.max() < ROOM[1]):
                    break
                while done < GAP + length - 1e-6:
                    done = min(done + PUSHING, GAP + length)
                    line.append(begin + direction * done)
                    sim.step(*line[-1])
                going = sim.state()
                for _ in range(SETTLE):
                    sim.step(*end)
                actions = np.vstack([approach, line, [end] * SETTLE])
                found.append((len(actions), sim.value(), actions, sim.state()))
                sim.restore(going)
    sim.restore(before)
    return found


def best_push(sim):
    """Return the actions (N, 2) of the push that is best with the best push after it, or None."""
    before = sim.state()
    firsts = sorted(pushes(sim), key=lambda push: push[0] + push[1])
    chosen, places = [], []
    for push in firsts:  # those that leave the block in other places
        place = np.array([ARM * push[3][2], *push[3][3]])
        if all(np.abs(place - other).max() > 8 for other in places):
            chosen.append(push)
            places.append(place)
        if len(chosen) == BEAM:
            break
    best, least = None, np.inf
    for cost, value, actions, state in chosen:
        total = cost + value
        if value > 0:
            sim.restore(state)
            total = cost + min([value, *(c + v for c, v, *_ in pushes(sim))])
        if best is None or total < least:
            best, least = actions, total
    sim.restore(before)
    return best


def start_of(env, rng, near):
    """Return a start (5,): the environment's own distribution, or with the block near its goal."""
    if not near:
        return None
    x, y, angle = env.goal_pose
    return np.array(
        [*rng.integers(50, 450, 2), *(np.array([x, y]) + rng.uniform(-60, 60, 2)), angle + rng.uniform(-0.8, 0.8)]
    )


def episode(seed, near):
    """Return the states (N, 18), actions (N, 2) and coverage after each (N,) of an episode."""
    env = gymnasium.make(ENVIRONMENT, obs_type="environment_state_agent_pos").unwrapped
    rng = np.random.default_rng(seed)
    observed, _ = env.reset(seed=seed)
    if near:
        env._setup()
        env._set_state(start_of(env, rng, near))
        observed = env.get_obs()
    sim = Simulator(env)
    states, done, coverages = [], [], []
    for _ in range(MAX_PUSHES):
        actions = best_push(sim)
        if actions is None:  # it is in the block, or shut in: physics moves the block away
            actions = [sim.agent] * 3
        for action in actions:
            states.append(np.concatenate([observed["agent_pos"], observed["environment_state"]]))
            done.append(action)
            observed, _, terminated, _, info = env.step(action)
            coverages.append(info["coverage"])
            if terminated or len(done) == MAX_STEPS:
                return np.array(states), np.array(done), np.array(coverages)
    return np.array(states), np.array(done), np.array(coverages)


def main():
    """Append episodes to a file until there are enough, every second one from a start near the goal."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("out", type=Path)
    options.add_argument("--first", type=int, default=0)
    options.add_argument("--stride", type=int, default=1)
    options.add_argument("--episodes", type=int, default=400)
    asked = options.parse_args()
    kept, tried = [], []
    begun = time.time()
    for seed in range(asked.first, asked.first + asked.episodes * asked.stride, asked.stride):
        near = seed // asked.stride % 2 == 1
        states, actions, coverages = episode(seed, near)
        success = len(coverages) > 0 and coverages[-1] > 0.95
        best = coverages.max(initial=0.0)
        tried.append((seed, near, best, success, len(actions)))
        print(
            f"{seed} near={near} best {best:.3f} success {success} steps {len(actions)} {time.time() - begun:.0f}s",
            flush=True,
        )
        if success:
            kept.append((states, actions))
        if len(tried) % 10 == 0 and kept:
            save(asked.out, kept, tried)
    save(asked.out, kept, tried)


def save(path, kept, tried):
    """Write the episodes in a row, where each ends, and what became of every start."""
    temporary = path.with_suffix(".part.npz")
    np.savez_compressed(
        temporary,
        states=np.concatenate([s for s, _ in kept]).astype(np.float32),
        actions=np.concatenate([a for _, a in kept]).astype(np.float32),
        ends=np.cumsum([len(a) for _, a in kept]),
        tried=np.array(tried, float),
    )
    temporary.replace(path)


if __name__ == "__main__":
    main()
