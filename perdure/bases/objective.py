"""What a base was trained to do: how noise is mixed into latents, what is then predicted, and how times are drawn."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.training_utils import compute_snr
from torch import Tensor

from perdure.plan import Times


class Objective(Protocol):
    """Latents, noise and errors have a leading batch b; times (b,) are in the objective's own units."""

    @property
    def solvers(self) -> Mapping[str, Any]:
        """What `sampling.scheduler` may be, beside the pipeline's own: scheduler classes of diffusers."""

    def unfit(self, min_snr: float | None, times: Times) -> str:
        """What of these settings of `training` has no meaning here, in a sentence; empty where all has."""

    def times(self, latents: Tensor, how: Times, generator: torch.Generator) -> Tensor:
        """A time for each of some latents (b, c, h, w), drawn as the plan says."""

    def noised(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Latents (b, c, h, w) with noise in them."""

    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """What the network should predict (b, c, h, w)."""

    def weighted(self, error: Tensor, times: Tensor, min_snr: float | None) -> Tensor:
        """Errors (b,) weighted by their times."""


@dataclass(frozen=True)
class Diffusion:
    """Noise (Ho et al. 2020) or velocity (Salimans & Ho 2022), at any of the schedule's steps alike."""

    schedule: DDPMScheduler
    solvers: ClassVar[Mapping[str, Any]] = {
        "ddim": DDIMScheduler,
        "euler": EulerDiscreteScheduler,
        "dpm++": DPMSolverMultistepScheduler,
        "unipc": UniPCMultistepScheduler,
    }

    def unfit(self, min_snr: float | None, times: Times) -> str:
        """Other times than all alike."""
        if times in ("default", "uniform"):
            return ""
        return (
            f"training.times: {times} is for bases of flow matching; this one was trained at all steps alike: default"
        )

    def times(self, latents: Tensor, how: Times, generator: torch.Generator) -> Tensor:
        """Steps from 0, whole numbers."""
        steps = int(self.schedule.config.num_train_timesteps)
        return torch.randint(0, steps, (len(latents),), generator=generator).to(latents.device, non_blocking=True)

    def noised(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """sqrt(alpha) latents + sqrt(1 - alpha) noise."""
        noised: Tensor = self.schedule.add_noise(latents, noise, times)
        return noised

    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """The noise, or sqrt(alpha) noise - sqrt(1 - alpha) latents."""
        wanted: Tensor = self.schedule.get_velocity(latents, noise, times) if self._velocity else noise
        return wanted

    def weighted(self, error: Tensor, times: Tensor, min_snr: float | None) -> Tensor:
        """Min-SNR weights of Hang et al. 2023, equation 6, where a gamma is given."""
        if min_snr is None:
            return error
        snr: Tensor = compute_snr(self.schedule, times)
        return error * snr.clamp(max=min_snr) / (snr + 1 if self._velocity else snr).clamp(min=1e-8)

    @property
    def _velocity(self) -> bool:
        return bool(self.schedule.config.prediction_type == "v_prediction")


@dataclass(frozen=True)
class Flow:
    """The velocity noise - latents of a straight path between them (Liu et al. 2023; Lipman et al. 2023).

    Times s lie in (0, 1): x = (1 - s) latents + s noise. Where pictures are large, a share of noise hides less of them:
    times are moved towards noise, s' = m s / (1 + (m - 1) s) (Esser et al. 2024, equation 23).
    """

    schedule: FlowMatchEulerDiscreteScheduler
    patch: int
    """Latents a side that make one token."""
    solvers: ClassVar[Mapping[str, Any]] = {"euler": FlowMatchEulerDiscreteScheduler}

    def unfit(self, min_snr: float | None, times: Times) -> str:
        """Min-SNR weights."""
        if min_snr is None:
            return ""
        return (
            "training.min_snr weights the errors of a DDPM by its signal-to-noise ratio; this base was trained by flow "
            "matching, all errors alike: leave it null"
        )

    def times(self, latents: Tensor, how: Times, generator: torch.Generator) -> Tensor:
        """default: sigmoid of normal numbers, moved as the scheduler moves its steps; sigmoid_normal: not moved."""
        if how == "uniform":
            return torch.rand(len(latents), generator=generator).to(latents.device, non_blocking=True)
        times = torch.sigmoid(torch.randn(len(latents), generator=generator))
        if how == "default":
            m = self.shift(latents.shape[-2] * latents.shape[-1] // self.patch**2)
            times = m * times / (1 + (m - 1) * times)
        return times.to(latents.device, non_blocking=True)

    def shift(self, tokens: int) -> float:
        """m, by the scheduler: a number, or exp of a line in the number of a picture's tokens."""
        config = self.schedule.config
        if not config.use_dynamic_shifting:
            return float(config.shift)
        slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
        return math.exp(config.base_shift + slope * (tokens - config.base_image_seq_len))

    def noised(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """(1 - s) latents + s noise."""
        s = times.view(-1, 1, 1, 1)
        return (1 - s) * latents + s * noise

    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """noise - latents."""
        return noise - latents

    def weighted(self, error: Tensor, times: Tensor, min_snr: float | None) -> Tensor:
        """All alike; `unfit` has refused min-SNR."""
        return error
