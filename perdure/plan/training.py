"""How one lesson is trained: the sections of a plan below `training`."""

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from perdure.plan.fields import Beta, Section

Times = Literal["default", "uniform", "sigmoid_normal"]
Optimizer = Literal["adamw", "adamw_8bit", "prodigy", "schedule_free"]
BasePrecision = Literal["int8", "fp8", "nf4"]
LEAST = 0.1
"""Multiple of the rate that prodigy finds, below which somebody means a rate."""


class Prior(Section):
    """Prior preservation (DreamBooth): images of the class drawn by the base and trained beside the concept's."""

    images: int = Field(50, ge=1, le=1_000_000)
    weight: float = Field(1.0, ge=0)
    prompt: str = "a photo of {class}"


class Preserve(Section):
    """Preservation by distillation, on top of whatever the method does: keep predicting what was predicted before."""

    weight: float = Field(1.0, ge=0)
    prompts: Literal["both", "current", "past"] = "both"
    """Under the lesson's own captions, past concepts' captions, or both in turn."""


class Previews(Section):
    """Pictures of the concept being learnt, drawn now and then while it is, into `previews/` of its lesson."""

    every: int = Field(100, ge=1)
    """Steps from one to the next."""
    prompts: tuple[str, ...] = ()
    """`{concept}` is the concept's phrase; by default its first evaluation prompt."""
    images: int = Field(1, ge=1)
    """Of each prompt."""


class TrainingPrompts(Section):
    """Training prompts of the concepts of a kind that have none of their own; `{token}` and `{class}` are filled in."""

    subject: str | None = None
    style: str | None = None

    @field_validator("subject", "style")
    @classmethod
    def _calls_concept(cls, prompt: str | None) -> str | None:
        if prompt is not None and "{token}" not in prompt:
            raise ValueError(f"prompt {prompt!r} does not contain {{token}}")
        return prompt


class Head(Section):
    """How a classifier's rows for the new classes are learnt beside the weights, and what its loss looks at."""

    kind: Literal["linear", "cosine"] = "linear"
    """`linear`: a weight and a bias for each class; `cosine`: of features and rows, times `scale`."""
    begin: Literal["random", "means"] = "random"
    """Where rows begin: at random, or at the classes' mean features as the lesson finds them."""
    scale: float = Field(16.0, gt=0)
    logits: Literal["own", "all"] = "own"
    """Among which classes the loss compares: those of the task, or all that are known."""
    pixels: Literal["base", "unit"] = "base"
    """What goes in: pictures normalised as the base's own file says, or in [0, 1] as the published code has them."""


class Training(Section):
    """How one lesson is trained."""

    QUIET: ClassVar[tuple[str, ...]] = ("epochs", "head", "buckets")
    prompts: TrainingPrompts | None = None
    """Training prompts for all concepts of a kind."""
    resolution: int = Field(512, ge=16, le=16384, multiple_of=8)
    """Side of the square training images in pixels."""
    steps: int = Field(850, ge=1)
    epochs: int | None = Field(None, ge=1)
    """Instead of `steps`: how many times a classifier's lesson sees each picture of its task."""
    head: Head | None = None
    """The head of a classifier."""
    batch_size: int = Field(1, ge=1)
    accumulate: int = Field(1, ge=1)
    """Batches of a step, whose gradients are averaged: the memory of one, and the noise of many."""
    learning_rate: float = Field(1e-5, gt=0)
    word_learning_rate: float | None = Field(None, gt=0)
    """Rate of learnt words, and of a classifier's head; that of the weights by default."""
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = Field(0, ge=0)
    """Steps of linear warm-up."""
    weight_decay: float = Field(1e-4, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    epsilon: float = Field(1e-8, gt=0)
    max_grad_norm: float = Field(1.0, gt=0)
    min_snr: float | None = Field(None, gt=0)
    """Gamma of min-SNR weighting (Hang et al. 2023); 5 is usual, none by default."""
    times: Times = "default"
    """Noise levels that a step draws. By default as bases are trained: UNets at all alike; flow matching at the sigmoid
    of a normal number, moved towards noise by the scheduler's shift, which `sigmoid_normal` and `uniform` leave out.
    """
    optimizer: Optimizer = "adamw"
    """`adamw_8bit`: moments in 8 bits (Dettmers et al. 2022), by bitsandbytes. `prodigy` finds the rate, of which
    `learning_rate` is a multiple (Mishchenko & Defazio 2024), by prodigyopt; `schedule_free` keeps an average instead
    of a falling rate (Defazio et al. 2024), by schedulefree.
    """
    resize: Literal["lanczos", "bilinear"] = "lanczos"
    """Filter that makes training images smaller; lanczos keeps more detail, bilinear is the published protocols'."""
    posterior: Literal["once", "each_step"] = "once"
    """When a latent is drawn from what the autoencoder says of an image: when it is encoded, or anew at each step."""
    crop: Literal["center", "random", "resized"] = "center"
    """How the first view of an image is cut to a square; of classes also `resized`: a part of random place, size and
    shape, anew at each step (Szegedy et al. 2015), and tests on the middle of the picture.
    """
    buckets: int | None = Field(None, ge=8, multiple_of=8)
    """Pictures keep their shape: each is cut to the nearest of some sizes of about `resolution` x `resolution` pixels,
    whose sides are multiples of this; 64 is usual. A batch is of one size. By default all are cut to squares.
    """
    views: int = Field(1, ge=1, le=100_000)
    """Encoded views of each image; those after the first are random crops."""
    flip: bool = False
    """Also encode the mirror image of each view."""
    prior: Prior | None = None
    preserve: Preserve | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    base_precision: BasePrecision | None = None
    """Few bits for the linear layers of the frozen base, by torchao; nf4, four bits (Dettmers et al. 2023), by
    bitsandbytes. What is learnt lies beside them in `precision`; pictures are drawn with such a base too.
    """
    text_encoders: Literal["keep", "drop"] = "keep"
    """`drop`: each list of prompts is read once, and the encoders are given up while the network is trained or draws;
    not while words are learnt.
    """
    gradient_checkpointing: bool = False
    seed_per_lesson: bool = True
    """False: every lesson draws the same numbers, as the reference code does by resetting its seed."""
    checkpoint_every: int = Field(0, ge=0)
    """Save the unfinished lesson every so many steps, so that a killed run goes on inside the lesson; 0: do not."""
    preview: Previews | None = None

    @property
    def unfit(self) -> list[str]:
        """Settings that do not go together, a sentence each."""
        problems = []
        if self.buckets is not None and self.resolution % self.buckets:
            told = f"training.buckets: {self.buckets} does not divide training.resolution, {self.resolution}"
            problems.append(f"{told}; the square is one of the sizes")
        if self.optimizer == "prodigy" and self.learning_rate < LEAST:
            told = (
                f"training.learning_rate is {self.learning_rate:g}, and prodigy multiplies the rate that it finds by it"
            )
            problems.append(f"{told}; give 1")
        if self.optimizer == "prodigy" and self.word_learning_rate not in (None, self.learning_rate):
            problems.append("training.word_learning_rate: prodigy finds one rate for all; leave it null")
        if self.optimizer == "schedule_free" and self.schedule != "constant":
            problems.append("training.schedule: schedule_free averages instead of lowering the rate; take constant")
        return problems
