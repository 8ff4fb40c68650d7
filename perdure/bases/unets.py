"""What the families of UNets have in common: they were trained as DDPMs on plain latents."""

from typing import Any

from diffusers import DDPMScheduler, EDMDPMSolverMultistepScheduler, EDMEulerScheduler

from perdure.bases.objective import Diffusion

PREDICTIONS = ("epsilon", "v_prediction")


def objective(pipe: Any) -> Diffusion:
    """Noise or velocity, by the settings of the pipeline's scheduler."""
    return Diffusion(DDPMScheduler.from_config(pipe.scheduler.config))


def unlike(pipe: Any) -> str:
    """Another objective, latents that are shifted, or more inputs than latents."""
    scheduler, unet, vae = pipe.scheduler, pipe.unet.config, pipe.vae.config
    name, predicts = type(scheduler).__name__, scheduler.config.get("prediction_type", "epsilon")
    flows = "FlowMatch" in name or scheduler.config.get("use_flow_sigmas")
    if flows or isinstance(scheduler, EDMEulerScheduler | EDMDPMSolverMultistepScheduler):
        return f" is noised as {name} says; perdure teaches UNets of the DDPM kind only"
    if predicts not in PREDICTIONS:
        return f" predicts {predicts!r}; perdure teaches bases that predict {' or '.join(PREDICTIONS)}"
    if vae.get("latents_mean") is not None or vae.get("latents_std") is not None:
        return ": its autoencoder shifts latents (latents_mean, latents_std), which is not known"
    if unet.in_channels != vae.latent_channels:
        return (
            f": its UNet takes {unet.in_channels} channels and its autoencoder has {vae.latent_channels}; "
            "inpainting and editing models cannot be taught, name the text-to-image model they were made from"
        )
    return ""
