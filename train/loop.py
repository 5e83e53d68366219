"""The training loop. Every random number follows from (seed, step), so a checkpoint needs no hidden state."""

import dataclasses
import hashlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ddpm_export.cli.stops import heed
from ddpm_export.errors import BadFileError, ConfigError, EnvironmentProblem, NonFiniteError, UsageError, several, shown
from ddpm_export.importers.checkpoint import load_own_checkpoint, save_checkpoint
from ddpm_export.importers.unet import UNet
from ddpm_export.model.spec import ModelSpec
from ddpm_export.model.spec_json import json_from_spec
from ddpm_export.process.schedules import alphas_cumprod_from_betas, betas_from_name
from ddpm_export.scoring.datasets.dataset import Dataset

from .compiled import compiled, keep_memory
from .config import TrainConfig, config_from_dict
from .distributed import ALONE, World
from .latents import Latents
from .losses import LOSSES, noised, shares_of_times, target
from .pages import write_text
from .teacher import Teacher

MAX_STEP = 2**53
SAMPLES = "samples.png"  # the last that is drawn


@dataclasses.dataclass(frozen=True)
class Progress:
    """Tell how far a training is; loss is the mean since the last report, None in the first, before any step."""

    step: int
    steps: int
    loss: float | None = None
    images_per_s: float = 0.0


def spec_from_config(config: TrainConfig, dataset: Dataset) -> ModelSpec:
    """Return the spec of the network that this training makes."""
    betas = betas_from_name(config.schedule, config.num_train_timesteps, **config.schedule_parameters)
    spec = ModelSpec(
        name=config.name,
        prediction=config.prediction,
        state_shape=config.network.image_shape,
        alphas_cumprod=tuple(alphas_cumprod_from_betas(betas).tolist()),
        variance=config.variance,
        source={
            "dataset": dataset.name,
            "license": dataset.license,
            "schedule": {"name": config.schedule, **config.schedule_parameters},
        },
    )
    return dataset.spec_with_stages(spec) if isinstance(dataset, Latents) else spec


def steps_per_epoch(config: TrainConfig, dataset: Dataset) -> int:
    """Return the number of whole batches in a data set; raises ConfigError where there is none."""
    if len(dataset.images) < config.batch_size:
        raise ConfigError(
            f"The data must have at least batch_size={config.batch_size} images, got {len(dataset.images)}. "
            "Set batch_size lower."
        )
    return len(dataset.images) // config.batch_size


def check_classes(config: TrainConfig, dataset: Dataset) -> None:
    """Raise ConfigError where the network has classes and the data set has none, or another number of them."""
    count, names = config.network.num_classes, dataset.classes or ()
    if not count or (dataset.labels is not None and len(names) == count):
        return
    if not names or dataset.labels is None:
        raise ConfigError(f"network.num_classes is {count}, but {dataset.name} has no classes. Set it to 0.")
    raise ConfigError(f"network.num_classes is {count}, but {dataset.name} has {len(names)} classes. Set it to that.")


def train(
    config: TrainConfig,
    dataset: Dataset,
    out: Path,
    device: str,
    report: Callable[[Progress], None],
    draw: Callable[[dict[str, Tensor], int], None] | None = None,
    world: World = ALONE,
    start: Path | None = None,
    teacher: Teacher | None = None,
) -> Path:
    """Train until `config.steps`, going on from `out/checkpoint.pt` where there is one; return that path.

    start: the checkpoint whose averaged weights the first step begins with, where there is nothing to go on from.
    teacher: what says what to predict in place of the data, as `config.teacher` tells (`train.teacher.taught`).

    report is called before the first step and with each line of the log; draw, with the EMA weights and the step, every
    `config.picture_every` steps and at the end (never where that is 0), on rank 0. Of a world of several processes each
    takes its share of the same batches, and only rank 0 writes; any number of them goes on from what another wrote.

    Raises NonFiniteError when loss, gradient or weights are no number (the last checkpoint stays), ConfigError when the
    checkpoint was made for other weights, the batch does not split, the classes are not those of the data set, or there
    is a teacher where the configuration has none, or none where it has one,
    KeyboardInterrupt on SIGINT or SIGTERM, of whatever rank, after writing a checkpoint.
    """
    check_classes(config, dataset)
    if bool(config.teacher) != (teacher is not None):
        raise ConfigError("A configuration names a teacher, and a training has it, both or neither: see train.teacher.")
    path = out / "checkpoint.pt"
    stepper = Stepper(config, dataset, device, world, teacher)
    network, ema, optimizer = stepper.network, stepper.ema, stepper.optimizer
    step = 0
    if path.exists():
        step = _resume(path, config, network, ema, optimizer)
    elif start is not None:
        _start_from(start, network, ema)
    world.check_same("step to start from, images", (step, len(dataset.images)))  # before anyone writes
    if world.rank == 0:
        _clear_after(out, step)
    stepper.prepare()
    spec = spec_from_config(config, dataset)

    def save() -> None:
        if not all(bool(torch.isfinite(value).all()) for value in network.state_dict().values()):
            raise _non_finite(step, "a weight that is inf or nan")
        if world.rank > 0:
            return
        save_checkpoint(
            path,
            network=network.state_dict(),
            ema=ema,
            optimizer=optimizer.state_dict(),
            step=step,
            config=_stored(config),
            spec=json_from_spec(spec),
            **({"classes": list(dataset.classes or ())} if config.network.num_classes else {}),
            **({"autoencoder": dataset.network} if isinstance(dataset, Latents) else {}),
        )

    if draw is not None and world.rank == 0 and step > 0 and _pictures_due(config, step) and _is_undrawn(out):
        with suppress(NonFiniteError):  # of weights that were to be left behind: training on may mend them
            draw(ema, step)  # it was killed as it drew these
    losses: list[Tensor] = []
    since = time.perf_counter()
    if step == 0:
        save()
    report(Progress(step, config.steps))
    with _stop_requests() as stops:
        while step < config.steps:
            losses.append(stepper.take(step))
            step += 1
            if step % config.log_every == 0 or step == config.steps:
                mean = float(world.mean(torch.stack(losses).mean()))
                rate = len(losses) * config.batch_size / (time.perf_counter() - since)
                if world.rank == 0:
                    _log(out / "log.jsonl", {"step": step, "loss": mean, "images_per_s": round(rate, 1)})
                report(Progress(step, config.steps, mean, rate))
                losses, since = [], time.perf_counter()
            stop = world.any(stops.asked)
            if step % config.checkpoint_every == 0 or step == config.steps or stop:
                save()
            if stop:
                raise KeyboardInterrupt(f"{path}: written at step {step}")
            if draw is not None and world.rank == 0 and _pictures_due(config, step):
                with stops.interrupting():  # a stop is heeded after one more step, of all ranks alike
                    draw(ema, step)
        if stops.asked:
            raise KeyboardInterrupt(f"{path}: written at step {step}")
    return path


class Stepper:
    """Take the steps of a training, one at a time: holds its network, EMA, optimiser and the order of its data.

    The weights are random, from the seed, until others are loaded into them; `prepare` comes after that.
    """

    def __init__(
        self, config: TrainConfig, dataset: Dataset, device: str, world: World = ALONE, teacher: Teacher | None = None
    ) -> None:
        self.config, self.dataset, self.device, self.world = config, dataset, device, world
        self._teacher = teacher
        self._share = world.share(config.batch_size)
        self._order = _Order(config.seed, len(dataset.images), config.batch_size, steps_per_epoch(config, dataset))
        self._alphas = torch.tensor(
            spec_from_config(config, dataset).alphas_cumprod, dtype=torch.float32, device=device
        )
        self._shares = shares_of_times(config.times, config.times_parameters, self._alphas.cpu())
        torch.manual_seed(config.seed)
        self.network = UNet(config.network).to(device)
        self.ema = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        # beta2 below 0.999 forgets the large early gradients sooner
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), config.learning_rate, (0.9, 0.99), fused=config.compile or None
        )

    def prepare(self) -> None:
        """Bring the network into the form in which it is fastest, as the configuration says."""
        if self.device == "cpu":
            keep_memory()
        if self.config.channels_last:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._forward: Callable[..., Tensor] = self.world.wrapped(self.network)
        if self.config.compile:
            self._forward = compiled(self._forward, self.config.channels_last)

    def take(self, step: int) -> Tensor:
        """Take the step of a number, counted from 0, and return the loss of this process's share."""
        config, device = self.config, self.device
        draws = _Draws(config, step, self._share, self.world.rank, self._shares)
        x_0, labels = self._clean(self._order.batch(step)[self._share], draws.flips)
        y = None if draws.unlabelled is None else _classes_told(config, labels, draws.unlabelled).to(device)
        with _torch_problems():
            loss = _update(
                config, self._forward, self.network, self.optimizer, x_0, y, draws, self._alphas, step, self._teacher
            )
        _update_ema(self.ema, self.network, config, step + 1)
        return loss

    def _clean(self, chosen: NDArray[np.int64], flips: Tensor | None) -> tuple[Tensor, NDArray[np.int64] | None]:
        """Return x_0 (B, C, H, W) of the images chosen, mirrored where flips (B, 1, 1, 1) say so, and their labels."""
        data = self.dataset
        if isinstance(data, Latents):
            mirrored = torch.zeros(len(chosen), dtype=torch.long) if flips is None else flips.flatten().long()
            return data.states[mirrored, chosen].to(self.device), None if data.labels is None else data.labels[chosen]
        images, labels = data.batch(chosen)
        pixels = images.transpose(0, 3, 1, 2).copy()  # (B, C, H, W) uint8
        x_0 = torch.from_numpy(pixels).to(self.device).float() / 127.5 - 1.0
        return x_0 if flips is None else torch.where(flips.to(self.device), x_0.flip(3), x_0), labels


def _pictures_due(config: TrainConfig, step: int) -> bool:
    every = config.picture_every
    return every > 0 and (step % every == 0 or step == config.steps)


def _is_undrawn(out: Path) -> bool:
    """Tell whether the samples of a folder are missing, or older than its checkpoint."""
    samples = out / SAMPLES
    return not samples.exists() or samples.stat().st_mtime_ns < (out / "checkpoint.pt").stat().st_mtime_ns


def _stored(config: TrainConfig) -> dict[str, Any]:
    """Return the configuration as a checkpoint has it: without what came later, the same as before there was any."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    if config.times == "uniform":
        del values["times"], values["times_parameters"]
    for name in ("cooldown_steps", "teacher", "weaker", "autoencoder", "autoguidance"):
        if not values[name]:
            del values[name]
    if not config.network.num_classes:
        del values["network"]["num_classes"], values["label_dropout"]
    return values


def _classes_told(config: TrainConfig, labels: NDArray[np.int64] | None, unlabelled: Tensor) -> Tensor:
    """Return the class (B,) that the network is told of each image: "none" for the unlabelled ones."""
    assert labels is not None  # check_classes has seen them
    return torch.where(unlabelled, config.network.num_classes, torch.from_numpy(labels))


def _update(
    config: TrainConfig,
    forward: Callable[..., Tensor],
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    x_0: Tensor,
    y: Tensor | None,
    draws: "_Draws",
    alphas: Tensor,
    step: int,
    teacher: Teacher | None,
) -> Tensor:
    """Take one optimiser step (Ho et al. 2020, algorithm 1) and return the loss of this process's share."""
    t, eps = draws.t.to(x_0.device), draws.eps.to(x_0.device)
    a = alphas[t][:, None, None, None]
    x_t = noised(x_0, eps, a)
    if config.channels_last:
        x_t = x_t.contiguous(memory_format=torch.channels_last)
    with torch.autocast(x_0.device.type, torch.bfloat16, enabled=config.bf16):
        predicted = forward(x_t, t) if y is None else forward(x_t, t, y)
    wanted = target(config.prediction, x_0, eps, a) if teacher is None else teacher(x_t, t, y)
    loss = LOSSES[config.loss](predicted.float(), wanted)
    optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), config.gradient_norm_max)
    if not bool(torch.isfinite(loss) & torch.isfinite(norm)):
        raise _non_finite(step, f"loss {loss.item()}, gradient norm {norm.item()}")
    rise = min(1.0, (step + 1) / max(1, config.warmup_steps))
    fall = max(1.0, step / config.constant_steps) ** -0.5
    end = min(1.0, (config.steps - step) / max(1, config.cooldown_steps))
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * rise * fall * end
    optimizer.step()
    return loss.detach()


def _non_finite(step: int, got: str) -> NonFiniteError:
    return NonFiniteError(
        f"At training step {step}, numbers became NaN or infinite: {got}. Lower learning_rate and go on from the last "
        "checkpoint."
    )


def _update_ema(ema: dict[str, Tensor], network: nn.Module, config: TrainConfig, step: int) -> None:
    # the half-life grows with the images seen, so that the random start is soon forgotten (Karras et al. 2022)
    halflife = min(config.ema_halflife_images, config.ema_rampup_ratio * step * config.batch_size)
    decay = 0.5 ** (config.batch_size / halflife)
    torch._foreach_lerp_(list(ema.values()), [p.detach() for p in network.state_dict().values()], 1.0 - decay)


def _resume(
    path: Path, config: TrainConfig, network: UNet, ema: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> int:
    contents = load_own_checkpoint(path, " Choose another --out.")
    if not contents.keys() & {"network", "optimizer"}:
        raise ConfigError(
            f"{path} has averaged weights alone, without what a training goes on with: give it to --start, and "
            "choose another --out."
        )
    try:
        before = config_from_dict(contents["config"])
    except (KeyError, UsageError) as exc:
        raise _unfit(path, exc) from exc
    differing = _differences(before, config)
    if differing:
        raise ConfigError(
            f"{path} was made by another configuration: {', '.join(differing)}. Choose another --out, or "
            "change that back."
        )
    try:
        network.load_state_dict(contents["ema"])  # names and shapes are checked here
        for name, value in network.state_dict().items():
            ema[name].copy_(value)
        network.load_state_dict(contents["network"])
        _load_optimizer(optimizer, contents["optimizer"])
        step = contents["step"]
        if type(step) is not int or not 0 <= step <= MAX_STEP:
            raise ValueError(f"its step is {shown(step)}")
        return step
    except Exception as exc:  # a field may hold anything, and torch raises whatever it met
        raise _unfit(path, exc) from exc


def _load_optimizer(optimizer: torch.optim.Optimizer, state: Any) -> None:
    """Load an optimiser's state; raises ValueError where a later step would fail on it, or take other steps."""
    fresh = [dict(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, fresh, strict=True):
        other = [
            name
            for name, value in own.items()
            if name not in ("params", "lr", "fused") and group.get(name, value) != value
        ]
        if other:
            raise ValueError(f"its optimizer has another {several(other)}")
        group["fused"] = own["fused"]  # how a step is computed, not what
    for weight, values in optimizer.state.items():
        for name, value in values.items():
            shape = () if name == "step" else weight.shape
            if not isinstance(value, Tensor) or value.shape != shape or not value.is_floating_point():
                raise ValueError(f"its optimizer's {shown(name)} does not fit its weight")


def _start_from(path: Path, network: UNet, ema: dict[str, Tensor]) -> None:
    """Give network and ema the averaged weights of another training.

    Classes and attention that it had not begin without effect.
    """
    contents = load_own_checkpoint(path)
    try:
        weights = dict(contents["ema"])
        for name, value in network.state_dict().items():
            if name.startswith("label."):
                weights.setdefault(name, torch.zeros_like(value))
            elif ".attention." in name:
                weights.setdefault(name, value)  # ends in a convolution that is zero
        network.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as exc:
        raise BadFileError(f"{path} does not fit this network: {' '.join(str(exc).split())[:200]}.") from exc
    for name, value in network.state_dict().items():
        ema[name].copy_(value)


def _differences(before: TrainConfig, now: TrainConfig) -> list[str]:
    """Say which fields that weights depend on differ, as `field now (before)`."""
    found = []
    for field in dataclasses.fields(now):
        pairs = [(field.name, getattr(now, field.name), getattr(before, field.name))]
        if dataclasses.is_dataclass(pairs[0][1]):
            inner, former = pairs[0][1:]
            names = [f.name for f in dataclasses.fields(inner)]
            pairs = [(f"{field.name}.{name}", getattr(inner, name), getattr(former, name)) for name in names]
        if field.name not in now.RESUMABLE:
            found += [f"{name} {value!r} (before: {old!r})" for name, value, old in pairs if value != old]
    return found


def _unfit(path: Path, exc: Exception) -> BadFileError:
    reason = " ".join(str(exc).split())[:200]
    return BadFileError(f"{path} does not fit this trainer: {reason}. Choose another --out.")


class _Order:
    """The images of a step: one permutation an epoch, from (seed, epoch); the last short batch is left out."""

    def __init__(self, seed: int, count: int, batch_size: int, batches: int) -> None:
        self.seed, self.count, self.batch_size, self.batches = seed, count, batch_size, batches
        self.epoch, self.permutation = -1, np.empty(0, dtype=np.int64)

    def batch(self, step: int) -> NDArray[np.int64]:
        epoch, place = divmod(step, self.batches)
        if epoch != self.epoch:
            self.epoch, self.permutation = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.count)
        return self.permutation[place * self.batch_size : (place + 1) * self.batch_size]


class _Draws:
    """What is random in a step: flips, t, eps and whose label is dropped, of the whole batch, cut to a share.

    shares: how often each time is drawn, all alike without them.
    Shares do not change them, nor do classes change flips, t and eps: labels are dropped after these. All are drawn on
    the CPU: the same numbers on every device. Dropout draws on, from another place on each rank.
    """

    def __init__(self, config: TrainConfig, step: int, share: slice, rank: int, shares: Tensor | None = None) -> None:
        count = config.batch_size
        torch.manual_seed(_mixed(config.seed, step))
        self.flips = (torch.rand(count, 1, 1, 1) < 0.5)[share] if config.horizontal_flips else None
        if shares is None:
            self.t = torch.randint(0, config.num_train_timesteps, (count,))[share]
        else:
            self.t = torch.multinomial(shares, count, replacement=True)[share]
        self.eps = torch.randn(count, *config.network.image_shape)[share]
        drops = torch.rand(count) < config.label_dropout if config.network.num_classes else None
        self.unlabelled = None if drops is None else drops[share]
        if rank > 0:
            torch.manual_seed(_mixed(config.seed, step, rank))


def _mixed(*numbers: int) -> int:
    digest = hashlib.sha256(" ".join(map(str, numbers)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


@contextmanager
def _torch_problems() -> Iterator[None]:
    """Translate what torch raises for want of memory or of a compiler."""
    try:
        yield
    except torch.OutOfMemoryError as exc:
        raise EnvironmentProblem("The device is out of memory. Set batch_size or network.base_channels lower.") from exc
    except RuntimeError as exc:
        if not type(exc).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        # a compiler that was killed leaves an empty file, which torch takes for what it has compiled
        unreadable = isinstance(getattr(exc, "inner_exception", None), ImportError)
        remedy = "Delete that file" if unreadable else "Install a compiler (gcc)"
        raise EnvironmentProblem(
            f"torch.compile failed: {' '.join(str(exc).split())[:200]}. {remedy}, or --set compile=false."
        ) from exc


class _Stops:
    """Remember whether a signal asked to stop; what takes long and can be done again is interrupted by it."""

    def __init__(self) -> None:
        self.asked = self._interrupts = False

    def heed(self, _number: int, _frame: object) -> None:
        self.asked = True
        if self._interrupts:
            raise KeyboardInterrupt

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        self._interrupts = True
        try:
            yield
        except KeyboardInterrupt:
            if not self.asked:  # nobody's signal
                raise
        finally:
            self._interrupts = False


@contextmanager
def _stop_requests() -> Iterator[_Stops]:
    """Turn the signals that ask to stop into a question that the loop asks once a step."""
    stops = _Stops()
    before = heed(stops.heed)
    try:
        yield stops
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _log(path: Path, line: dict[str, Any]) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as exc:
        raise EnvironmentProblem(
            f"{path} cannot be written: {exc.strerror}. Free space, or choose another place."
        ) from exc


def _clear_after(out: Path, step: int) -> None:
    """Remove what a killed run wrote into the log after its last checkpoint."""
    path = out / "log.jsonl"
    if not path.exists():
        return
    if not path.is_file():
        raise EnvironmentProblem(f"{path} cannot be written: it is not a file. Choose another --out.")
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] > step:
                break
        except (ValueError, KeyError, TypeError, RecursionError):  # the line during which it was killed
            break
        kept.append(line + "\n")
    write_text(path, "".join(kept))
