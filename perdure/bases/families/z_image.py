"""Z-Image: one stream of picture and text tokens, text by Qwen3."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from perdure.bases import flows, stream
from perdure.bases.family import Condition, Drawing, Family, called, hollow, hushed
from perdure.bases.regions import Asking, Regions, hooked
from perdure.method import Targets

LONGEST = 512
"""Tokens of a prompt at most."""
USUAL = 64
"""Tokens of a short prompt with the words that a chat has around it, rounded up as the transformer pads it."""
ALL = r"(to_q|to_k|to_v|to_out\.0)"
TARGETS: Mapping[Targets, str] = {
    "attention": rf"(layers|noise_refiner|context_refiner)\.\d+\.attention\.{ALL}",
    "cross": rf"layers\.\d+\.attention\.{ALL}",
    "cross_kv": r"layers\.\d+\.attention\.(to_k|to_v)",
}
"""No layer is the text's own but the two that read it alone: these are where picture and text meet."""


@hushed()
def encode(pipe: Any, prompts: list[str]) -> Condition:
    """text (n, 512, width of Qwen3), zeros behind each prompt's own tokens, of which `length` (n,) says the number."""
    texts, _ = pipe.encode_prompt(  # it writes into the list that it is given
        list(prompts), device=pipe.device, do_classifier_free_guidance=False, max_sequence_length=LONGEST
    )
    lengths = torch.tensor([len(text) for text in texts], device=texts[0].device)
    padded = [torch.nn.functional.pad(text, (0, 0, 0, LONGEST - len(text))) for text in texts]
    return {"text": torch.stack(padded), "length": lengths}


def unpadded(condition: Condition) -> list[Tensor]:
    """The text of each prompt (own tokens, width)."""
    return [text[:length] for text, length in zip(condition["text"], condition["length"].tolist(), strict=True)]


def predict(pipe: Any, latents: Tensor, times: Tensor, condition: Condition) -> Tensor:
    """The velocity; the transformer is told 1 - s and predicts the way from noise to latents."""
    pictures = list(latents.unsqueeze(2).unbind(0))
    predicted = pipe.transformer(pictures, 1 - times, unpadded(condition), return_dict=False)[0]
    return -torch.stack(list(predicted)).squeeze(2)


def draw(pipe: Any, prompts: Condition, negative: Condition, latents: Tensor, how: Drawing) -> Tensor:
    """Guided away from the negative prompt: the pipeline counts guidance from 0, where we count from 1."""
    inputs = {"prompt_embeds": unpadded(prompts), "negative_prompt_embeds": unpadded(negative)}
    return called(pipe, inputs, latents.float(), replace(how, guidance=max(how.guidance - 1, 0.0)))


@contextmanager
def regional(pipe: Any, regions: Regions, count: int) -> Iterator[None]:
    """Regions in the one stream or in the noise: rows of the prompt come first, each picture and text by itself."""
    asking = Asking(regions, count, lambda: len(pipe.scheduler.timesteps))
    if regions.how == "attention":
        with stream.regional(pipe.transformer, asking, unpadded(regions.prompts), count):
            yield
        return

    def begin(transformer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        asking.begin(transformer, (args[0][0],), kwargs)

    def ask(transformer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], said: tuple[list[Tensor]]) -> Any:
        if asking.over:
            return said
        answers = []
        for number, text in enumerate(unpadded(regions.prompts)):
            with regions.within(number):
                answer = transformer.forward(args[0][:count], args[1][:count], [text] * count, **kwargs)[0]
            answers.append(torch.stack(answer).squeeze(2))
        blended = regions.blended(torch.stack(said[0][:count]).squeeze(2), answers)
        return ([*blended.unsqueeze(2).unbind(0), *said[0][count:]],)

    transformer = pipe.transformer
    handles = [
        transformer.register_forward_pre_hook(begin, with_kwargs=True),
        transformer.register_forward_hook(ask, with_kwargs=True),
    ]
    with hooked(handles):
        yield


def like(pipe: Any) -> Condition:
    """A prompt of usual length."""
    return {"text": hollow(LONGEST, pipe.transformer.config.cap_feat_dim), "length": torch.tensor([USUAL])}


def caution(pipe: Any) -> str:
    """By its name, which alone tells it."""
    if "turbo" not in str(pipe.config.get("_name_or_path", "")).lower():
        return ""
    return " is distilled to few steps, which lessons can cost it; Z-Image is the one to teach"


FAMILY = Family(
    name="z-image",
    pipeline="ZImagePipeline",
    network="transformer",
    targets=TARGETS,
    objective=flows.objective(patch=2),
    encode=encode,
    predict=predict,
    draw=draw,
    units=flows.shifted(patch=2),
    regional=regional,
    unlike=flows.unlike(channels=1),
    caution=caution,
    like=like,
    in_rows=False,
)
