"""Regions in joint attention: a region's text and its cells see one another, and nothing of other regions.

The texts of all regions go through the transformer behind the picture's own. In every layer the picture's own text and
all cells attend to one another as ever, then each region's text and its cells among themselves; the answers are blended
as in cross-attention. That is attention under a mask (Chen et al. 2024, Regional-Prompting-FLUX, arXiv 2411.02395),
reckoned part by part: none is computed to be thrown away, and each part may have weights of its own under it.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from perdure.bases.regions import Asking, Own, Regions, Words, forwarded, hooked

Ask = Callable[[Tensor, Tensor, Any], tuple[Tensor, Tensor]]
"""(text (b, l, d), cells (b, n, d), their places) -> both after attention."""
LAYERS = r"(single_)?transformer_blocks\.\d+\.attn"


def regional(
    words: Words, turns: Callable[[Any], int] = lambda pipe: 1
) -> Callable[[Any, Regions, int], AbstractContextManager[None]]:
    """A family's `regional`. words: how its transformer is told a region's; turns: how often a step asks it."""

    @contextmanager
    def regional(pipe: Any, regions: Regions, count: int) -> Iterator[None]:
        asking = Asking(regions, count, lambda: len(pipe.scheduler.timesteps), lambda: turns(pipe))
        transformer = pipe.transformer
        handles = [transformer.register_forward_pre_hook(asking.begin, with_kwargs=True)]
        if regions.how == "noise":
            handles.append(transformer.register_forward_hook(asking.network(words), with_kwargs=True))
            with hooked(handles):
                yield
            return
        joint = _Joint(asking)
        handles.append(transformer.register_forward_pre_hook(joint.told, with_kwargs=True))
        layers = [m for name, m in transformer.named_modules() if re.fullmatch(LAYERS, name)]
        with forwarded(layers, joint.attending), hooked(handles):
            yield

    return regional


def text(kwargs: Mapping[str, Any], own: Own) -> dict[str, Any]:
    """A region's words, of a transformer that is told the text alone."""
    return {**kwargs, "encoder_hidden_states": own(kwargs["encoder_hidden_states"], "text")}


def pooled(kwargs: Mapping[str, Any], own: Own) -> dict[str, Any]:
    """The same where it is told the pooled text too."""
    return {**text(kwargs, own), "pooled_projections": own(kwargs["pooled_projections"], "pooled")}


class _Joint:
    """The texts of a forward, and its layers. Pooled text is the picture's own everywhere."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        self._length = 0
        """Tokens of one text."""

    def told(
        self, transformer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """The regions' texts behind the picture's own, at the same places; a hook."""
        if self._asking.over:
            return None
        count, rows = len(self._asking.regions.masks), kwargs["encoder_hidden_states"]
        self._length = rows.shape[1]
        texts = [self._asking.worded(kwargs, k, text)["encoder_hidden_states"] for k in range(count)]
        worded = {**kwargs, "encoder_hidden_states": torch.cat([rows, *texts], dim=1)}
        if (places := kwargs.get("txt_ids")) is not None:
            worded["txt_ids"] = torch.cat([places] * (count + 1), dim=-2)
        return args, worded

    def attending(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """The forward of a layer with regions, of its own: text and cells apart, or in one sequence, text first."""

        def forward(
            hidden_states: Tensor,
            encoder_hidden_states: Tensor | None = None,
            image_rotary_emb: Any = None,
            **rest: Any,
        ) -> Any:
            placed = {} if image_rotary_emb is None else {"image_rotary_emb": image_rotary_emb}
            apart = {} if encoder_hidden_states is None else {"encoder_hidden_states": encoder_hidden_states}
            if self._asking.over:
                return own(hidden_states=hidden_states, **apart, **placed, **rest)
            if encoder_hidden_states is not None:

                def ask(text: Tensor, cells: Tensor, places: Any) -> tuple[Tensor, Tensor]:
                    cells, text = own(hidden_states=cells, encoder_hidden_states=text, **places, **rest)
                    return text, cells

                texts, cells = self._parts(ask, encoder_hidden_states, hidden_states, image_rotary_emb)
                return cells, texts

            def ask_one(text: Tensor, cells: Tensor, places: Any) -> tuple[Tensor, Tensor]:
                said = own(hidden_states=torch.cat([text, cells], dim=1), **places, **rest)
                return said[:, : text.shape[1]], said[:, text.shape[1] :]

            length = self._length * (len(self._asking.regions.masks) + 1)
            both = self._parts(ask_one, hidden_states[:, :length], hidden_states[:, length:], image_rotary_emb)
            return torch.cat(both, dim=1)

        return forward

    def _parts(self, ask: Ask, texts: Tensor, cells: Tensor, rotary: Any) -> tuple[Tensor, Tensor]:
        """What texts (b, all their tokens, d) and cells (b, n, d) are after attention, part by part."""
        first, *others = torch.split(texts, self._length, dim=1)
        everywhere = torch.arange(cells.shape[1], device=cells.device)

        def places(number: int, chosen: Tensor) -> dict[str, Any]:
            if rotary is None:
                return {}
            start, behind = self._length * number, texts.shape[1]
            rows = torch.cat([torch.arange(start, start + self._length, device=cells.device), behind + chosen])
            return {"image_rotary_emb": tuple(part[rows] for part in rotary)}

        said, outside = ask(first, cells, places(0, everywhere))
        after, inside = [said], []
        for number, share in enumerate(self._asking.shares(cells.shape[1])):
            chosen = share.nonzero().squeeze(1).to(cells.device)
            with self._asking.regions.within(number):
                said, own = ask(others[number], cells[:, chosen], places(number + 1, chosen))
            after.append(said)
            inside.append(outside.index_copy(1, chosen, own))
        return torch.cat(after, dim=1), self._asking.pictures(outside, inside)
