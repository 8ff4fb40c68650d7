"""The three small judges, untrained: standard transformers classes on 64 px pictures."""

import torch
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    ViTConfig,
    ViTModel,
)

from perdure.toybox.pretrain.recipe import PICTURE_SIDE, PROMPT_LENGTH, ScorerRecipe

#: Pixels are normalised with these, per channel, on [0, 1]: the input then lies in [-1, 1].
MEAN = STD = (0.5, 0.5, 0.5)


def vision_config(recipe: ScorerRecipe) -> CLIPVisionConfig:
    """The image tower of the CLIP-like scorers."""
    return CLIPVisionConfig(
        hidden_size=recipe.width,
        intermediate_size=4 * recipe.width,
        projection_dim=recipe.embedding,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        image_size=PICTURE_SIDE,
        patch_size=recipe.patch,
    )


def build_clip(recipe: ScorerRecipe, tokenizer: CLIPTokenizer) -> CLIPModel:
    """A small CLIP: images and captions in one space."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": recipe.width,
        "intermediate_size": 4 * recipe.width,
        "projection_dim": recipe.embedding,
        "num_hidden_layers": recipe.text_layers,
        "num_attention_heads": recipe.heads,
        "max_position_embeddings": PROMPT_LENGTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = vision_config(recipe).to_dict()
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=recipe.embedding))


def build_instance_encoder(recipe: ScorerRecipe) -> ViTModel:
    """In DINO's role: the last hidden state of the class token tells individuals apart."""
    config = ViTConfig(
        hidden_size=recipe.width,
        intermediate_size=4 * recipe.width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        image_size=PICTURE_SIDE,
        patch_size=recipe.patch,
    )
    return ViTModel(config, add_pooling_layer=False)


def build_style_encoder(recipe: ScorerRecipe) -> CLIPVisionModelWithProjection:
    """In CSD's role: `image_embeds` tells styles apart, whatever the picture shows."""
    return CLIPVisionModelWithProjection(vision_config(recipe))


def image_features(model: torch.nn.Module, pictures: Tensor) -> Tensor:
    """Unit embeddings (N, dim) of pictures (N, 3, 64, 64) in [-1, 1] under any of the three scorers."""
    if isinstance(model, ViTModel):
        found = model(pixel_values=pictures).last_hidden_state[:, 0]
    elif isinstance(model, CLIPModel):
        found = model.visual_projection(model.vision_model(pixel_values=pictures).pooler_output)
    else:
        found = model(pixel_values=pictures).image_embeds
    return torch.nn.functional.normalize(found.float(), dim=-1)


def text_features(model: CLIPModel, ids: Tensor) -> Tensor:
    """Unit embeddings (N, dim) of token ids (N, length)."""
    found = model.text_projection(model.text_model(input_ids=ids).pooler_output)
    return torch.nn.functional.normalize(found.float(), dim=-1)


@torch.no_grad()
def embed(model: torch.nn.Module, pictures: Tensor, part: int = 128) -> Tensor:
    """`image_features` without gradients, in parts."""
    model.eval()
    return torch.cat([image_features(model, some) for some in torch.split(pictures, part)])
