"""How tools name the tensors of LoRA and embedding files: the one place that writes these names and reads them.

Sources, all read in the tools' own loaders and tried with them: kohya sd-scripts networks/lora.py; LyCORIS (`diff`,
LoHa, LoKr); diffusers loaders/lora_conversion_utils.py and peft; ComfyUI comfy/lora.py and comfy/weight_adapter; A1111
extensions-builtin/Lora; Forge sd_forge_lora; InvokeAI backend/patches and configs/lora.py.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from perdure.errors import ModelError

KOHYA, LYCORIS, PEFT, TRANSFORMER, MODEL, ONETRAINER, OLD, BARE, WORDS = (
    "kohya",
    "lycoris",
    "peft",
    "transformer.",
    "diffusion_model.",
    "onetrainer",
    "old diffusers",
    "peft without unet.",
    "bundled words",
)
UNET = "lora_unet_"
"""What kohya's names of a UNet's modules begin with; dots of the module's name become underscores."""
PIECES = {
    "lora_down.weight": "down", "lora_up.weight": "up", "lora_A.weight": "down", "lora_B.weight": "up",
    "lora.down.weight": "down", "lora.up.weight": "up", "alpha": "alpha", "diff": "diff", "diff_b": "diff bias",
    "lora_mid.weight": "mid", "dora_scale": "dora", "lora_magnitude_vector": "dora",
}  # fmt: skip
"""How a module's parts end, and what they are."""
OTHER_PIECES = re.compile(r"(hada|lokr|oft|glora|on_input|oft_blocks|boft)[\w.]*")
"""Parts of other parameterisations than the sum of products: LoHa, LoKr, OFT and so on."""
PATTERNS = {
    WORDS: r"(?P<part>bundle_emb)\.(?P<module>[^.]+)\.(?P<piece>.+)",
    KOHYA: r"(?P<part>lora_unet|lora_te[12]?)_(?P<module>[^.]+)\.(?P<piece>.+)",
    LYCORIS: r"(?P<part>lycoris)_(?P<module>[^.]+)\.(?P<piece>.+)",
    ONETRAINER: r"(?P<part>lora_transformer)_(?P<module>[^.]+)\.(?P<piece>.+)",
    TRANSFORMER: r"(?P<part>transformer)\.(?P<module>.+?)\.(?P<piece>lora_.+|lora\..+|alpha|diff)",
    MODEL: r"(?P<part>diffusion_model)\.(?P<module>.+?)\.(?P<piece>lora_.+|lora\..+|alpha|diff)",
    OLD: r"(?P<part>unet|text_encoder(?:_2)?)\.(?P<module>.+)\.processor\.(?P<to>to_(?:q|k|v|out))_lora\.(?P<piece>.+)",
    PEFT: r"(?P<part>unet|text_encoder(?:_2)?)\.(?P<module>.+?)\.(?P<piece>lora_.+|lora\..+|alpha)",
    BARE: r"(?P<part>(?:base_model\.model\.)?)(?P<module>.+?)\.(?P<piece>lora_[AB]\..+)",
}
READERS = {
    KOHYA: ("ComfyUI", "A1111", "Forge", "InvokeAI", "diffusers"),
    LYCORIS: ("ComfyUI", "Forge"),
    PEFT: ("diffusers",),
    TRANSFORMER: ("ComfyUI", "diffusers"),
    MODEL: ("ComfyUI",),
    ONETRAINER: ("ComfyUI",),
    OLD: ("ComfyUI", "Forge", "diffusers"),
    BARE: (),
    WORDS: (),
}
"""Which tools read a layout: tried with their own loaders on all projections of SD 1 and SDXL; of transformers, tried
with diffusers' and read in ComfyUI's (comfy/lora.py `model_lora_keys_unet`).
"""
WIDTHS = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
"""Width of what cross-attention reads -> family; InvokeAI and ComfyUI tell the base by it."""


@dataclass(frozen=True)
class Key:
    """A tensor's name, understood. `module`: as underscored; `piece`: a value of PIECES, or the part as it is named."""

    layout: str
    part: str
    module: str
    piece: str


def kohya(projection: str) -> str:
    """The name of a UNet's module in kohya's layout: `lora_unet_..._attn1_to_out_0`."""
    return UNET + projection.replace(".", "_")


def diffusers(projection: str) -> str:
    """The name of a transformer's module as diffusers and ComfyUI know it: `transformer.....attn.to_out.0`."""
    return f"{TRANSFORMER}{projection}"


def parse(name: str) -> Key | None:
    """A tensor's name in any layout of LoRA files; None where none knows it."""
    for layout, pattern in PATTERNS.items():
        if found := re.fullmatch(pattern, name):
            piece = re.sub(r"^(lora_[AB])\.\w+\.weight$", r"\1.weight", found["piece"])  # peft's name of an adapter
            piece = f"lora_{piece}" if layout == OLD else piece
            if layout != WORDS and piece not in PIECES and not OTHER_PIECES.match(piece):
                continue
            module = found["module"].replace(".", "_")
            if layout == OLD:
                module += "_" + {"to_out": "to_out_0"}.get(found["to"], found["to"])
            return Key(layout, found["part"], module, PIECES.get(piece, piece))
    return None


@dataclass(frozen=True)
class Module:
    """What a LoRA file says of one module: piece -> tensor."""

    layout: str
    part: str
    name: str
    pieces: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def rank(self) -> int | None:
        """Rows of the down factor; None where there is none."""
        return self.pieces["down"].shape[0] if "down" in self.pieces else None

    @property
    def alpha(self) -> float | None:
        """The alpha written beside the factors; without one the scale is 1."""
        return float(self.pieces["alpha"]) if "alpha" in self.pieces else None

    @property
    def scale(self) -> float:
        """What up times down is multiplied by: alpha / rank, 1 without an alpha."""
        return 1.0 if self.alpha is None or self.rank is None else self.alpha / self.rank

    def factors(self) -> tuple[Tensor, Tensor] | None:
        """Down (r, in) and up (out, r), float32, of a convolution (r, in k k); None where `diff` stands there whole.

        Raises ModelError where a module is given by anything else.
        """
        if set(self.pieces) == {"diff"}:
            return None
        if {"up", "down"} <= set(self.pieces) <= {"up", "down", "alpha"}:
            down, up = (self.pieces[k].float().flatten(1) for k in ("down", "up"))
            if up.dim() == 2 and len(down) == up.shape[1]:
                return down, up
            raise ModelError(f"module {self.name}: down of {tuple(down.shape)} and up of {tuple(up.shape)} do not fit")
        held = ", ".join(sorted(self.pieces))
        raise ModelError(f"module {self.name} is given by {held}; factors (up, down, alpha) or `diff` can be read")

    def change(self) -> Tensor:
        """The weight difference (out, in) at strength 1, float32. Raises ModelError as `factors`.

        (alpha / r) up @ down, as kohya networks/lora.py, A1111 network.py `calc_scale` and ComfyUI's lora.py have it;
        `diff` as it stands, as LyCORIS's full modules.
        """
        pair = self.factors()
        return self.pieces["diff"].float().flatten(1) if pair is None else self.scale * pair[1] @ pair[0]


def modules(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Module], list[str]]:
    """The modules of a LoRA file by part and underscored name, and the names of tensors that no layout knows."""
    pieces: dict[tuple[str, str, str], dict[str, Tensor]] = {}
    unknown = []
    for name, tensor in tensors.items():
        key = parse(name)
        if key is None or key.layout == WORDS:
            unknown.append(name)
        else:
            pieces.setdefault((key.layout, key.part, key.module), {})[key.piece] = tensor
    found = [Module(layout, part, module, own) for (layout, part, module), own in pieces.items()]
    return {f"{one.part}/{one.name}": one for one in found}, unknown


NETWORK = (
    "lora_unet", "unet", "lycoris", "transformer", "diffusion_model", "lora_transformer", "", "base_model.model.",
)  # fmt: skip
"""Parts of names that stand for the network, not for a text encoder."""


def of_network(found: Iterable[Module]) -> dict[str, Module]:
    """The modules of the network by their underscored names."""
    return {one.name: one for one in found if one.part in NETWORK}


def transformer(names: Iterable[str]) -> str:
    """The family of a transformer by its modules' underscored names; "" where these do not tell it."""
    listed = " ".join(names)
    marks = {
        "flux2": "to_qkv_mlp_proj|single_stream_modulation|double_stream_modulation",
        "flux": r"\bsingle_transformer_blocks_|\bsingle_blocks_|\bdouble_blocks_",
        "z-image": r"\b(layers|context_refiner|noise_refiner)_\d+_attention_",
        "pixart": r"\btransformer_blocks_\d+_attn1_",
        "sd3": r"\btransformer_blocks_\d+_attn2_|\bjoint_blocks_",
    }
    return next((family for family, mark in marks.items() if re.search(mark, listed)), "")


def width(found: Iterable[Module]) -> int | None:
    """Width of what cross-attention reads, from its keys' and values' factors; None where the file has none."""
    for one in found:
        if (
            one.name.endswith(("attn2_to_k", "attn2_to_v"))
            and (wide := one.pieces.get("down", one.pieces.get("diff"))) is not None
        ):
            return int(wide.shape[1])
    return None
