"""What of a model leaves it, and in which kind of file: by the form of its memory, with the reason."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from perdure import memory as memories
from perdure import method as methods
from perdure.bases import outline
from perdure.bases.words import words_of
from perdure.errors import LineageError, PlanError
from perdure.export.weights import Cut, lowered
from perdure.lineage import Lineage
from perdure.lineage.rows import Row, taught_by
from perdure.memory import Memory
from perdure.memory.delta import Change, Delta
from perdure.method import Method, Wanted, Word
from perdure.plan import EMBEDDED, Concept
from perdure.wording import name_from, replaced, squeeze

ADAPTER, CHECKPOINT, FOLDER = "LoRA file", "checkpoint", "diffusers folder"
"""Kinds of exports."""
UIS = ("comfyui", "a1111", "forge", "invoke")
EXACT = 1e-5
"""A lesson's own change that is the difference of two dense ones is of low rank but for rounding: relative error."""


@dataclass(frozen=True)
class Wish:
    """What is asked for. `to`: comfyui, a1111, forge, invoke, diffusers, folder, checkpoint, hub, or "" for any."""

    to: str = ""
    after: int | None = None
    only: str | None = None
    rank: int | None = None
    error: float | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        if self.rank is not None and self.error is not None:
            raise PlanError("give --rank or --error, not both: the one follows from the other")
        if self.error is not None and not 0 < self.error < 1:
            raise PlanError(f"--error {self.error:g} is a share of the change, between 0 and 1: 0.05, say")


@dataclass(frozen=True)
class Content:
    """What leaves: the model after a lesson, or one concept's own change."""

    lesson: Row
    concepts: tuple[Concept, ...]
    delta: Delta
    words: Mapping[str, Word]
    names: Mapping[str, str]
    """Of each word's file, by token: it calls the word."""
    only: str | None = None

    def spoken(self, prompt: str) -> str:
        """A prompt as the files' words want it: each token by its file's name, without a noun that it swallows."""
        for token, word in self.words.items():
            prompt = replaced(prompt, token, self.names[token], word.dropped)
        return squeeze(prompt)

    @property
    def triggers(self) -> tuple[str, ...]:
        """What calls each concept in another tool's prompt."""
        return tuple(self.spoken(concept.phrase) for concept in self.concepts)


@dataclass(frozen=True)
class Choice:
    """A kind of file, the changes that it holds, and why."""

    kind: str
    reason: str
    delta: Delta
    cut: Cut | None = None

    @property
    def dense(self) -> int:
        """How many changes are dense."""
        return sum(change.dense is not None for change in self.delta.values())


def content(lineage: Lineage, after: int | None = None, only: str | None = None) -> Content:
    """What a lineage holds after a lesson (the last by default). Raises LineageError where no file can hold it."""
    rows = lineage.lessons
    number = len(rows) if after is None else after
    if not 0 < number <= len(rows):
        raise LineageError(f"{lineage.folder} has {len(rows)} lessons; there is no lesson {number} to export")
    taught = list(taught_by(rows[:number]))
    if only is not None and only not in taught:
        raise LineageError(
            f"{lineage.folder} knows no concept {only!r} after lesson {number}; it knows {', '.join(taught)}"
        )
    plan = lineage.plan()
    choice = plan.methods[0]
    method = methods.of(choice)
    remembered = memories.load(rows[number - 1].memory, lineage.store)
    words = words_of(remembered)
    concepts = tuple(concept for concept in plan.concepts if concept.name in taught)
    if only is None:
        _alone(method, choice.name, taught)
        delta = method.consolidate.recall(remembered, Wanted(concepts[-1].name if len(taught) == 1 else None))
    else:
        concepts = tuple(concept for concept in concepts if concept.name == only)
        words = {token: word for token, word in words.items() if squeeze(token) == squeeze(concepts[0].token)}
        delta = _own(lineage, rows[:number], method, choice.name, only, remembered)
    if not (delta or words):
        raise LineageError(f"{lineage.folder}: the model is the base after lesson {number}; there is nothing to export")
    return Content(rows[number - 1], concepts, delta, words, _names(words, plan.base), only)


def _alone(method: Method, name: str, taught: list[str]) -> None:
    """Refuse a recall that must be told more than a file can know."""
    one = f"export one concept with --only ({', '.join(taught)})"
    if method.consolidate.knows == "prompt":
        raise LineageError(f"method {name} mixes its adapters anew for each prompt, which no file can; {one}")
    if method.consolidate.knows == "concept" and len(taught) > 1:
        raise LineageError(
            f"method {name} keeps one adapter for each concept, and they are never in force together; {one}"
        )


def _own(lineage: Lineage, rows: list[Row], method: Method, name: str, only: str, now: Memory) -> Delta:
    """One concept's own change."""
    if method.consolidate.knows != "nothing":
        return method.consolidate.recall(now, Wanted(only))
    number = taught_by(rows)[only].number
    if len(rows[number - 1].concepts) > 1:
        raise LineageError(f"{only} was taught together with others, in one change; leave --only out")
    if not method.consolidate.adds and number > 1:
        raise LineageError(
            f"method {name} does not add lessons to one another, so that none can be taken out; leave --only out, or "
            f"export the model as it was after that lesson with --after {number}"
        )
    after = memories.load(rows[number - 1].memory, lineage.store).delta()
    before = memories.load(rows[number - 2].memory, lineage.store).delta() if number > 1 else Delta()
    return Delta({p: _difference(before.changes.get(p), change) for p, change in after.items()})


def _difference(before: Change | None, after: Change) -> Change:
    """After minus before; the pairs that came last where both are stacks, else the few directions that are left."""
    if before is None:
        return after
    old, new = before.pairs, after.pairs
    if before.dense is None and after.dense is None and len(new) > len(old):
        return Change(new[len(old) :])
    dense = Change.full(after.matrix() - before.matrix())
    low = lowered(Delta({"": dense}), error=EXACT)[0][""]
    return low if low.compact().dense is None else dense


def choose(content: Content, wish: Wish, base: str, network: str = "unet", loads: bool = True) -> Choice:
    """The best kind of file. Raises LineageError where the tool can read none, PlanError for options that clash.

    network: the part of the base that is taught, unet or transformer; loads: whether its pipeline reads LoRA files.
    """
    delta, to = content.delta, wish.to
    if base in EMBEDDED and to in (*UIS, "checkpoint"):
        raise LineageError(
            f"no other tool than diffusers draws with the embedded base, {to} neither; --to folder writes a whole "
            "diffusers pipeline, or teach a Stable Diffusion base (perdure init --base)"
        )
    if network != "unet" and to in (*UIS[1:], "checkpoint"):
        raise LineageError(
            f"--to {to} is for bases with a UNet, and {base} has a transformer; --to comfyui or diffusers writes a "
            "LoRA file, --to folder the whole pipeline"
        )
    if to == "checkpoint":
        return Choice(CHECKPOINT, "one file of the whole model in the original layout, which every tool reads", delta)
    if to == "folder":
        return Choice(FOLDER, "the whole pipeline, the changes folded into its weights", delta)
    if base in EMBEDDED:
        return Choice(FOLDER, "only diffusers draws with the embedded base, and nobody else has it: all of it", delta)
    if not loads and to in ("diffusers", "hub"):
        return Choice(FOLDER, "diffusers reads no LoRA file of this base: the whole pipeline", delta)
    if not delta:
        return Choice(ADAPTER, "no weight is moved, only words were learnt: they are embedding files", delta)
    if wish.rank is not None or wish.error is not None:
        low, cut = lowered(delta, wish.rank, wish.error)
        lost = f"{cut.whole:.2%} of the change is lost, {cut.worst:.2%} in the worst projection ({cut.where})"
        return Choice(ADAPTER, f"cut to rank {cut.rank} as asked: {lost}", low, cut)
    dense = Choice("", "", delta).dense
    if not dense:
        ranks = {change.rank or 0 for change in delta.values()}
        told = f"{min(ranks)} to {max(ranks)}" if len(ranks) > 1 else f"{max(ranks)}"
        return Choice(ADAPTER, f"every change is of low rank ({told}): one LoRA file holds it exactly", delta)
    told = f"{dense} of {len(delta)} changes are dense"
    if to in ("diffusers", "hub"):
        why = f"{told}, which diffusers reads in no LoRA file: the whole pipeline (or a LoRA, cut: --error 0.05)"
        return Choice(FOLDER, why, delta)
    return Choice(ADAPTER, f"{told}: they stand there whole (.diff), which diffusers alone does not read", delta)


def _names(tokens: Iterable[str], base: str) -> dict[str, str]:
    """What each word's file is called: as its token, as far as a file can be, and no tokenizer of the base has it.

    diffusers refuses words that are there already (`sbu` is one of CLIP's), and a prompt would go on meaning those.
    """
    names = {token: name_from(token, otherwise="word") for token in tokens}
    found = outline.of(base) if names else None
    there = {word for tokenizer in (found.tokenizers if found else ()) for word in tokenizer.get_vocab()}
    return {token: f"learnt-{name}" if name in there else name for token, name in names.items()}
