"""How tools name the tensors of LoRA and embedding files: the one place that writes these names and reads them.

Sources, all read in the tools' own loaders and tried with them: kohya sd-scripts networks/lora.py; LyCORIS (`diff`,
LoHa, LoKr); diffusers loaders/lora_conversion_utils.py and peft; ComfyUI comfy/lora.py and comfy/weight_adapter; A1111
extensions-builtin/Lora; Forge sd_forge_lora; InvokeAI backend/patches and configs/lora.py.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce

import torch
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
    "lora_mid.weight": "mid", "dora_scale": "dora", "lora_magnitude_vector": "magnitudes",
    "lora_magnitude_vector.weight": "magnitudes",
}  # fmt: skip
"""How a module's parts end, and what they are."""
DORA = ("dora", "magnitudes")
"""Pieces that hold DoRA's magnitudes, as LyCORIS and kohya name them, and as peft does."""
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
Pair = tuple[Tensor, Tensor]
"""Down (r, in) and up (out, r)."""


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
    def form(self) -> str:
        """How the change is given: LoRA, LoHa, LoKr, full, or another; with DoRA where magnitudes stand beside."""
        marks = {"hada": "LoHa", "lokr": "LoKr", "diff": "full", "up": "LoRA", "down": "LoRA"}
        found = (own for mark, own in marks.items() if any(piece.startswith(mark) for piece in self.pieces))
        return next(found, "another form") + " with DoRA" * (self.magnitudes is not None)

    @property
    def rank(self) -> int | None:
        """Rows of the down factor, of LoHa and LoKr of one of them; None where there is none."""
        given = (self.pieces[k] for k in ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b") if k in self.pieces)
        return next((tensor.shape[0] for tensor in given), None)

    @property
    def magnitudes(self) -> Tensor | None:
        """DoRA's: (out, 1) or (1, in), more axes of a convolution behind; None without. peft's are always of rows."""
        own = self.pieces.get("magnitudes")
        return self.pieces.get("dora") if own is None else own.reshape(-1, 1)

    @property
    def width(self) -> int | None:
        """How many numbers enter the module; None where its pieces do not tell it."""
        pieces = self.pieces
        if (whole := next((pieces[k] for k in ("down", "diff", "hada_w1_b") if k in pieces), None)) is not None:
            return int(whole.shape[1])
        one, two = (pieces.get(f"lokr_w{n}", pieces.get(f"lokr_w{n}_b")) for n in (1, 2))
        return None if one is None or two is None else int(one.shape[1] * two.shape[1])

    @property
    def alpha(self) -> float | None:
        """The alpha written beside the factors; without one the scale is 1."""
        return float(self.pieces["alpha"]) if "alpha" in self.pieces else None

    @property
    def scale(self) -> float:
        """What the factors' product is multiplied by: alpha / rank, 1 without an alpha or a rank."""
        return 1.0 if self.alpha is None or self.rank is None else self.alpha / self.rank

    def factors(self) -> Pair | None:
        """Down (r, in) and up (out, r), float32, of a convolution (r, in k k); None where `diff` stands there whole.

        LoHa and LoKr are such products too, of more rows: the entries of two products multiplied are the product of all
        rows with all rows, and a Kronecker product of products is the product of the Kronecker products. Magnitudes of
        DoRA are left aside. Raises ModelError where a module is given by anything else, or does not fit together.
        """
        held = {piece: t.float() for piece, t in self.pieces.items() if piece not in ("alpha", *DORA)}
        try:
            if set(held) == {"diff"}:
                return None
            if {"up", "down"} <= set(held) <= {"up", "down", "mid"}:
                return _pair(held["up"].flatten(1), held["down"], held.get("mid"))
            if set(held) - {"hada_t1", "hada_t2"} == {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}:
                return reduce(_rows_with_rows, (_half(held, f"hada_w{n}", f"hada_t{n}") for n in (1, 2)))
            if held and all(re.fullmatch("lokr_(w[12](_[ab])?|t2)", piece) for piece in held):
                halves = [_half(held, f"lokr_w{n}", f"lokr_t{n}") for n in (1, 2)]
                down, up = (torch.einsum("ab,cd->acbd", *pair) for pair in zip(*halves, strict=True))
                return down.flatten(2).flatten(0, 1), up.flatten(2).flatten(0, 1)  # torch.kron wants other strides
        except (RuntimeError, LookupError):
            shapes = ", ".join(f"{piece} {tuple(t.shape)}" for piece, t in sorted(held.items()))
            raise ModelError(f"module {self.name}: {shapes} do not fit together") from None
        given = ", ".join(sorted(self.pieces))
        raise ModelError(f"module {self.name} is given by {given}; LoRA, LoHa, LoKr, DoRA and `diff` can be read")

    def change(self) -> Tensor:
        """The weight difference (out, in) at strength 1, float32. Raises ModelError as `factors`.

        (alpha / r) up @ down, as kohya networks/lora.py, A1111 network.py `calc_scale` and ComfyUI's lora.py have it;
        `diff` as it stands, as LyCORIS's full modules.
        """
        pair = self.factors()
        return self.pieces["diff"].float().flatten(1) if pair is None else self.scale * pair[1] @ pair[0]


def _pair(up: Tensor, down: Tensor, core: Tensor | None = None) -> Pair:
    """Down and up of a product, with the core (r, r, k, k) that LyCORIS puts between them in Tucker form."""
    down = down.flatten(1)
    if core is not None:
        down = torch.einsum("mnhw,ni->mihw", core, down).flatten(1)
    if up.dim() != 2 or up.shape[1] != len(down):
        raise LookupError("another rank")
    return down, up


def _half(held: Mapping[str, Tensor], name: str, core: str) -> Pair:
    """One of the two matrices of LoHa or LoKr as a product; where it stands there whole, beside an identity."""
    if (whole := held.get(name)) is not None:
        whole = whole.flatten(1)
        rows, columns = whole.shape
        return (whole, torch.eye(rows)) if rows <= columns else (torch.eye(columns), whole)
    a, b = held[f"{name}_a"], held[f"{name}_b"]
    return _pair(a.T if core in held else a.flatten(1), b, held.get(core))


def _rows_with_rows(one: Pair, other: Pair) -> Pair:
    """The product whose entries are those of two products multiplied (Hyeon-Woo et al. 2022, FedPara)."""
    down = torch.einsum("mi,ni->mni", one[0], other[0]).flatten(0, 1)
    return down, torch.einsum("om,on->omn", one[1], other[1]).flatten(1)


def rescaled(weight: Tensor, change: Tensor, magnitudes: Tensor) -> Tensor:
    """What DoRA changes of a weight (out, in) or (out, in, k, k), as (out, in k k) (Liu et al. 2024, equation 5).

    Each row of weight and change together, or each input channel where magnitudes are (1, in), gets its magnitude as
    its norm, as in peft and LyCORIS; ComfyUI divides rows by the base's norm. Raises ModelError where they do not fit.
    """
    moved = (weight.flatten(1) + change).view_as(weight)
    shape = tuple(magnitudes.shape)
    inputs = len(shape) > 1 and shape[:2] == (1, weight.shape[1]) and shape[0] != len(weight)
    if magnitudes.numel() != weight.shape[int(inputs)]:
        raise ModelError(f"DoRA's magnitudes are {shape}, the base's weight {tuple(weight.shape)}")
    around = [k for k in range(moved.dim()) if k != int(inputs)]
    norms: Tensor = torch.linalg.vector_norm(moved, dim=around, keepdim=True) + torch.finfo(moved.dtype).eps
    return (moved * (magnitudes.float().view_as(norms) / norms) - weight).flatten(1)


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
        if one.name.endswith(("attn2_to_k", "attn2_to_v")) and (wide := one.width) is not None:
            return wide
    return None
