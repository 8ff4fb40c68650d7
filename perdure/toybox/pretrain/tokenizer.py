"""A CLIPTokenizer over the toy world's words: every known word is one token, unknown words fall to letters."""

import json
import string
import tempfile
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor
from transformers import CLIPTokenizer

from perdure.toybox.pretrain.recipe import PROMPT_LENGTH

START, END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"


def merges_of(words: Iterable[str]) -> list[tuple[str, str]]:
    """Byte-pair merges under which each word becomes one symbol.

    Found by growing every word with the merges known so far and adding the pair that joins its first two pieces until
    one is left. Merges apply in order of age; a later merge may break an earlier word, so the list is grown until all
    words come out whole. `words` are lower-case letters only.
    """
    merges: dict[tuple[str, str], int] = {}
    ordered = sorted(set(words), key=lambda word: (len(word), word))
    while True:
        before = len(merges)
        for word in ordered:
            pieces = split(word, merges)
            while len(pieces) > 1:
                merges.setdefault((pieces[0], pieces[1]), len(merges))
                pieces = split(word, merges)
        if len(merges) == before:
            return list(merges)


def split(word: str, merges: dict[tuple[str, str], int]) -> list[str]:
    """Byte-pair encoding of one word: the oldest applicable merge first, as CLIP's tokenizer does."""
    pieces = [*word[:-1], word[-1] + _WORD_END]
    while len(pieces) > 1:
        pairs = list(zip(pieces, pieces[1:], strict=False))
        best = min(pairs, key=lambda pair: merges.get(pair, len(merges)))
        if best not in merges:
            return pieces
        at = pairs.index(best)
        pieces[at : at + 2] = [best[0] + best[1]]
    return pieces


def build_tokenizer(vocabulary: Iterable[str]) -> CLIPTokenizer:
    """The tokenizer of the embedded base; prompts are padded with the end token to PROMPT_LENGTH."""
    words = [word for word in vocabulary if word and set(word) <= set(string.ascii_lowercase)]
    merges = merges_of(words)
    marks = string.ascii_lowercase + string.digits + string.punctuation
    symbols = [*marks, *(mark + _WORD_END for mark in marks)]
    known = set(symbols)
    for left, right in merges:
        if left + right not in known:
            known.add(left + right)
            symbols.append(left + right)
    table = {symbol: index for index, symbol in enumerate([*symbols, START, END])}
    with tempfile.TemporaryDirectory() as folder:
        vocab, rules = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocab.write_text(json.dumps(table), encoding="utf-8")
        lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
        rules.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return _load(vocab, rules)


def _load(vocab: Path, rules: Path) -> CLIPTokenizer:
    table = json.loads(vocab.read_text(encoding="utf-8"))
    pairs = [tuple(line.split()) for line in rules.read_text(encoding="utf-8").splitlines()[1:]]
    return CLIPTokenizer(
        vocab=table,
        merges=pairs,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=PROMPT_LENGTH,
    )


def encode(tokenizer: CLIPTokenizer, prompts: list[str]) -> Tensor:
    """Token ids (len(prompts), PROMPT_LENGTH), int64."""
    batch = tokenizer(prompts, padding="max_length", max_length=PROMPT_LENGTH, truncation=True, return_tensors="pt")
    ids: Tensor = batch.input_ids
    return ids
