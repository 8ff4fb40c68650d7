"""One thing to learn: a subject, a style, or the classes of a task; where its pictures come from, what calls it."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from perdure.plan.fields import ClassName, Files, Name, Section
from perdure.wording import PLACEHOLDER, fill, hole, squeeze, without_lead

Kind = Literal["subject", "style", "classes"]
"""What a concept is: one thing, one look, or, where a classifier is taught, the new classes of a task."""


class Drawn(Section):
    """A concept of the toybox world, drawn when needed instead of read from files."""

    what: Kind = "subject"
    index: int = Field(ge=0)
    """Number of the subject or style in its split, from 0; of classes, which of their sets of pictures."""
    split: Literal["test", "dev"] = "test"
    """`dev` concepts are for choosing hyper-parameters, `test` concepts for reporting."""
    images: int = Field(5, ge=1, le=64)
    """How many to train on; of classes, of each."""
    references: int = Field(12, ge=0, le=256)
    """How many to score against; of classes, how many of each to test on."""


class Concept(Section):
    """One thing to learn: a name, a handful of images, and the prompt that will call it."""

    QUIET: ClassVar[tuple[str, ...]] = ("classes",)
    name: Name
    kind: Kind = "subject"
    images: Files | None = None
    """A folder or a list of files; never written to."""
    drawn: Drawn | None = None
    """Instead of `images`: a concept of the toybox world."""
    references: Files | None = None
    """Held-out images (folder or files) to score against; `refs/` inside the images' folder is found by itself."""
    hold_out: int = Field(0, ge=0)
    """Without a references folder: how many of the images (the last ones) are held out of training."""
    token: str = ""
    """The words that call the concept: a rare token for a subject, the style's name for a style."""
    noun: str = Field("", alias="class")
    """The class noun: backpack, dog, ..."""
    prompt: str = ""
    """Training prompt with `{token}` and `{class}`; captions beside images go first. Drawn styles keep `{class}`."""
    phrase: str = ""
    """`{concept}` in evaluation prompts: by default token + class, a style's token, or else what the prompt shows."""
    prompts: tuple[str, ...] = ()
    """Evaluation prompts of this concept alone, instead of `sampling.prompts`."""
    classes: tuple[ClassName, ...] = ()
    """Of kind classes: the new classes, each with a folder of its name in `images` and in `references`."""

    @model_validator(mode="after")
    def _complete(self) -> "Concept":
        if (self.images is None) == (self.drawn is None):
            raise ValueError("give either `images` (a folder or files) or `drawn` (a toybox concept)")
        if (self.kind == "classes") != bool(self.classes):
            raise ValueError(f"kind is {self.kind!r} and classes {list(self.classes)}; kind: classes names its classes")
        return self._with_classes() if self.classes else self._with_words()

    def _with_classes(self) -> "Concept":
        if len(set(map(str.lower, self.classes))) < len(self.classes):
            raise ValueError(f"classes {list(self.classes)}: give each class once")
        if isinstance(self.images, tuple) or isinstance(self.references, tuple):
            raise ValueError("images and references of classes are folders with a folder for each class, not files")
        object.__setattr__(self, "phrase", self.name)
        return self

    def _with_words(self) -> "Concept":
        if not (self.prompt or self.token or self.noun):
            raise ValueError("give a `prompt`, or a `token` and a `class`, so that the concept can be called")
        many = self.drawn is not None and self.drawn.what == "style"
        noun = "{class}" if many else self.noun
        styled = "{token} image of a {class}" if many else "{token} image of {class}" if noun else "{token} image"
        prompt = self.prompt or ("a photo of {token} {class}" if self.kind == "subject" and not many else styled)
        if empty := hole(prompt, token=self.token, noun=noun):
            raise ValueError(f"prompt {prompt!r}: there is nothing to fill in for {empty}; give a `{empty[1:-1]}`")
        prompt = squeeze(fill(prompt, token=self.token, noun=noun))
        plain = squeeze(prompt.replace("{class}", "")) if many else prompt
        if unknown := PLACEHOLDER.search(plain):
            raise ValueError(f"prompt: {unknown[0]} is not known; {{token}} and {{class}} are filled in")
        words = f"{self.token} {self.noun}" if self.kind == "subject" else self.token
        object.__setattr__(self, "prompt", prompt)
        object.__setattr__(self, "phrase", squeeze(self.phrase or (words if self.token else without_lead(plain))))
        return self
