"""Regions in Z-Image's one stream, in which a picture's cells come first and its text stands behind them.

As in joint attention (perdure/bases/joint.py): in every layer in which cells attend, the picture's own text and all
cells attend to one another as ever, then each region's text and its cells among themselves. A region's text has gone
through the layers that read text alone by itself, and it and its cells have the places that they have when that text is
the picture's only one. One region of everything, with no weight for the picture's own prompt, is thus drawn as its
prompt alone would be.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perdure.bases.regions import Asking, forwarded, hooked

PATCH = 2
"""Latents a side of a cell."""


@contextmanager
def regional(transformer: Any, asking: Asking, texts: Sequence[Tensor], count: int) -> Iterator[None]:
    """The transformer with regions in its first `count` rows; texts (own tokens, width) are those of the regions."""
    stream = _Stream(asking, texts, count)
    alone, together = transformer.noise_refiner, transformer.layers
    handles = [transformer.register_forward_pre_hook(stream.begin)]
    for layers, tails in ((alone, stream.padding), (together, stream.texts)):
        handles.append(layers[0].register_forward_pre_hook(stream.entering(tails)))
        handles.append(layers[-1].register_forward_hook(stream.leave))
    attentions = [layer.attention for layer in (*alone, *together)]
    with forwarded(attentions, stream.attending), hooked(handles):
        yield


@dataclass(frozen=True, eq=False)
class _Read:
    """A region's text (1, tokens, width) as the layers get it, and the rotations (all tokens, d) of its sequence.

    A sequence is cells, their padding, and text with its padding.
    """

    text: Tensor
    rotations: Tensor


class _Stream:
    """The sequences of a forward: the picture's, and behind it for each region what follows the cells in its own."""

    def __init__(self, asking: Asking, texts: Sequence[Tensor], count: int) -> None:
        self._asking, self._texts, self._count = asking, texts, count
        self._cells, self._read = 0, list[_Read]()
        self._tails = list[Tensor]()
        """What follows the cells in each region's, (rows, tokens, width)."""

    def begin(self, transformer: Any, args: tuple[Any, ...]) -> None:
        """A forward of the transformer begins: the regions' texts are read; a hook."""
        picture, text = args[0][0], args[2][0]
        self._asking.begin(transformer, (picture,), {})
        self._cells = picture[0].numel() // PATCH**2
        if self._asking.over:
            return
        self._read = []
        for number, words in enumerate(self._texts):
            with self._asking.regions.within(number):
                self._read.append(_read(transformer, picture, words.to(text)))

    def padding(self, sequence: Tensor) -> list[Tensor]:
        """The tails where there is no text yet: padding of the cells of a sequence (rows, tokens, width)."""
        return [sequence[:, self._cells :]] * len(self._read)

    def texts(self, sequence: Tensor) -> list[Tensor]:
        """The tails where there is: each region's padding as those layers left it, and its text."""
        rows = len(sequence)
        both = zip(self._tails, self._read, strict=True)
        return [torch.cat([tail, read.text.expand(rows, -1, -1)], dim=1) for tail, read in both]

    def entering(self, tails: Callable[[Tensor], list[Tensor]]) -> Callable[..., Any]:
        """A hook of the first of some layers: the tails stand behind the picture's sequence."""

        def enter(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if self._asking.over:
                return None
            self._tails = tails(args[0])
            return torch.cat([args[0], *self._tails], dim=1), *args[1:]

        return enter

    def leave(self, layer: nn.Module, args: tuple[Any, ...], said: Tensor) -> Tensor | None:
        """The picture's sequence alone; a hook of the last of them."""
        if self._asking.over:
            return None
        own, *self._tails = self._apart(said)
        return own

    def attending(self, own: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The forward of attention with regions, of its own."""

        def forward(hidden_states: Tensor, attention_mask: Tensor | None, freqs_cis: Tensor) -> Tensor:
            if self._asking.over:
                return own(hidden_states, attention_mask=attention_mask, freqs_cis=freqs_cis)
            picture, *tails = self._apart(hidden_states)
            said = own(picture, attention_mask=attention_mask, freqs_cis=freqs_cis)
            cells, outside = picture[: self._count, : self._cells], said[: self._count, : self._cells]
            inside, after = [], []
            for number, (tail, share) in enumerate(zip(tails, self._asking.shares(self._cells), strict=True)):
                chosen = share.nonzero().squeeze(1).to(cells.device)
                rotations = self._rotations(number, chosen, tail.shape[1])
                with self._asking.regions.within(number):
                    answer = own(torch.cat([cells[:, chosen], tail[: self._count]], dim=1), freqs_cis=rotations)
                inside.append(outside.index_copy(1, chosen, answer[:, : len(chosen)]))
                # rows that are guided away from have no regions: nothing is said there
                after.append(F.pad(answer[:, len(chosen) :], (0, 0, 0, 0, 0, len(said) - self._count)))
            blended = torch.cat([self._asking.blended(outside, inside), said[self._count :, : self._cells]])
            return torch.cat([blended, said[:, self._cells :], *after], dim=1)

        return forward

    def _rotations(self, number: int, chosen: Tensor, behind: int) -> Tensor:
        """Those of a region's cells and of as many tokens behind the cells, (rows, tokens, d)."""
        rotations = self._read[number].rotations
        own = torch.cat([rotations[chosen], rotations[self._cells : self._cells + behind]])
        return own.expand(self._count, -1, -1)

    def _apart(self, sequence: Tensor) -> tuple[Tensor, ...]:
        """The picture's own sequence, and each region's tail."""
        behind = [tail.shape[1] for tail in self._tails]
        return torch.split(sequence, [sequence.shape[1] - sum(behind), *behind], dim=1)


def _read(transformer: Any, picture: Tensor, words: Tensor) -> _Read:
    """What the transformer makes of words (own tokens, width) before its layers, for one picture (c, 1, h, w)."""
    _, texts, _, cells, places, _, padding = transformer.patchify_and_embed([picture], [words], PATCH, 1)
    text = transformer.cap_embedder(texts[0])
    text = torch.where(padding[0].unsqueeze(1), transformer.cap_pad_token, text).unsqueeze(0)
    rotations = transformer.rope_embedder(torch.cat([cells[0], places[0][: text.shape[1]]]))  # padding is counted twice
    for layer in transformer.context_refiner:
        text = layer(text, None, rotations[len(cells[0]) :].unsqueeze(0))
    return _Read(text, rotations)
