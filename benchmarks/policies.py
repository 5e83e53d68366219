"""lerobot's own policy beside the exported one: time to a chunk, to the first action, and episodes of gym-pusht.

`python benchmarks/policies.py make FOLDER` writes an untrained policy; export it, and then
`python benchmarks/policies.py time FOLDER policy.onnx`, or `starts`, or `episodes`.
Needs lerobot 0.4.4, gym-pusht and onnxruntime.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from accelerate import Accelerator
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.datasets.factory import resolve_delta_timestamps
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.datasets.sampler import EpisodeAwareSampler
from lerobot.datasets.utils import cycle
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from lerobot.policies.diffusion.processor_diffusion import make_diffusion_pre_post_processors
from lerobot.policies.factory import make_pre_post_processors
from lerobot.scripts.lerobot_train import update_policy
from lerobot.utils.logging_utils import AverageMeter, MetricsTracker
from safetensors.torch import load_file

from ddpm_export.measuring.timing import PAUSE_S, launched_in_turns
from ddpm_export.process.noise import noise_stream
from ddpm_export.sampling.policy import open_policy

STATE, AROUND = "observation.state", "observation.environment_state"
STEPS, ROUNDS, STARTS, PROCESSES = 10, 300, 50, 7
NEAR = (6.0, 0.06)  # of the goal, in pixels and radians: where `--near` has the block
FIRST = """
import sys, numpy
from ddpm_export import open_policy
policy = open_policy(sys.argv[1], threads=1)
policy({"observation.state": numpy.float32([200, 300]),
        "observation.environment_state": numpy.linspace(100, 400, 16, dtype=numpy.float32)})
"""


def policy_of(compiled=False):
    """Return an untrained policy of 4.5 M parameters for Push-T's key points, and its processors."""
    torch.manual_seed(0)
    config = DiffusionConfig(
        input_features={
            STATE: PolicyFeature(FeatureType.STATE, (2,)),
            AROUND: PolicyFeature(FeatureType.ENV, (16,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (2,))},
        normalization_mapping=dict.fromkeys(("STATE", "ENV", "ACTION"), "MIN_MAX"),
        down_dims=(64, 128, 256),
        noise_scheduler_type="DDIM",
        num_inference_steps=STEPS,
        device="cpu",
        compile_model=compiled,
        compile_mode="default",  # the other modes are for CUDA graphs
    )
    ends = {"min": np.float32(0), "max": np.float32(512)}
    sizes = {STATE: 2, AROUND: 16, "action": 2}
    statistics = {name: {key: np.full(n, end) for key, end in ends.items()} for name, n in sizes.items()}
    return DiffusionPolicy(config).eval(), make_diffusion_pre_post_processors(config, statistics)


def make(folder, demonstrations, steps):
    """Write the policy as lerobot does: untrained, or trained by lerobot's own loop where there are demonstrations."""
    policy, processors = policy_of() if demonstrations is None else trained(np.load(demonstrations), steps)
    policy.save_pretrained(folder)
    config = folder / "config.json"  # without the name that lerobot looks for when it reads it again
    config.write_text(json.dumps({"type": policy.config.type, **json.loads(config.read_text())}))
    for processor in processors:
        processor.save_pretrained(folder)


def trained(recorded, steps):
    """Return lerobot's policy of the shipped one's size and its processors, after `steps` of batches of 64.

    Dataset, statistics, sampler, loss, optimiser, its schedule and the update are lerobot's, with its defaults; items
    are read once and kept. recorded: states (N, 18), actions (N, 2) and where episodes end.
    """
    torch.manual_seed(0)
    sizes = {STATE: 2, AROUND: 16, "action": 2}
    features = {name: {"dtype": "float32", "shape": (n,), "names": None} for name, n in sizes.items()}
    config = DiffusionConfig(
        input_features={STATE: PolicyFeature(FeatureType.STATE, (2,)), AROUND: PolicyFeature(FeatureType.ENV, (16,))},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (2,))},
        normalization_mapping=dict.fromkeys(("STATE", "ENV", "ACTION"), "MIN_MAX"),
        down_dims=(64, 96, 128),
        diffusion_step_embed_dim=64,
        noise_scheduler_type="DDIM",
        num_inference_steps=STEPS,
        device="cpu",
    )
    with TemporaryDirectory() as root:
        written = LeRobotDataset.create("push-t", 10, features, root=Path(root) / "data", use_videos=False)
        first = 0
        for last in recorded["ends"]:
            for state, action in zip(recorded["states"][first:last], recorded["actions"][first:last], strict=True):
                state, action = np.float32(state), np.float32(action)
                written.add_frame({STATE: state[:2], AROUND: state[2:], "action": action, "task": "push the T"})
            written.save_episode()
            first = last
        written.finalize()
        times = resolve_delta_timestamps(config, written.meta)
        dataset = LeRobotDataset("push-t", root=Path(root) / "data", delta_timestamps=times)
        bounds = [dataset.meta.episodes[f"dataset_{end}_index"] for end in ("from", "to")]
        names = (*sizes, "action_is_pad")
        items = [{name: item[name] for name in names} for item in (dataset[i] for i in range(len(dataset)))]
        statistics = dataset.meta.stats
    policy = DiffusionPolicy(config)
    before, after = make_diffusion_pre_post_processors(config, statistics)
    sampler = EpisodeAwareSampler(*bounds, drop_n_last_frames=config.drop_n_last_frames, shuffle=True)
    batches = cycle(torch.utils.data.DataLoader(items, 64, sampler=sampler))
    optimizer = config.get_optimizer_preset().build(policy.get_optim_params())
    schedule = config.get_scheduler_preset().build(optimizer, steps)
    accelerator = Accelerator(cpu=True)
    meters = {name: AverageMeter(name) for name in ("loss", "grad_norm", "lr", "update_s")}
    tracker = MetricsTracker(64, len(items), len(recorded["ends"]), meters, accelerator=accelerator)
    for step in range(1, steps + 1):
        update_policy(tracker, policy, before(next(batches)), optimizer, 10.0, accelerator, schedule)
        if step % 1000 == 0:
            print(step, tracker, file=sys.stderr, flush=True)
            tracker.reset_averages()
    return policy.eval(), (before, after)


def loaded(folder, compiled=False):
    """Return the policy in a folder, and its processors; compiled, one that `make` has written."""
    if not compiled:
        policy = DiffusionPolicy.from_pretrained(folder).eval()
        return policy, make_pre_post_processors(policy.config, pretrained_path=str(folder))
    policy, processors = policy_of(compiled)
    own = {key.replace("_orig_mod.", ""): key for key in policy.state_dict()}
    weights = load_file(folder / "model.safetensors")
    policy.load_state_dict({own[key]: value for key, value in weights.items()})
    return policy, processors


def chunk_of(policy, processors, given, noise):
    """Return lerobot's next action, float32 (2,)."""
    before, after = processors
    batch = before({key: torch.from_numpy(value) for key, value in given.items()})
    batch = {key: batch[key] for key in given}  # it takes any other entry for an observation
    return after(policy.select_action(batch, noise=torch.from_numpy(noise)))[0].numpy()


def example():
    """Return an observation and the noise of a plan."""
    return {STATE: np.float32([200, 300]), AROUND: np.linspace(100, 400, 16, dtype=np.float32)}, noise_of(0, 0)


def noise_of(seed, plan):
    """Return the noise that plan `plan` of a seed begins from."""
    return noise_stream(seed, [plan], (16, 2))(0)


def measure_time(folder, path):
    """Print the time to a chunk of each."""
    given, noise = example()
    policies = {"eager": loaded(folder), "compiled": loaded(folder, compiled=True)}
    ours = open_policy(path, threads=1)

    def theirs(name):
        policies[name][0].reset()
        return chunk_of(*policies[name], given, noise)

    def exported():
        ours.reset(seed=0)
        return ours(given)

    contenders = {"eager": lambda: theirs("eager"), "compiled": lambda: theirs("compiled"), "exported": exported}
    seconds = {name: [] for name in contenders}
    for turn in range(ROUNDS + 2):
        for name, run in contenders.items():
            time.sleep(PAUSE_S)
            begun = time.perf_counter()
            run()
            if turn > 1:
                seconds[name].append(time.perf_counter() - begun)
    worst = np.percentile(seconds["exported"], 99)
    for name, taken in seconds.items():
        ratio, high = np.median(np.array(taken) / seconds["exported"]), np.percentile(taken, 99)
        print(
            f"{name}: median {1e3 * np.median(taken):.1f} ms, {ratio:.2f} of exported; 99th percentile "
            f"{1e3 * high:.1f} ms, {high / worst:.2f} of exported's"
        )


def measure_starts(folder, path):
    """Print the time from the start of a process to its first action of each."""
    own = [sys.executable, "-W", "ignore", __file__, "first", str(folder), str(path)]
    programs = {"eager": own, "compiled": [*own, "--compiled"], "exported": [sys.executable, "-c", FIRST, str(path)]}
    starts = {k: [run["seconds"] for run in runs] for k, runs in launched_in_turns(programs, PROCESSES).items()}
    for name, taken in starts.items():
        ratio = np.median(np.array(taken) / starts["exported"])
        print(f"{name}: to the first action {np.median(taken):.2f} s, {ratio:.1f} of exported")


def episode(act, seed, near):
    """Return the places of the agent, the best coverage and whether the environment called it a success."""
    import gym_pusht  # noqa: F401  (registers its environments; a robot's process has no need of them)
    import gymnasium

    env = gymnasium.make("gym_pusht/PushT-v0", obs_type="environment_state_agent_pos", max_episode_steps=300)
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    if near:
        block, goal = env.unwrapped.block, env.unwrapped.goal_pose
        block.angle = float(goal[2] + rng.uniform(-1, 1) * NEAR[1])
        block.position = tuple(goal[:2] + rng.uniform(-1, 1, 2) * NEAR[0])
        env.unwrapped.space.reindex_shapes_for_body(block)
        observation = env.unwrapped.get_obs()
    places, best = [], 0.0
    for step in range(300):
        given = {STATE: np.float32(observation["agent_pos"])}
        given[AROUND] = np.float32(observation["environment_state"]).reshape(-1)
        observation, _, terminated, _, info = env.step(act(given, step))
        places.append(observation["agent_pos"])
        best = max(best, info["coverage"])
        if terminated:
            break
    return np.array(places), best, terminated


def measure_episodes(folder, path, near, first):
    """Print how far the episodes of both are from each other, and how they ended, from the same starts and noise.

    first: the seed of the first start.
    """
    theirs, processors = loaded(folder)
    ours = open_policy(path, threads=1)
    chunk = theirs.config.n_action_steps
    found = []
    for seed in range(first, first + STARTS):
        theirs.reset()
        ours.reset(seed=seed)
        a = episode(
            lambda given, step, seed=seed: chunk_of(theirs, processors, given, noise_of(seed, step // chunk)),
            *(seed, near),
        )
        b = episode(lambda given, _: ours(given), seed, near)
        size, length = max(np.ptp(a[0], axis=0).max(), 1.0), min(len(a[0]), len(b[0]))  # pixels
        off = np.abs(a[0][:length] - b[0][:length]).max(axis=1) / size
        parted = int([*np.flatnonzero(off > 1e-4), 300][0])
        found.append((parted, off.max(), len(a[0]) == len(b[0]), a[1], b[1], a[2], b[2]))
        print(near, seed, *(f"{value:.6g}" for value in found[-1]), file=sys.stderr, flush=True)
    firsts, offs, same, best, our_best, success, our_success = map(np.array, zip(*found, strict=True))
    starts = "block near the goal" if near else "starts of the environment"
    print(f"{starts}: {np.sum(firsts == 300)} of {STARTS} within 1e-4 throughout, {np.sum(offs < 1e-5)} within 1e-5")
    print(f"  the others for {sorted(firsts[firsts < 300].tolist())} steps; as long in {np.sum(same)}")
    print(f"  success {np.sum(success)} and {np.sum(our_success)}, the same in {np.sum(success == our_success)}")
    apart = np.abs(best - our_best).max()
    print(f"  mean best coverage {np.mean(best):.4f} and {np.mean(our_best):.4f}, at most {apart:.1e} apart")


def first_action(folder, compiled=False):
    """Do what a process does that runs lerobot's policy: start, load, and one action."""
    chunk_of(*loaded(folder, compiled), *example())


if __name__ == "__main__":
    torch.set_num_threads(1)
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("what", choices=("make", "time", "starts", "episodes", "first"))
    options.add_argument("folder", type=Path)
    options.add_argument("path", type=Path, nargs="?")
    options.add_argument("--compiled", action="store_true")
    options.add_argument(
        "--demonstrations", type=Path, help=".npz to train it on: states (N, 18), actions (N, 2), ends"
    )
    options.add_argument("--steps", type=int, default=24_000, help="of 64, of lerobot's training")
    options.add_argument("--first-start", type=int, default=0, help="the seed of the first start of `episodes`")
    options.add_argument("--near", action="store_true", help="begin with the block near its goal")
    asked = options.parse_args()
    if asked.what == "make":
        make(asked.folder, asked.demonstrations, asked.steps)
    elif asked.what == "first":
        first_action(asked.folder, asked.compiled)
    elif asked.what == "episodes":
        measure_episodes(asked.folder, asked.path, asked.near, asked.first_start)
    else:
        {"time": measure_time, "starts": measure_starts}[asked.what](asked.folder, asked.path)
