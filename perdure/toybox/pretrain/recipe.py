"""Every number of the recipe in one frozen value; nothing in it depends on the clock or on the machine."""

from dataclasses import dataclass, field

PROMPT_LENGTH = 24  # tokens, start and end included
LATENT_SIDE = 16  # a 64 px picture is 16 x 16 latents
PICTURE_SIDE = 64  # pixels


@dataclass(frozen=True)
class DataRecipe:
    """What is drawn: `count` unique training pictures in shards of `shard`, and held-out ones."""

    count: int = 131_072
    shard: int = 4096
    held_out: int = 2048
    photo_share: float = 0.45  # of plain "photo" pictures; the styles share the rest evenly


@dataclass(frozen=True)
class TrainRecipe:
    """One training run: sizes and schedule in optimiser steps; batch is per process."""

    steps: int
    batch: int
    rate: float  # peak learning rate of AdamW
    decay_steps: int  # length of the final decay
    muon_rate: float = 0.0  # peak learning rate of Muon; 0 = AdamW only
    warmup: int = 100
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 1e-4
    clip: float = 1.0
    average: float = 0.0  # decay of the exponential moving average of weights; 0 = none
    save_every: int = 500
    measure_every: int = 500


@dataclass(frozen=True)
class AutoencoderRecipe:
    """AutoencoderTiny, four times smaller each way."""

    channels: int = 32
    latent_channels: int = 12
    encoder_blocks: tuple[int, ...] = (0, 1, 3)
    decoder_blocks: tuple[int, ...] = (3, 2, 1)
    photos_per_batch: int = 3  # of `train.batch`
    textures_per_batch: int = 2
    latent_noise: float = 0.03
    train: TrainRecipe = TrainRecipe(
        steps=8000, batch=16, rate=1.5e-3, muon_rate=0.02, decay_steps=8000, warmup=30, measure_every=200
    )
    decoder_train: TrainRecipe = TrainRecipe(
        steps=2000, batch=16, rate=1e-3, muon_rate=0.01, decay_steps=2000, warmup=30, measure_every=200
    )


@dataclass(frozen=True)
class BaseRecipe:
    """UNet and text encoder, trained together from scratch."""

    channels: tuple[int, ...] = (48, 96, 160)
    attention: tuple[bool, ...] = (False, True, True)
    groups: int = 16
    heads: int = 4
    text_width: int = 128
    text_layers: int = 3
    text_heads: int = 4
    text_rate: float = 0.3  # of the UNet's learning rate
    caption_drop: float = 0.1
    snr_cap: float = 5.0
    train: TrainRecipe = TrainRecipe(
        steps=9000,
        batch=24,
        rate=1.2e-3,
        muon_rate=0.01,
        decay_steps=2500,
        warmup=100,
        average=0.998,
        save_every=250,
        measure_every=250,
    )


@dataclass(frozen=True)
class FlowRecipe:
    """A transformer of Stable Diffusion 3's form on a finished base's autoencoder and text encoder."""

    layers: int = 6
    heads: int = 3
    head_width: int = 64
    word_scale: float = 18.0  # deviation of the text encoder's last hidden states but one, which no norm has seen
    caption_drop: float = 0.1
    train: TrainRecipe = TrainRecipe(
        steps=30_000,
        batch=32,
        rate=1e-3,
        muon_rate=0.01,
        decay_steps=6000,
        warmup=200,
        average=0.999,
        save_every=20,
        measure_every=100,
    )


@dataclass(frozen=True)
class ScorerRecipe:
    """A small vision transformer on 64 px pictures and how it is trained; `batch` counts pictures."""

    train: TrainRecipe
    patch: int = 8
    width: int = 128
    layers: int = 5
    heads: int = 4
    embedding: int = 128
    text_layers: int = 2
    temperature: float = 0.1
    things: int = 8192  # individuals drawn for the instance encoder
    views: int = 4  # pictures of each


@dataclass(frozen=True)
class Recipe:
    """The whole recipe; `seed` owns every random draw."""

    name: str = "toybox"
    seed: int = 0
    processes: int = 2
    data: DataRecipe = field(default_factory=DataRecipe)
    autoencoder: AutoencoderRecipe = field(default_factory=AutoencoderRecipe)
    words: TrainRecipe = TrainRecipe(
        600, 64, rate=1.5e-3, muon_rate=0.02, decay_steps=600, warmup=30, save_every=200, measure_every=50
    )
    base: BaseRecipe = field(default_factory=BaseRecipe)
    flow: FlowRecipe = field(default_factory=FlowRecipe)
    clip: ScorerRecipe = field(default_factory=lambda: ScorerRecipe(_scorer_schedule(1700, 128)))
    instance: ScorerRecipe = field(default_factory=lambda: ScorerRecipe(_scorer_schedule(450, 192)))
    style: ScorerRecipe = field(default_factory=lambda: ScorerRecipe(_scorer_schedule(700, 192), layers=4))


def _scorer_schedule(steps: int, batch: int) -> TrainRecipe:
    return TrainRecipe(
        steps, batch, rate=1.5e-3, muon_rate=0.02, decay_steps=steps, warmup=40, save_every=100, measure_every=50
    )


def _pico_schedule(batch: int = 8, average: float = 0.0) -> TrainRecipe:
    return TrainRecipe(
        4, batch, rate=1e-3, muon_rate=0.02, decay_steps=2, warmup=2, average=average, save_every=2, measure_every=4
    )


#: The whole recipe in seconds, for tests: nothing learns anything.
PICO = Recipe(
    name="pico",
    processes=1,
    data=DataRecipe(count=64, shard=32, held_out=32),
    autoencoder=AutoencoderRecipe(
        channels=8,
        latent_channels=4,
        encoder_blocks=(0, 0, 1),
        decoder_blocks=(1, 0, 0),
        train=_pico_schedule(),
        decoder_train=_pico_schedule(),
    ),
    words=_pico_schedule(),
    base=BaseRecipe(
        channels=(32, 32, 32), groups=8, text_width=32, text_layers=1, train=_pico_schedule(4, average=0.9)
    ),
    flow=FlowRecipe(layers=2, heads=2, head_width=16, train=_pico_schedule(4, average=0.9)),
    clip=ScorerRecipe(_pico_schedule(), width=32, layers=1, embedding=32, text_layers=1),
    instance=ScorerRecipe(_pico_schedule(), width=32, layers=1, things=128, views=2),
    style=ScorerRecipe(_pico_schedule(48), width=32, layers=1, embedding=32),
)

#: Recipes by name; processes that train together are told the name.
RECIPES = {recipe.name: recipe for recipe in (Recipe(), PICO)}
