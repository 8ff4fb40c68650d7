"""Checkpoints in one file: what kind of model a file holds, told by its header; how its parts are configured.

Sources: the layout of LDM and sgm as published in Stable Diffusion 1, 2 and SDXL; what shapes do not tell (heads,
scaling of latents, schedules) as in the configurations published with these models. Needs no torch.
"""

import gzip
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from perdure.errors import ModelError

UNET, VAE = "model.diffusion_model.", "first_stage_model."
FIRST, OPEN = "cond_stage_model.transformer.", "cond_stage_model.model."
"""Text encoders of SD 1 (as transformers names them) and of SD 2 (as OpenCLIP does)."""
SDXL_FIRST, SDXL_OPEN = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
TEXT = "text_model."
"""Prefix of a text encoder's tensors that every reader of the layout wants; transformers has left it out since 5.6."""
SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
"""How files of weights are called."""
PICKLES = (b"PK\x03\x04", b"\x80")
"""How torch's pickled files begin."""
VOCABULARY = 49408
"""Rows of CLIP's table of words."""
TRANSFORMER = r"^(model\.diffusion_model\.)?(double_blocks|joint_blocks|transformer_blocks|single_blocks|layers)\."
"""Names of tensors of a transformer's layers, as publishers and diffusers call them."""
OTHERS = {
    r"lora_(unet|te)|lora_[AB]\.|\.lora\.|_lora\.(up|down)|^lycoris_|hada_w|lokr_w": "a LoRA file, which stands on a "
    "base: give that base, and teach the model by it (perdure teach MODEL --from FILE)",
    r"^(control_model|input_hint_block|controlnet_\w+)\.": "a ControlNet, which stands on a base: give that base",
    TRANSFORMER: "a transformer (FLUX, SD 3 and such): give the diffusers folder or hub id of its model as the base, "
    "and the file beside it as `transformer`",
    r"^(down_blocks|mid_block|time_embedding)\.": "one part of a diffusers folder: give the folder",
    r"^(first_stage_model\.)?(encoder|decoder)\.": "an autoencoder: give it as the `vae` of a base",
    r"^(emb_params|clip_[lg]|string_to_param\.\*)$": "an embedding file, a word for a base: give that base",
}
"""Names of tensors of files that are no bases, and what those are."""
INPUTS = {
    9: "an inpainting model, whose UNet takes 9 channels", 8: "an editing model, whose UNet takes 8 channels",
    5: "a depth model, whose UNet takes 5 channels", 7: "an upscaler, whose UNet takes 7 channels",
}  # fmt: skip
PREFIXES = {
    "sd1": {"text_encoder": FIRST}, "sd2": {"text_encoder": OPEN},
    "sdxl": {"text_encoder": SDXL_FIRST, "text_encoder_2": SDXL_OPEN},
}  # fmt: skip
"""What the names of a text encoder's tensors begin with, by family and its name in a diffusers folder."""
CALLED = {"sd1": "Stable Diffusion 1", "sd2": "Stable Diffusion 2", "sdxl": "SDXL"}
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Layout:
    """A base in one file. family: sd1, sd2 or sdxl; parts: name in a diffusers folder -> its configuration."""

    family: str
    parts: Mapping[str, Mapping[str, Any]]
    has_vae: bool

    @property
    def pipeline(self) -> str:
        """The class of pipeline."""
        return "StableDiffusionXLPipeline" if self.family == "sdxl" else "StableDiffusionPipeline"

    @property
    def prefixes(self) -> dict[str, str]:
        """What the names of each part's tensors begin with."""
        return {"unet": UNET, "vae": VAE, **PREFIXES[self.family]}

    @property
    def tokenizers(self) -> dict[str, CLIPTokenizer]:
        """The tokenizer of each text encoder, by its name in a diffusers folder."""
        padded = {"sd1": ("<|endoftext|>",), "sd2": ("!",), "sdxl": ("<|endoftext|>", "!")}[self.family]
        return {f"tokenizer{'_2' * number}": tokenizer(pad) for number, pad in enumerate(padded)}


def is_file(name: str) -> bool:
    """Whether a model's name is that of a file of weights, there or not; no hub id ends so."""
    return name.lower().endswith(SUFFIXES) or Path(name).is_file()


def read(path: Path) -> Layout:
    """What a file holds, from its header. Raises ModelError for what is no base that can be taught, by its kind."""
    shapes, dtypes = header(path)
    if told := _refused(shapes, dtypes):
        raise ModelError(f"base {path} is {told}")
    family, has_vae = _family(shapes), f"{VAE}decoder.conv_in.weight" in shapes
    try:
        texts = {n: _text(_under(prefix, shapes), prefix == SDXL_OPEN) for n, prefix in PREFIXES[family].items()}
        pooled = texts["text_encoder_2"]["projection_dim"] if family == "sdxl" else None
        unet, vae = _unet(_under(UNET, shapes), pooled), _vae(_under(VAE, shapes) if has_vae else None, family)
    except (LookupError, ValueError, StopIteration) as error:
        lacks = f"it lacks {error}" if isinstance(error, KeyError) else "its shapes do not fit together"
        raise ModelError(f"base {path} is no {CALLED[family]} checkpoint of the known layout: {lacks}") from None
    return Layout(family, {"unet": unet, "vae": vae, **texts}, has_vae)


def header(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Shape and dtype of each tensor of a safetensors file, none of them read. Raises ModelError."""
    if not path.exists():
        raise ModelError(f"{path}: there is no such file")
    if not path.is_file():
        raise ModelError(f"{path} is no plain file; give a .safetensors file or a diffusers folder")
    try:
        with path.open("rb") as stream:
            if pickled(stream.read(9)):
                raise ModelError(
                    f"{path} is a pickle, which can run any code when it is read, and is not read here; take the same "
                    "model as .safetensors"
                )
        with safe_open(path, framework="np") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            return {n: tuple(s.get_shape()) for n, s in slices.items()}, {n: s.get_dtype() for n, s in slices.items()}
    except SafetensorError as error:
        if path.suffix.lower() not in SUFFIXES:
            raise ModelError(f"{path} is no base: give a diffusers folder or a .safetensors file") from None
        raise ModelError(f"{path} is damaged, no whole safetensors file ({error}); download it again") from None
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None


def pickled(head: bytes) -> bool:
    """Whether a file that begins so is one of torch's pickles; safetensors' begin with a length, then a brace."""
    return head.startswith(PICKLES) and head[8:9] != b"{"


def _refused(shapes: Shapes, dtypes: Mapping[str, str]) -> str:
    """Why a file cannot be a base, to follow "is"; "" where nothing speaks against it yet."""
    first = shapes.get(f"{UNET}input_blocks.0.0.weight")
    if first is None or len(first) != 4:
        for pattern, told in OTHERS.items():
            if any(re.search(pattern, name) for name in shapes):
                return f"no base but {told}"
        return f"of a layout that is not known (its first tensor is {min(shapes, default='none')})"
    if told := INPUTS.get(first[1], ""):
        return f"{told}; such models cannot be taught: name the text-to-image model it was made from"
    if any(name.startswith("conditioner.embedders.0.model.") for name in shapes):
        return "SDXL's refiner, which only goes on with another model's pictures; give the base model"
    if edm := next((name for name in shapes if name.startswith("edm_")), ""):
        return f"noised as an EDM ({edm}); perdure teaches UNets of the DDPM kind only"
    if odd := next((kind for kind in dtypes.values() if not re.fullmatch(r"F(16|32|64)|BF16|[IU]\d+|BOOL", kind)), ""):
        return f"stored in {odd}, which is too coarse to be taught; take its file in half precision"
    if not _family(shapes):
        return "a UNet without its text encoder (cond_stage_model, conditioner); take the whole checkpoint"
    rows = {n: shape[0] for n, shape in shapes.items() if n.endswith("token_embedding.weight")}
    other = next((name for name, count in rows.items() if count != VOCABULARY), "")
    return f"not read with CLIP's {VOCABULARY} words: {other} has {rows[other]}" if other else ""


def _family(shapes: Shapes) -> str:
    """sd1, sd2 or sdxl by the text encoders that are there, "" without any."""
    ends = {
        "sdxl": f"{SDXL_OPEN}positional_embedding", "sd2": f"{OPEN}positional_embedding",
        "sd1": f"{FIRST}{TEXT}embeddings.position_embedding.weight",
    }  # fmt: skip
    return next((family for family, name in ends.items() if name in shapes), "")


def _under(prefix: str, shapes: Shapes) -> dict[str, tuple[int, ...]]:
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}


def _count(pattern: str, names: Mapping[str, Any]) -> int:
    """How many numbers stand in the place of (\\d+)."""
    return len({found[1] for name in names if (found := re.match(pattern, name))})


def _unet(shapes: Shapes, pooled: int | None) -> dict[str, Any]:
    """diffusers' UNet2DConditionModel; `pooled`: width of the pooled text that SDXL's is told."""
    downs = sorted(int(m[1]) for n in shapes if (m := re.fullmatch(r"input_blocks\.(\d+)\.0\.op\.weight", n)))
    each = downs[0] if downs else _count(r"input_blocks\.(\d+)\.", shapes)
    firsts = [each * level + 1 for level in range(len(downs) + 1)]
    widths = [shapes[f"input_blocks.{k}.0.out_layers.3.weight"][0] for k in firsts]
    depths = [_count(rf"input_blocks\.{k}\.1\.transformer_blocks\.(\d+)\.", shapes) for k in firsts]
    reading = next(k for k, depth in zip(firsts, depths, strict=True) if depth)
    linear = len(shapes[f"input_blocks.{reading}.1.proj_in.weight"]) == 2
    kinds = [("CrossAttn" if depth else "") for depth in depths]
    config: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel", "sample_size": 128 if pooled else 64,
        "in_channels": shapes["input_blocks.0.0.weight"][1], "out_channels": shapes["out.2.weight"][0],
        "block_out_channels": widths, "layers_per_block": each - 1,
        "down_block_types": [f"{kind}DownBlock2D" for kind in kinds],
        "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(kinds)],
        "cross_attention_dim": shapes[f"input_blocks.{reading}.1.transformer_blocks.0.attn2.to_k.weight"][1],
        "attention_head_dim": [max(1, width // 64) for width in widths] if linear else 8,
        "use_linear_projection": linear, "transformer_layers_per_block": [max(1, depth) for depth in depths],
    }  # fmt: skip
    if pooled:
        told = shapes["label_emb.0.0.weight"][1]
        config |= {
            "addition_embed_type": "text_time", "addition_time_embed_dim": (told - pooled) // 6,
            "projection_class_embeddings_input_dim": told,
        }  # fmt: skip
    return config


def vae_like(shapes: Shapes, config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of an autoencoder in the original layout, its scaling and so on as in another one's."""
    structure = ("block_out_channels", "layers_per_block", "latent_channels", "down_block_types", "up_block_types")
    own = _vae({name.removeprefix(VAE): shape for name, shape in shapes.items()}, "")
    return {**config, **{key: own[key] for key in structure}}


def _vae(shapes: Shapes | None, family: str) -> dict[str, Any]:
    """diffusers' AutoencoderKL; as published where the file has none."""
    levels = range(_count(r"encoder\.down\.(\d+)\.", shapes) if shapes else 4)
    widths = [
        shapes[f"encoder.down.{k}.block.0.conv2.weight"][0] if shapes else (128, 256, 512, 512)[k] for k in levels
    ]
    return {
        "_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3,
        "latent_channels": shapes["decoder.conv_in.weight"][1] if shapes else 4, "block_out_channels": widths,
        "layers_per_block": _count(r"encoder\.down\.0\.block\.(\d+)\.", shapes) if shapes else 2,
        "down_block_types": ["DownEncoderBlock2D"] * len(levels), "up_block_types": ["UpDecoderBlock2D"] * len(levels),
        "norm_num_groups": 32, "sample_size": 1024 if family == "sdxl" else 512,
        "scaling_factor": 0.13025 if family == "sdxl" else 0.18215,
    }  # fmt: skip


def _text(shapes: Shapes, projected: bool) -> dict[str, Any]:
    """transformers' CLIPTextConfig; of OpenCLIP's 24 layers SD 2 uses 23, and no projection."""
    ours = "token_embedding.weight" not in shapes
    table = shapes[f"{TEXT}embeddings.token_embedding.weight" if ours else "token_embedding.weight"]
    places = shapes[f"{TEXT}embeddings.position_embedding.weight" if ours else "positional_embedding"]
    block = f"{TEXT}encoder.layers" if ours else "transformer.resblocks"
    layers = _count(rf"{re.escape(block)}\.(\d+)\.", shapes)
    width = table[1]
    return {
        "architectures": ["CLIPTextModelWithProjection" if projected else "CLIPTextModel"],
        "model_type": "clip_text_model", "vocab_size": table[0], "hidden_size": width,
        "intermediate_size": shapes[f"{block}.0.mlp.{'fc1' if ours else 'c_fc'}.weight"][0],
        "num_hidden_layers": 23 if layers == 24 and not (ours or projected) else layers,
        "num_attention_heads": max(1, width // 64), "max_position_embeddings": places[0],
        "hidden_act": "quick_gelu" if ours else "gelu",
        "projection_dim": shapes["text_projection"][1] if projected else width,
        "bos_token_id": VOCABULARY - 2, "eos_token_id": VOCABULARY - 1, "pad_token_id": VOCABULARY - 1 if ours else 0,
    }  # fmt: skip


@cache
def tokenizer(pad: str) -> CLIPTokenizer:
    """CLIP's tokenizer (Radford et al. 2021), 77 ids at most, padded with a word.

    Its words follow from the merges of openai/CLIP's bpe_simple_vocab_16e6 (MIT licence), as simple_tokenizer.py there
    builds them: all bytes, all bytes at a word's end, what the merges make, and both ends.
    """
    packed = resources.files("perdure.bases").joinpath("clip_merges.txt.gz").read_bytes()
    merges = [tuple(line.split()) for line in gzip.decompress(packed).decode().splitlines()]
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges)]
    ids = {word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=ids, merges=merges, model_max_length=77, pad_token=pad)
