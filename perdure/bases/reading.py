"""What a base makes of a plan's words: tokens, captions and prompts as its text encoders read them. Needs no torch."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from perdure.bases import calibration, outline
from perdure.bases.outline import Outline
from perdure.errors import ImageError, ModelError, PlanError
from perdure.photos import pictures
from perdure.plan import EMBEDDED, Concept, Plan
from perdure.toybox import world
from perdure.wording import PLACES, Speech, mentions, some, squeeze, without

SHOWN = 3
"""Texts that a sentence quotes."""
Begun = tuple[Plan, Collection[str]]
"""A plan of one method, and the names of the concepts that have been taught already."""
Written = Callable[[Concept], tuple[str, ...]]
"""The distinct captions of a concept, none where its pictures cannot be used."""


@dataclass(frozen=True)
class Findings:
    """What speaks against a plan, and what should be known of it; a sentence each."""

    problems: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Finding:
    """One of them; several runs tell what is about the same thing once."""

    sentence: str
    wrong: bool = False
    about: str = ""


def check(runs: Iterable[Begun]) -> Findings:
    """Hold runs against their bases; of concepts that are taught already nothing is said.

    A base that is not on this machine is noted: how it reads is not known then. A classifier reads no words.
    """
    written, base = cache(_captions), cache(_outline)
    drawing = [run for run in runs if run[0].task is None]
    separate = {(plan.base, plan.transformer): plan for plan, _ in drawing if plan.transformer}
    wrong = {told: told for plan in separate.values() if (told := _unfit(plan))}
    notes: dict[str, str] = {}
    for plan, taught in drawing:
        for one in _check(plan, base(plan.base), taught, written):
            (wrong if one.wrong else notes).setdefault(one.about or one.sentence, one.sentence)
    return Findings(tuple(wrong.values()), tuple(told for about, told in notes.items() if about not in wrong))


def accept(runs: Iterable[Begun]) -> tuple[str, ...]:
    """`check` for what is to be run: the notes. Raises PlanError with what speaks against it."""
    found = check(runs)
    if found.problems:
        raise PlanError(list(found.problems))
    return found.notes


def too_long(plan: Plan, prompts: Sequence[str]) -> list[str]:
    """A sentence for each prompt of which a model of this plan, of one method, does not read all."""
    if plan.task is not None:
        raise ModelError(f"this model is a classifier (base {plan.base}): it draws nothing")
    base = outline.of(plan.base)
    told = [_lost(base, _speech(plan), f"prompt {prompt!r}", prompt) for prompt in prompts] if base else []
    return [lost[0] for lost in told if lost]


def ordinary(plan: Plan, concept: Concept) -> str | None:
    """Why a subject's call is one of the base's own words, where nothing in it is rare; None where something is.

    Ordinary is a word that the tokenizer reads whole, unless its id is among the last tenth of them: byte pair
    encodings number words as they were merged, the frequent ones first. Of a base that is not here nothing is known.
    """
    base, called = _outline(plan.base), concept.token or concept.phrase
    if concept.kind != "subject" or base is None or isinstance(base, str):
        return None
    rare = world.RARE_TOKENS if plan.base in EMBEDDED else ()
    if not all(base.common(word) and word not in rare for word in called.split()):
        return None
    return (
        f"concept {concept.name!r}: {called!r} is an ordinary word of base {plan.base}; the lesson takes its place, so "
        f"that whatever else it meant is drawn like the concept. A rare word in front of it ('zwz {called}') keeps both"
    )


def _captions(concept: Concept) -> tuple[str, ...]:
    try:
        return tuple(dict.fromkeys(pictures.contents(concept).captions))
    except (ImageError, PlanError):
        return ()


def _outline(base: str) -> Outline | str | None:
    """The outline of a base, or what is wrong with it."""
    try:
        return outline.of(base)
    except ModelError as error:
        return str(error)


def _unfit(plan: Plan) -> str:
    """What speaks against the file of a plan's transformer."""
    from perdure.bases import transformer  # needs torch, which no other plan has to wait for

    return transformer.unfit(plan)


def _check(plan: Plan, base: Outline | str | None, taught: Collection[str], written: Written) -> Iterator[_Finding]:
    fresh = [concept for concept in plan.sequence if concept.name not in taught]
    yield from _learnt(plan, fresh)
    yield from _uncalled(fresh, written)
    yield from _ordinary(plan, fresh, written)
    yield from _beyond(plan, fresh)
    if isinstance(base, str):
        yield _Finding(base, wrong=True)
    elif base is None:
        yield _Finding(f"base {plan.base} is not on this machine: how it reads tokens and captions is not checked")
    else:
        if not taught and plan.sampling.steps > base.timesteps:
            levels = f"sampling.steps is {plan.sampling.steps}, and base {plan.base} has {base.timesteps} noise levels"
            yield _Finding(f"{levels}; ask for no more steps than that", wrong=True)
        yield from _tokens(plan, fresh, base)
        yield from _lengths(plan, fresh, base, written)


# --- words that are learnt -------------------------------------------------------------------------------------------


def _speech(plan: Plan) -> Speech:
    """How prompts are written once all concepts of a plan are learnt."""
    choice = plan.methods[0]
    card = choice.card
    drops = card.drops(choice.options)
    return Speech({c.token: (card.words, c.noun if drops else "") for c in plan.sequence if c.token and card.words})


def _learnt(plan: Plan, fresh: Sequence[Concept]) -> Iterator[_Finding]:
    """Concepts without a token that a word could be learnt for, and more words than a prompt can hold."""
    name = plan.methods[0].name
    learns = f"method {name!r} learns a word for each concept's token"
    bare = [concept.name for concept in fresh if not concept.token]
    if bare and plan.methods[0].card.words:
        yield _Finding(f"{learns}; give a `token` to {', '.join(map(repr, bare))}", wrong=True)
    if (used := _speech(plan).used) > PLACES:
        yield _Finding(f"{learns}, {used} vectors in all; there is room for {PLACES}: teach fewer concepts", wrong=True)


def _uncalled(fresh: Sequence[Concept], written: Written) -> Iterator[_Finding]:
    """Concepts whose token stands in none of the texts that they are taught by."""
    for concept in fresh:
        texts = written(concept)
        if concept.token and texts and not any(mentions(text, concept.token) for text in texts):
            yield _Finding(
                f"concept {concept.name!r} is taught by {texts[0]!r}, which does not hold its token {concept.token!r}: "
                "pictures are asked for by a word that was never learnt; write {token} into its prompt",
                wrong=True,
            )


def _ordinary(plan: Plan, fresh: Sequence[Concept], written: Written) -> Iterator[_Finding]:
    """Tokens that stand, as words, in texts that are not about their concept; wrong where it is to be learnt."""
    common = [*_priors(plan, fresh), plan.sampling.negative_prompt or ""]
    common += calibration.captions(plan.base)[: plan.scoring.drift]
    news = {concept.name for concept in fresh}
    texts = {c.name: [*plan.prompts_for(c), *(written(c) if c.name in news else ())] for c in plan.sequence}
    learns = bool(plan.methods[0].card.words)
    for concept in (c for c in plan.sequence if c.token):
        new = concept.name in news
        others = (texts[name] for name in (texts if new else news) if name != concept.name)
        strays = [text for other in others for text in other if _strays(text, concept)]
        if new:
            strays = [*_own(plan, concept), *strays, *(text for text in common if mentions(text, concept.token))]
        if found := list(dict.fromkeys(strays)):
            yield _Finding(
                f"concept {concept.name!r}: its token {concept.token!r} is an ordinary word: it stands in texts that "
                f"do not call the concept, and means it there too: {some(map(repr, found), SHOWN)}; "
                + ("choose a rare token" if new else "it is taught already, so word them otherwise")
                + (f", or write {concept.phrase!r} where it is meant" if concept.phrase != concept.token else ""),
                wrong=learns and new,
                about=f"{concept.name} is called by a word",
            )


def _beyond(plan: Plan, fresh: Sequence[Concept]) -> Iterator[_Finding]:
    """Photos for the embedded base."""
    photographed = [concept for concept in fresh if concept.images is not None]
    if plan.base not in EMBEDDED or not photographed:
        return
    foreign = any(m not in plan.scoring.models for concept in photographed for m in plan.measures_for(concept))
    yield _Finding(
        f"base {plan.base} draws toys at {plan.training.resolution} pixels: of photos it takes on colours and shapes; "
        "for pictures of the things themselves give a base that knows photos"
        + "; its scorers were made for drawings of its own world, so that scores of photos prove nothing"
        * foreign
    )


def _strays(text: str, concept: Concept) -> bool:
    """Whether a text holds a concept's token other than in its phrase."""
    if not mentions(text, concept.token) or concept.phrase == concept.token:
        return mentions(text, concept.token)
    return mentions(without(text, concept.phrase), concept.token)


def _own(plan: Plan, concept: Concept) -> list[str]:
    """The concept's own evaluation prompts that hold its token beside the place where the concept is called."""
    templates = concept.prompts or getattr(plan.sampling.prompts, concept.kind)
    filled = zip(templates, plan.prompts_for(concept), strict=True)
    return [p for t, p in filled if "{concept}" in t and mentions(t.replace("{concept}", concept.noun), concept.token)]


def _priors(plan: Plan, concepts: Sequence[Concept]) -> list[str]:
    """The prompts of prior preservation."""
    return [prior.prompt.replace("{class}", concept.noun) for prior in plan.priors for concept in concepts]


# --- what the tokenizers read ----------------------------------------------------------------------------------------


def _tokens(plan: Plan, fresh: Sequence[Concept], base: Outline) -> Iterator[_Finding]:
    """Tokens (phrases, where there is none) of which nothing is read, that are read alike, or as several pieces."""
    new, seen = {concept.name for concept in fresh}, dict[tuple[tuple[int, ...], ...], Concept]()
    for concept in sorted(plan.sequence, key=lambda concept: concept.name in new):  # those that are taught first
        text = concept.token or concept.phrase
        known, ids = base.known(text), base.ids(text)
        other = seen.setdefault(known, concept)
        if concept.name not in new:
            continue
        told, listed = f"concept {concept.name!r}: its token {text!r}", " ".join(map(str, ids[0])) or "none"
        if not any(known):
            letters = "write it in letters that the base knows"
            yield _Finding(f"{told} is nothing to base {plan.base} (ids {listed}); {letters}", wrong=True)
        elif other is not concept:
            same = f"the same as {other.token or other.phrase!r} of concept {other.name!r}"
            yield _Finding(f"{told} is to base {plan.base} {same} (ids {listed}); choose another", wrong=True)
        elif known != ids:
            yield _Finding(f"{told} holds characters that base {plan.base} does not know (ids {listed})")
        elif concept.token and any(len(base.ids(word)[0]) > 1 for word in text.split()):
            yield _Finding(f"{told} is read in pieces, which other words share (ids {listed})")


def _lengths(plan: Plan, fresh: Sequence[Concept], base: Outline, written: Written) -> Iterator[_Finding]:
    """Captions and prompts of which the end is not read; wrong where the concept is called there only."""
    speech = _speech(plan)
    for concept in fresh:
        calls = concept.token or concept.phrase
        (call,) = speech.write([calls])
        kinds = dict.fromkeys(plan.prompts_for(concept), "prompt") | dict.fromkeys(written(concept), "caption")
        for text, kind in kinds.items():
            lost = _lost(base, speech, f"concept {concept.name!r}: {kind} {text!r}", text)
            if lost is None:
                continue
            wrong = mentions(text, calls) and not mentions(lost[1], call)
            more = f", and {calls!r} with it, which would not be learnt; shorten it, or begin with {calls!r}"
            yield _Finding(lost[0] + more * wrong, wrong, about=f"{concept.name} {text}")
    for text in filter(None, [*_priors(plan, fresh), plan.sampling.negative_prompt]):
        if lost := _lost(base, speech, f"prompt {text!r}", text):
            yield _Finding(lost[0], about=text)


def _lost(base: Outline, speech: Speech, what: str, text: str) -> tuple[str, str] | None:
    """What is to be said of a text of which the end is not read, and what is read of it, as it is written."""
    cut = base.cut(speech.write([text])[0])
    if cut is None:
        return None
    lost = squeeze(speech.read(cut.lost))
    told = f"{what} is {cut.length} ids long with both ends, and the base reads {cut.limit}: {lost!r} is cut off"
    return told, cut.kept
