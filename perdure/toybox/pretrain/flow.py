"""The second generator: a rectified-flow transformer of Stable Diffusion 3's form.

The autoencoder and text encoder are the first base's, frozen. SD3's pipeline wants two CLIP towers with projections:
the same tower stands twice, its projection the identity; of each the pipeline takes the last hidden states but one as
words and the projected state of the end token as the pooled vector. In place of a third encoder the pipeline sends
`max_sequence_length` rows of zeros. Rows that are alike stay alike (text has no positions in SD3), and so many of them
weigh in attention as one whose logit is raised by the logarithm of their number: half of all pictures learn with the
pipeline's default of 256 rows, half with none, at the price of one.
"""

import math
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from perdure.toybox.pretrain.feed import Feed, stratified, train_generator
from perdure.toybox.pretrain.precision import half_precision
from perdure.toybox.pretrain.recipe import LATENT_SIDE, FlowRecipe, Recipe
from perdure.toybox.pretrain.trainer import Decay, Trainer

ROWS_OF_ZEROS = 256  # `max_sequence_length` of diffusers' StableDiffusion3Pipeline


def build_transformer(recipe: FlowRecipe, latent_channels: int, text_width: int) -> SD3Transformer2DModel:
    """Untrained; blocks begin as the identity and the output as zero (adaLN-Zero, Peebles & Xie 2022)."""
    width = recipe.heads * recipe.head_width
    model = SD3Transformer2DModel(
        sample_size=LATENT_SIDE,
        patch_size=2,
        in_channels=latent_channels,
        out_channels=latent_channels,
        num_layers=recipe.layers,
        attention_head_dim=recipe.head_width,
        num_attention_heads=recipe.heads,
        joint_attention_dim=2 * text_width,
        caption_projection_dim=width,
        pooled_projection_dim=2 * text_width,
        pos_embed_max_size=LATENT_SIDE // 2,
        qk_norm="rms_norm",
    )
    gates = [norm.linear for block in model.transformer_blocks for norm in (block.norm1, block.norm1_context)]
    for layer in (*gates, model.norm_out.linear, model.proj_out):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    with torch.no_grad():
        model.context_embedder.weight /= recipe.word_scale
    return model


def build_flow_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Euler steps over evenly spread times: so few latents need no shift towards noise."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)


def load_flow_pipeline(folder: Path) -> StableDiffusion3Pipeline:
    """An exported transformer's pipeline, float32; diffusers wants to be told that there is no third encoder."""
    pipeline: StableDiffusion3Pipeline = StableDiffusion3Pipeline.from_pretrained(
        folder, text_encoder_3=None, tokenizer_3=None, torch_dtype=torch.float32
    )
    return pipeline


def load_tower(parts: Path) -> CLIPTextModelWithProjection:
    """The text encoder of the exported base `parts`, float32, frozen, with the identity as its projection."""
    plain = CLIPTextModel.from_pretrained(parts / "text_encoder", dtype=torch.float32)
    tower = CLIPTextModelWithProjection(plain.config)
    tower.text_model.load_state_dict(plain.state_dict())
    nn.init.eye_(tower.text_projection.weight)
    return tower.requires_grad_(False).eval()


@torch.no_grad()
def read(tower: CLIPTextModelWithProjection, ids: Tensor) -> tuple[Tensor, Tensor]:
    """What SD3's pipeline hands its transformer with `tower` standing twice: words (N, L, 2W) and pooled (N, 2W)."""
    found = tower(ids, output_hidden_states=True)
    words, pooled = found.hidden_states[-2], found.text_embeds
    return torch.cat([words, words], dim=-1), torch.cat([pooled, pooled], dim=-1)


class PlainJointAttention:
    """SD3's joint attention in plain steps; `attention_mask` is added to the logits (diffusers' own ignores it)."""

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Picture and text tokens (N, I, D), (N, T, D), mask to broadcast to (N, heads, I + T, I + T)."""

        def heads(states: Tensor, project: nn.Module) -> Tensor:
            projected: Tensor = project(states).view(*states.shape[:2], attn.heads, -1)
            return projected.transpose(1, 2)

        def both(of_picture: Tensor, of_text: Tensor) -> Tensor:
            return torch.cat([of_picture, of_text], dim=2)

        picture, text = hidden_states, encoder_hidden_states
        query = both(attn.norm_q(heads(picture, attn.to_q)), attn.norm_added_q(heads(text, attn.add_q_proj)))
        key = both(attn.norm_k(heads(picture, attn.to_k)), attn.norm_added_k(heads(text, attn.add_k_proj)))
        value = both(heads(picture, attn.to_v), heads(text, attn.add_v_proj))
        logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5 + attention_mask
        mixed = (logits.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)
        count = picture.shape[1]
        told = mixed[:, count:] if attn.context_pre_only else attn.to_add_out(mixed[:, count:])
        return attn.to_out[0](mixed[:, :count]), told


def predict(model: SD3Transformer2DModel, noisy: Tensor, times: Tensor, read_text: tuple[Tensor, Tensor]) -> Tensor:
    """Velocity (N, C, 16, 16) at times (N,) in (0, 1); every second picture has the pipeline's rows of zeros."""
    words, pooled = read_text
    words = nn.functional.pad(words, (0, 0, 0, 1))
    mask = noisy.new_zeros(len(noisy), 1, 1, (LATENT_SIDE // 2) ** 2 + words.shape[1])
    mask[::2, ..., -1] = math.log(ROWS_OF_ZEROS)
    mask[1::2, ..., -1] = -math.inf
    found: Tensor = model(noisy, words, pooled, 1000 * times, joint_attention_kwargs={"attention_mask": mask}).sample
    return found.float()


class FlowLoss:
    """Rectified flow (Liu et al. 2022): x = (1 - s) latents + s noise, the velocity noise - latents is predicted."""

    def __init__(self, tower: CLIPTextModelWithProjection) -> None:
        self._tower = tower

    def __call__(
        self, model: SD3Transformer2DModel, latents: Tensor, ids: Tensor, times: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The mean squared error, and once more without its graph."""
        spread = times.view(-1, 1, 1, 1)
        with half_precision():
            predicted = predict(model, (1 - spread) * latents + spread * noise, times, read(self._tower, ids))
        error = (predicted - (noise - latents)).square().mean()
        return error, error.detach()


def sigmoid_normal_times(count: int, draws: torch.Generator) -> Tensor:
    """Times sigmoid(N(0, 1)) (Esser et al. 2024), one from each of `count` equally likely parts, in random order.

    Lessons draw theirs from the same distribution, so that the base is best where they will ask it.
    """
    likely = (stratified(count, draws) / count).clamp(1e-6, 1 - 1e-6)
    return torch.sigmoid(torch.special.ndtri(likely))


def train_flow(
    recipe: Recipe, work: Path, tokenizer: CLIPTokenizer, parts: Path, until: int | None = None, decay: Decay = None
) -> SD3Transformer2DModel:
    """Train in this process, which is one of `rank_and_count()`; each process takes its own part of every batch."""
    own = recipe.flow
    tower = load_tower(parts)
    torch.manual_seed(recipe.seed + 6)
    model = build_transformer(own, recipe.autoencoder.latent_channels, tower.config.hidden_size)
    model.set_attn_processor(PlainJointAttention())
    rate_of = {"context_embedder.weight": 1 / own.word_scale}  # as if the words themselves were divided
    trainer = Trainer(model, own.train, work / "flow", lambda name: rate_of.get(name, 1.0))
    trainer.resume()
    trainer.plan_decay(decay)
    feed = Feed(recipe, work, tokenizer, "flow", own.train.batch, own.caption_drop, sigmoid_normal_times, in_order=True)
    train_generator(trainer, "flow", work, feed, FlowLoss(tower), trainer.last_step(until))
    return model
