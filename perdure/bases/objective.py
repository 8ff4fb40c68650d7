"""What a base was trained to do: how noise is mixed into latents, what is then predicted, and how times are drawn."""

from dataclasses import dataclass
from typing import Protocol

import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from torch import Tensor


class Objective(Protocol):
    """Latents, noise and errors have a leading batch b; times (b,) are in the objective's own units."""

    def times(self, latents: Tensor, generator: torch.Generator) -> Tensor:
        """A time for each of some latents (b, c, h, w)."""

    def noised(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Latents (b, c, h, w) with noise in them."""

    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """What the network should predict (b, c, h, w)."""

    def weighted(self, error: Tensor, times: Tensor, min_snr: float) -> Tensor:
        """Errors (b,) weighted by their times."""


@dataclass(frozen=True)
class Diffusion:
    """Noise (Ho et al. 2020) or velocity (Salimans & Ho 2022), at any of the schedule's steps alike."""

    schedule: DDPMScheduler

    def times(self, latents: Tensor, generator: torch.Generator) -> Tensor:
        """Steps from 0, whole numbers."""
        steps = int(self.schedule.config.num_train_timesteps)
        return torch.randint(0, steps, (len(latents),), generator=generator).to(latents.device)

    def noised(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """sqrt(alpha) latents + sqrt(1 - alpha) noise."""
        noised: Tensor = self.schedule.add_noise(latents, noise, times)
        return noised

    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """The noise, or sqrt(alpha) noise - sqrt(1 - alpha) latents."""
        wanted: Tensor = self.schedule.get_velocity(latents, noise, times) if self._velocity else noise
        return wanted

    def weighted(self, error: Tensor, times: Tensor, min_snr: float) -> Tensor:
        """Min-SNR weights of Hang et al. 2023, equation 6."""
        snr: Tensor = compute_snr(self.schedule, times)
        return error * snr.clamp(max=min_snr) / (snr + 1 if self._velocity else snr).clamp(min=1e-8)

    @property
    def _velocity(self) -> bool:
        return bool(self.schedule.config.prediction_type == "v_prediction")
