"""What is written: prompts and captions (placeholders, tokens, learnt words), and lists and sizes for people."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

PLACEHOLDER = re.compile(r"\{[A-Za-z_]+\}")
UNWRITABLE = re.compile("[\0\ud800-\udfff]")
"""What UTF-8 cannot hold, or ends a string in C."""
LEAD = re.compile(r"^(?:(?:an? )?(?:photo|photograph|picture|image) of )?(?:(?:an?|the) )?", re.IGNORECASE)
"""How prompts begin, before what they show."""
RESERVED = frozenset(["con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))])
"""Names, in lower case, that Windows keeps for devices, whatever ending follows them."""
PLACES = 256
"""Placeholders that are added to each tokenizer: the most vectors that one prompt's words can have together."""
FIRST = 0x10F000
"""Placeholders are characters of private use from here on: no prompt holds them, and no token is found in them."""


def fill(text: str, *, token: str, noun: str) -> str:
    """Replace `{token}`, `{class}`, and the trainers' trigger placeholders in a prompt or caption."""
    trigger = f"{token} {noun}".strip()
    for placeholder, value in (("{token}", token), ("{class}", noun), ("{trigger}", trigger), ("[trigger]", trigger)):
        text = text.replace(placeholder, value)
    return text


def called(token: str, behind: str = "") -> re.Pattern[str]:
    """A token as it is looked for in prompts and captions: as whole words, in either case, however they are spaced.

    `behind`: a pattern of what may follow it.
    """
    words = r"\s+".join(map(re.escape, token.split()))
    return re.compile(rf"(?<!\w){words}(?!\w){behind}", re.IGNORECASE)


def replaced(prompt: str, token: str, by: str, noun: str = "") -> str:
    """A prompt in which something else stands for a token, and for the noun behind it where one is given."""
    return _called_with(token, noun).sub(by, prompt)


def _called_with(token: str, noun: str) -> re.Pattern[str]:
    """A token, and the noun behind it where one is given and stands there."""
    return called(token, rf"(?:\s+{re.escape(noun)}\b)?" if noun else "")


def mentions(text: str, token: str) -> bool:
    """Whether a text holds a token that is not empty."""
    words = token.casefold().split()
    return bool(words and words[0] in text.casefold() and called(token).search(text))  # a pattern is dear


def without(text: str, token: str) -> str:
    """A prompt or caption from which a token is left out, wherever it stands as words of its own."""
    return squeeze(called(token).sub(" ", text)) if token.strip() else text


def dotted(values: Mapping[str, Any], under: str = "") -> str:
    """Settings as `--set` takes them: training.steps=100, training.prior.images=20."""
    told = []
    for key, value in values.items():
        name = f"{under}.{key}".lstrip(".")
        told.append(dotted(value, name) if isinstance(value, Mapping) else f"{name}={value}")
    return ", ".join(told)


def squeeze(text: str) -> str:
    """Single spaces, none at the ends."""
    return " ".join(text.split())


def name_from(text: str, otherwise: str = "plan") -> str:
    """A name made from that of a file or folder, 64 characters at most; `otherwise` where nothing of it can be kept."""
    name = re.sub("[^A-Za-z0-9_-]+", "-", text).strip("-_")[:64] or otherwise
    return f"{name}-1" if name.lower() in RESERVED else name


def check_name(name: str) -> str:
    """A name as it is. Raises ValueError where not every system can give it to a folder."""
    if name.partition(".")[0].lower() in RESERVED or name.endswith("."):
        raise ValueError(f"{name!r} cannot be the name of a folder on Windows; choose another")
    return name


def printable(text: str) -> str:
    """Text that a terminal only shows: what is not printable (escape sequences, say) is written as `\\x1b`."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def unwritable(text: str) -> str | None:
    """The first character of a text that cannot be written down, or None."""
    found = UNWRITABLE.search(text)
    return found and found[0]


def without_lead(prompt: str) -> str:
    """A prompt without its opening words and the article: what it shows, as it can follow another `a`."""
    return LEAD.sub("", prompt, count=1) or prompt


def hole(prompt: str, *, token: str, noun: str) -> str | None:
    """The placeholder of a prompt that would leave a hole, as in `{token} image of a {class}` without a class."""
    for empty, other in (("{class}", "{token}"), ("{token}", "{class}")):
        left = rf"\b(?:of|an?|the|in|on|with)\s+{re.escape(empty)}(?!\s+{re.escape(other)})"
        if not {"{class}": noun, "{token}": token}[empty] and re.search(left, prompt):
            return empty
    return None


class Speech:
    """How prompts are written with learnt words: a token as placeholders, one for each vector that stands for it."""

    def __init__(self, words: Mapping[str, tuple[int, str]]) -> None:
        """`words`: token -> how many vectors it has, and the class noun that it swallows behind it (or "")."""
        self._forms: list[tuple[str, re.Pattern[str], str]] = []
        self.used = 0
        """Placeholders of all words together."""
        for token, (count, noun) in words.items():
            places = " ".join(chr(FIRST + number) for number in range(self.used, self.used + count))
            self._forms.append((token, _called_with(token, noun), places))
            self.used += count

    def write(self, prompts: Sequence[str]) -> list[str]:
        """Prompts in which tokens are placeholders, and nouns that a word has swallowed are gone."""
        written = []
        for prompt in prompts:
            for _, pattern, places in self._forms:
                prompt = pattern.sub(places, prompt)
            written.append(prompt)
        return written

    def read(self, written: str) -> str:
        """A prompt, or a part of one, as it was before it was written; swallowed nouns are lost."""
        for token, _, places in self._forms:
            one = f"[{places.replace(' ', '')}]"
            written = token.join(re.split(rf"{one}(?: {one})*", written))
        return written


def size(value: float) -> str:
    """Bytes for people, decimal units."""
    if not math.isfinite(value):
        return "–"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(value) < 999.5 or unit == "TB":
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.95 else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError


def short_number(value: float) -> str:
    """Three significant places in as little room as possible: .713, −.042, 12.3."""
    if not math.isfinite(value):
        return "–"
    if abs(value) >= 10:
        return f"{value:.1f}"
    text = f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}"
    return text.replace("0.", ".", 1).replace("-", "−") if abs(value) < 1 else text.replace("-", "−")


def shortened(text: str, most: int = 18) -> str:
    """A label cut to `most` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def written(value: Any) -> str:
    """A setting's value as a person would write it."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def listed(names: Sequence[str]) -> str:
    """One or more names in a row: a, b and c."""
    *before, last = names
    return f"{', '.join(before)} and {last}" if before else last


def some(names: Iterable[str], most: int = 20) -> str:
    """The first names of a list that may be long, and how many more there are."""
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
