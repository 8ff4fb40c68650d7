"""The generator: UNet and text encoder, trained together from scratch on cached latents."""

from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from perdure.toybox.pretrain.feed import Feed, stratified, train_generator
from perdure.toybox.pretrain.precision import half_precision
from perdure.toybox.pretrain.recipe import LATENT_SIDE, PROMPT_LENGTH, BaseRecipe, Recipe
from perdure.toybox.pretrain.trainer import Decay, Trainer, latest_weights, train_eagerly


class Base(nn.Module):
    """UNet and text encoder as one module: latents, time steps and token ids in, predicted velocity out."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, noisy: Tensor, times: Tensor, ids: Tensor) -> Tensor:
        """(N, C, 16, 16), (N,), (N, PROMPT_LENGTH) -> (N, C, 16, 16) float32."""
        words = self.text_encoder(ids).last_hidden_state
        velocity: Tensor = self.unet(noisy, times, words).sample.float()
        return velocity


def build_base(recipe: BaseRecipe, latent_channels: int, tokenizer: CLIPTokenizer) -> Base:
    """Untrained UNet and text encoder."""
    down = tuple("CrossAttnDownBlock2D" if on else "DownBlock2D" for on in recipe.attention)
    up = tuple("CrossAttnUpBlock2D" if on else "UpBlock2D" for on in recipe.attention[::-1])
    unet = UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=recipe.channels,
        layers_per_block=1,
        down_block_types=down,
        up_block_types=up,
        cross_attention_dim=recipe.text_width,
        attention_head_dim=recipe.heads,  # diffusers' misnomer: the number of heads
        norm_num_groups=recipe.groups,
    )
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.text_width,
        intermediate_size=4 * recipe.text_width,
        projection_dim=recipe.text_width,
        num_hidden_layers=recipe.text_layers,
        num_attention_heads=recipe.text_heads,
        max_position_embeddings=PROMPT_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Base(unet, CLIPTextModel(text))


def build_scheduler() -> DDIMScheduler:
    """Cosine noise schedule (Nichol & Dhariwal 2021), velocity prediction, trailing steps."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # unused by trailing steps; other values bring a warning
    )


class VelocityLoss:
    """Velocity prediction (Salimans & Ho 2022), its nearly clean steps weighted down.

    The weight is min(1, (cap + 1) / (SNR + 1)): that of min-SNR (Hang et al. 2023) where the picture is nearly clean,
    1 elsewhere. Min-SNR itself also fades out the noisy steps, in which class and colour are decided.
    """

    def __init__(self, cap: float) -> None:
        kept = build_scheduler().alphas_cumprod
        self._signal, self._noise = kept.sqrt(), (1 - kept).sqrt()
        ratio = kept / (1 - kept)
        weight = ((cap + 1) / (ratio + 1)).clamp(max=1)
        self._weight = weight / weight.mean()

    def __call__(self, base: Base, latents: Tensor, ids: Tensor, times: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted loss to train on, and the plain mean squared error to report."""
        signal, spread = self._signal[times].view(-1, 1, 1, 1), self._noise[times].view(-1, 1, 1, 1)
        target = signal * noise - spread * latents
        with half_precision():
            predicted = base(signal * latents + spread * noise, times, ids)
        error = (predicted - target).square().mean(dim=(1, 2, 3))
        return (error * self._weight[times]).mean(), error.detach().mean()


def stratified_times(count: int, draws: torch.Generator) -> Tensor:
    """One time step from each of `count` equal parts of 0..999, in random order."""
    return (stratified(count, draws) * (1000 / count)).long().clamp(max=999)


def train_base(
    recipe: Recipe, work: Path, tokenizer: CLIPTokenizer, until: int | None = None, decay: Decay = None
) -> Base:
    """Train in this process, which is one of `rank_and_count()`; each process takes its own part of every batch."""
    own = recipe.base
    torch.manual_seed(recipe.seed + 4)
    base = build_base(own, recipe.autoencoder.latent_channels, tokenizer)
    if (work / "words" / "latest.json").exists():
        base.text_encoder.load_state_dict(text_encoder_weights(latest_weights(work / "words")))
    base.unet.set_attn_processor(AttnProcessor())
    train_eagerly(base.text_encoder)
    trainer = Trainer(base, own.train, work / "base", lambda name: own.text_rate if "text_encoder" in name else 1.0)
    trainer.resume()
    trainer.plan_decay(decay)
    feed = Feed(recipe, work, tokenizer, "base", own.train.batch, own.caption_drop, stratified_times)
    train_generator(trainer, "base", work, feed, VelocityLoss(own.snr_cap), trainer.last_step(until))
    return base


def text_encoder_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The entries of a Base or a Reader that are its text encoder's, under the encoder's own names."""
    head = "text_encoder."
    return {name[len(head) :]: tensor for name, tensor in weights.items() if name.startswith(head)}
