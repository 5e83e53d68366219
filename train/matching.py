"""Distribution matching: move the distribution of a student's pictures towards that of its teacher's.

DMD (Yin et al. 2024, "One-step Diffusion with Distribution Matching Distillation", arXiv 2311.18828): the difference
between two denoisers of a noised picture, the teacher's and one that keeps learning from the student's own pictures,
is the gradient from the student's distribution to the teacher's (eq. 7, 8). What trajectories teach by L1 blurs, being
a mean of what may come; this sharpens it. Needs no data.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ddpm_export.errors import BadFileError
from ddpm_export.importers.checkpoint import load_own_checkpoint, save_checkpoint
from ddpm_export.importers.unet import UNet
from ddpm_export.process.equations import Level, clean_and_noise
from ddpm_export.process.rows import Plan

from .compiled import compiled
from .losses import noised, target
from .trajectories import Float16, classes_of

if TYPE_CHECKING:
    from .distil import Student

WARM = 40  # updates in which the student waits for the denoisers of its pictures
KEPT = 50  # updates between two saves
BETAS, RATE = (0.0, 0.99), 2e-4  # of the denoisers of the student's pictures
L1 = 0.3  # how much the trajectories count beside
TIMES = (0.01, 0.99)  # of T: where pictures are noised


class Matching:
    """A student beside its teacher and, for each of its plans, a denoiser of its pictures; `update` is the next one."""

    def __init__(self, student: "Student", contents: dict[str, Any], *, fused: bool = True) -> None:
        self.student, self.update = student, 0
        self.alphas = torch.tensor(student.spec.alphas_cumprod, dtype=torch.float64)

        def denoiser() -> Any:
            network = UNet(student.network.config)
            network.load_state_dict(contents["ema"])
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            return network.eval()

        self.teacher = denoiser().requires_grad_(False)
        self.own = {name: denoiser() for name in student.plans}
        for network in (self.teacher, *self.own.values()) if fused else ():
            compiled(network, channels_last=True)
        self.optimizers = {n: torch.optim.Adam(own.parameters(), RATE, BETAS) for n, own in self.own.items()}

    def save(self, path: Path) -> None:
        """Write what `resume` goes on from."""
        own = {name: network.state_dict() for name, network in self.own.items()}
        optimizers = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        save_checkpoint(path, update=self.update, own=own, optimizers=optimizers, **self.student.state())

    def resume(self, path: Path) -> None:
        """Go on from what `save` wrote; raises BadFileError for anything else."""
        with fitting(path):
            contents = load_own_checkpoint(path, " Delete it.")
            self.student.take(contents)
            for name, network in self.own.items():
                network.load_state_dict(contents["own"][name])
                self.optimizers[name].load_state_dict(contents["optimizers"][name])
            self.update = int(contents["update"])

    def train(self, data: Float16, updates: int) -> Iterator[dict[str, list[float]]]:
        """Train up to `updates` of every plan; yield each one's distances from the teacher by L1, by plan and step."""
        student = self.student
        if not self.update:  # from the averaged weights, whose averaging begins anew
            student.network.load_state_dict(student.ema)
            student.updates, student.optimizer = 0, student.made_optimizer()
        while self.update < updates:
            draws = np.random.default_rng([student.recipe.seed, 1, self.update])
            noises = torch.Generator().manual_seed(self.update)
            waits = self.update < WARM
            rate = 0.5 * student.rate(self.update, updates)
            found = {}
            for name, rows in student.plans.items():
                chosen = draws.choice(data.shape[1], max(1, student.recipe.batch // 2), replace=False)
                found[name] = self._walk(name, rows, data, chosen, None if waits else rate, noises)
            self.update += 1
            yield found

    def run(self, data: Float16, updates: int, out: Path) -> None:
        """Train up to `updates`; resume from `out`, and after every KEPT updates save there and print a line."""
        path = out / "matching.pt"
        if path.exists():
            self.resume(path)
        for losses in self.train(data, updates):
            if self.update % KEPT == 0 or self.update == updates:
                self.save(path)
                print(json.dumps({"matching": self.update, **losses}), file=sys.stderr, flush=True)

    def _walk(
        self,
        name: str,
        rows: Plan,
        data: Float16,
        chosen: NDArray[np.int64],
        rate: float | None,
        noises: torch.Generator,
    ) -> list[float]:
        """Take an optimiser step at the last step of a plan, and now and then at one before; none without a rate."""
        student = self.student
        y = () if student.spec.label is None else (torch.from_numpy(classes_of(chosen, student.spec)),)
        steps = student.steps_of(data, chosen, rows)
        also = self.update % (2 * len(steps))
        x, losses = torch.from_numpy(data[0, chosen]).float(), []
        for k, (row, wanted, signal) in enumerate(steps):
            is_last = k == len(steps) - 1
            with torch.set_grad_enabled(rate is not None and (is_last or k == also)):
                landed = student.step(row, x, *y)
            loss = F.l1_loss(landed, wanted) / signal
            losses.append(loss.item())
            if is_last:
                gradient = self.gradient(name, landed.detach(), y, noises)
                loss = L1 * loss + (landed * gradient).sum()
            if loss.requires_grad:
                student.update(loss, rate or 0.0)
            x = landed.detach()
        return losses

    def gradient(self, name: str, pictures: Tensor, y: tuple[Tensor, ...], noises: torch.Generator) -> Tensor:
        """Teach the denoiser of these pictures (B, C, H, W), and return the gradient of matching at them."""
        prediction, predicted, own = self.student.spec.prediction, self.student.predicted, self.own[name]
        x, t, a, eps = self._noised(pictures, noises)
        wanted = target(prediction, pictures, eps, a).float()
        self.optimizers[name].zero_grad()
        F.mse_loss(predicted(own, x, t, *y), wanted).backward()
        self.optimizers[name].step()
        x, t, a, _ = self._noised(pictures, noises)
        at = Level(a, Tensor.float)
        with torch.no_grad():
            real, fake = (
                clean_and_noise(predicted(network, x, t, *y), x, at, prediction, None)[0]
                for network in (self.teacher, own)
            )
        weight = (pictures - real).abs().mean(dim=(1, 2, 3), keepdim=True).clip(min=1e-3)
        return (fake - real) / weight / pictures.numel()

    def _noised(self, pictures: Tensor, noises: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return noised pictures, their times, alphas_cumprod (B, 1, 1, 1) float64 and noise."""
        low, high = (round(share * len(self.alphas)) for share in TIMES)
        t = torch.randint(low, high, (len(pictures),), generator=noises)
        eps = torch.randn(pictures.shape, generator=noises)
        a = self.alphas[t][:, None, None, None]
        return noised(pictures, eps, a).float(), t, a, eps


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Raise BadFileError where the contents of a file are not a student's."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError) as exc:
        raise BadFileError(f"{path} does not fit this student: {' '.join(str(exc).split())[:200]}.") from exc
