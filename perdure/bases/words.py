"""Learnt words: vectors that take the place of a token in every text encoder, without touching its embedding table.

A token of the prompt is written as placeholders that the tokenizer knows as single tokens; their embeddings are put
in by hooks while the text encoder runs. So the base stays as it is, and gradients reach the vectors.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from perdure.errors import ModelError
from perdure.memory import Memory
from perdure.method import Word, WordSpec
from perdure.wording import FIRST, PLACES, Speech


class Vocabulary:
    """The tokenizers and text encoders of a pipeline that can learn words, able to speak them."""

    def __init__(self, pipe: Any, learning: Sequence[str]) -> None:
        self._pipe, self._names = pipe, [name for name in learning if pipe.components.get(name) is not None]
        self.tokenizers = [pipe.components[name.replace("text_encoder", "tokenizer")] for name in self._names]
        self._sizes = [len(tokenizer) for tokenizer in self.tokenizers]
        for tokenizer in self.tokenizers:
            tokenizer.add_tokens([chr(FIRST + number) for number in range(PLACES)])

    def __len__(self) -> int:
        return len(self._names)

    @property
    def encoders(self) -> list[Any]:
        """The text encoders."""
        return [self._pipe.components[name] for name in self._names]

    @contextmanager
    def spoken(self, words: Mapping[str, Callable[[], Word]]) -> Iterator[Speech]:
        """Text encoders that know these words, each asked for its vectors whenever a prompt is encoded.

        Prompts must be written with `Speech.write`.
        """
        speech = Speech({token: (len(word().vectors[0]), word().dropped) for token, word in words.items()})
        if speech.used > PLACES:
            raise ModelError(f"{speech.used} learnt vectors at once; there is room for {PLACES}: recall fewer words")

        def table(number: int) -> Tensor:
            return torch.cat([word().vectors[number] for word in words.values()])

        with ExitStack() as hooks:
            if words:
                for number, (encoder, size) in enumerate(zip(self.encoders, self._sizes, strict=True)):
                    hooks.enter_context(_vectors_in(encoder, size, partial(table, number)))
            yield speech

    def begin(self, spec: WordSpec, token: str, noun: str, generator: torch.Generator) -> "LiveWord":
        """A trainable word for a token, begun as the spec says."""
        parts = []
        for tokenizer, encoder in zip(self.tokenizers, self.encoders, strict=True):
            table = encoder.get_input_embeddings().weight.detach().float()
            vectors = torch.cat([_begun(init, table, tokenizer, token, noun, generator) for init in spec.inits])
            parts.append(_Mlp(vectors, generator) if spec.mlp else _Free(vectors))
        return LiveWord(parts, noun if spec.drop_noun else "")


class LiveWord:
    """A word while it is learnt."""

    def __init__(self, parts: Sequence["_Free | _Mlp"], dropped: str) -> None:
        self._parts, self._dropped = parts, dropped

    def parameters(self) -> list[nn.Parameter]:
        """Everything trainable, in a fixed order."""
        return [parameter for part in self._parts for parameter in part.parameters()]

    def __call__(self) -> Word:
        """The word as it stands, with its graph."""
        return Word({number: part.vectors() for number, part in enumerate(self._parts)}, self._dropped)


class _Free(nn.Module):
    """Vectors trained as they are."""

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.own = nn.Parameter(vectors.clone())

    def vectors(self) -> Tensor:
        return self.own


class _Mlp(nn.Module):
    """Vectors as the output of a two-layer MLP of a fixed input of ones (STAMINA); begins at the given vectors."""

    def __init__(self, vectors: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        count, width = vectors.shape
        hidden = torch.randn(width, width, generator=generator).to(vectors) / width**0.5
        self.first = nn.Parameter(hidden)
        self.second = nn.Parameter(torch.zeros(count * width, width, device=vectors.device))
        self.bias = nn.Parameter(vectors.flatten().clone())
        self._shape = (count, width)

    def vectors(self) -> Tensor:
        hidden = torch.relu(self.first.sum(dim=1))  # the fixed input is all ones
        return (self.second @ hidden + self.bias).view(self._shape)


def _begun(init: str, table: Tensor, tokenizer: Any, token: str, noun: str, generator: torch.Generator) -> Tensor:
    """The first value (1, width) of one vector."""
    if init == "random":
        return torch.randn(1, table.shape[1], generator=generator).to(table) * table.std()
    ids = tokenizer(noun if init == "class" and noun else token, add_special_tokens=False).input_ids
    return table[ids].mean(dim=0, keepdim=True)


@contextmanager
def _vectors_in(encoder: Any, size: int, table: Callable[[], Tensor]) -> Iterator[None]:
    """Put rows of the table where the text encoder meets ids from `size` on."""
    seen: list[Tensor] = []

    def hide(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        ids = args[0] if args else kwargs["input_ids"]
        seen[:] = [ids]
        known = ids.masked_fill(ids >= size, 0)
        return ((known, *args[1:]), kwargs) if args else (args, {**kwargs, "input_ids": known})

    def show(module: nn.Module, args: tuple[Any, ...], embedded: Tensor) -> Tensor:
        (ids,) = seen
        vectors = table().to(embedded)
        rows = vectors[(ids - size).clamp(0, len(vectors) - 1)]
        return torch.where((ids >= size).unsqueeze(-1), rows, embedded)

    shared = encoder.get_input_embeddings().weight  # T5 looks up in a module of its own that shares it
    tables = [m for m in encoder.modules() if isinstance(m, nn.Embedding) and m.weight is shared]
    handles = [
        encoder.register_forward_pre_hook(hide, with_kwargs=True),
        *(module.register_forward_hook(show) for module in tables),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def words_of(memory: Memory) -> dict[str, Word]:
    """The learnt words that a memory carries, by token."""
    facts = memory.facts.get("words", {})
    return {t: Word({int(n): v for n, v in memory.under(f"words/{t}").items()}, facts[t]) for t in facts}


def with_word(memory: Memory, token: str, word: Word) -> Memory:
    """A memory that carries one more word, in float32; earlier words stay as they were."""
    vectors = {str(number): tensor for number, tensor in word.vectors.items()}
    known = memory.facts.get("words", {})
    return memory.with_tensors(f"words/{token}", vectors).with_facts(words={**known, token: word.dropped})
