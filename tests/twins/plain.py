"""Lessons written once more from the papers, with torch, diffusers and transformers and nothing of perdure.

Weights are matrices in dictionaries: base + difference, put into the UNet for one call by `functional_call`. So what is
trained, a teacher, and a model under a Fisher are all the same sum, written out. Words are rows that a text encoder's
embedding table has grown by. A tape (`tape.py`) gives what is drawn at random, and the factors that a lesson began at.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from diffusers import DDPMScheduler, DiffusionPipeline
from torch import Tensor, nn
from torch.func import functional_call

Matrices = Mapping[str, Tensor]
"""Projection -> (out, in)."""
Penalty = Callable[[int, object, Tensor], Tensor]
"""(step, batch, prediction) -> what is added to the loss."""


@dataclass(frozen=True)
class Word:
    """Vectors (count, width) for each text encoder, and the noun that prompts lose behind the token."""

    vectors: Sequence[Tensor]
    swallowed: str = ""


class Plain:
    """A pipeline as diffusers reads it."""

    def __init__(self, folder) -> None:
        self.pipe = DiffusionPipeline.from_pretrained(folder)
        self.pipe.set_progress_bar_config(disable=True)
        self.unet = self.pipe.unet.requires_grad_(False).eval()
        self.noising = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
        ends = ("to_q", "to_k", "to_v", "to_out.0")
        self.base = {n: m.weight for n, m in self.unet.named_modules() if isinstance(m, nn.Linear) and n.endswith(ends)}
        parts = self.pipe.components
        names = [name for name in ("text_encoder", "text_encoder_2") if name in parts]
        self.encoders = [parts[name].requires_grad_(False).eval() for name in names]
        self.tokenizers = [parts[name.replace("text_encoder", "tokenizer")] for name in names]
        for tokenizer in self.tokenizers:
            tokenizer.add_tokens([f"<new{number}>" for number in range(16)])

    def encode(self, prompts: Sequence[str], words: Mapping[str, Word]) -> dict[str, Tensor]:
        """What the UNet is told of prompts, with learnt words at the end of the embedding tables."""
        count = 0
        written = list(prompts)
        for token, word in words.items():
            new = " ".join(f"<new{count + k}>" for k in range(len(word.vectors[0])))
            count += len(word.vectors[0])
            for old in ([f"{token} {word.swallowed}"] if word.swallowed else []) + [token]:
                written = [prompt.replace(old, new) for prompt in written]
        outputs = []
        for number, (tokenizer, encoder) in enumerate(zip(self.tokenizers, self.encoders, strict=True)):
            table = encoder.get_input_embeddings().weight
            grown = torch.cat([table, *(word.vectors[number] for word in words.values())])
            (name,) = (name for name, weight in encoder.named_parameters() if weight is table)
            ids = tokenizer(written, padding="max_length", truncation=True, return_tensors="pt").input_ids
            outputs.append(functional_call(encoder, {name: grown}, (ids,), {"output_hidden_states": True}))
        if len(outputs) == 1:
            return {"text": outputs[0].last_hidden_state}
        text = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        return {"text": text, "pooled": outputs[1].text_embeds}

    def predict(self, moved: Matrices, batch, captions=None, words: Mapping[str, Word] = {}) -> Tensor:
        """The UNet's output for a noised batch, with its projections moved."""
        noisy = self.noising.add_noise(batch.latents, batch.noise, batch.timesteps)
        told = self.encode(batch.captions if captions is None else captions, words)
        extra = {}
        if "pooled" in told:
            added = {"text_embeds": told["pooled"], "time_ids": batch.condition["time_ids"]}
            extra = {"added_cond_kwargs": added}
        weights = {f"{name}.weight": self.base[name] + change for name, change in moved.items()}
        return functional_call(
            self.unet, weights, (noisy, batch.timesteps), {"encoder_hidden_states": told["text"], **extra}
        ).sample

    def error(self, batch, predicted: Tensor, gamma: float | None = None) -> Tensor:
        """Squared error of each image, weighted as min-SNR has it."""
        alpha = self.noising.alphas_cumprod[batch.timesteps].view(-1, 1, 1, 1)
        velocity = self.noising.config.prediction_type == "v_prediction"
        target = alpha.sqrt() * batch.noise - (1 - alpha).sqrt() * batch.latents if velocity else batch.noise
        error = (predicted - target).pow(2).mean(dim=(1, 2, 3))
        if gamma is None:
            return error
        snr = (alpha / (1 - alpha)).flatten()
        return error * torch.minimum(snr, torch.full_like(snr, gamma)) / (snr + 1 if velocity else snr)

    def draw(self, moved: Matrices, prompts: Sequence[str] | None, latents: Tensor, **how):
        """Latents, or pictures, as the plain pipeline makes them; weights are copied in and put back."""
        kept = {name: self.base[name].clone() for name in moved}
        try:
            for name, change in moved.items():
                self.base[name].copy_(kept[name] + change)
            return self.pipe(prompt=prompts, latents=latents.clone(), **how).images
        finally:
            for name, weight in kept.items():
                self.base[name].copy_(weight)


@dataclass
class Done:
    """What a lesson went through: the loss, the penalty's part of it, and the gradients, of each step."""

    parameters: list[Tensor] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    penalties: list[float] = field(default_factory=list)
    gradients: list[list[Tensor]] = field(default_factory=list)


def train(model: Plain, tape, weights: Sequence[Tensor], moved: Callable[[int], Matrices], penalties=(), words=None):
    """The loop of diffusers' training scripts: noise, predict, AdamW, clipped gradients, a schedule.

    `moved(step)` is the whole difference from the base, with its graph.
    """
    how, words = tape.training, words or Words(tape)
    parameters = [*weights, *words.parameters]
    scale = (how.word_learning_rate or how.learning_rate) / how.learning_rate
    groups = [{"params": list(weights), "lr": 1.0}, {"params": words.parameters, "lr": scale}]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        betas=how.betas, eps=how.epsilon, weight_decay=how.weight_decay, foreach=False,
    )  # fmt: skip
    scales = [group["lr"] for group in optimizer.param_groups]
    done = Done()
    for step, batch in enumerate(tape.batches[""]):
        predicted = model.predict(moved(step), batch, words=words())
        loss = model.error(batch, predicted, how.min_snr).mean()
        if how.prior:
            beside = tape.batches["prior "][step]
            predicted_beside = model.predict(moved(step), beside)
            loss = loss + how.prior.weight * model.error(beside, predicted_beside, how.min_snr).mean()
        extra = sum((penalty(step, batch, predicted) for penalty in penalties), torch.zeros(()))
        gradients = torch.autograd.grad(loss + extra, parameters)
        done.losses.append((loss + extra).item())
        done.penalties.append(float(extra.detach()))
        done.gradients.append(list(gradients))
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient * (how.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        for group, own in zip(optimizer.param_groups, scales, strict=True):
            group["lr"] = rate(how, step) * own
        optimizer.step()
    done.parameters = [parameter.detach().clone() for parameter in parameters]
    return done


def rate(how, step: int) -> float:
    """Linear warm-up, then constant or half a cosine."""
    if step < how.warmup:
        return how.learning_rate * (step + 1) / how.warmup
    if how.schedule == "constant":
        return how.learning_rate
    return how.learning_rate * (1 + math.cos(math.pi * (step - how.warmup) / (how.steps - how.warmup))) / 2


class Words:
    """The lesson's word as it is learnt, beside those of earlier lessons: free vectors, or STAMINA's small network."""

    def __init__(self, tape, past: Mapping[str, Word] | None = None, swallowed: str = "", mlp: bool = False) -> None:
        self.past, self.token, self.swallowed, self.mlp = dict(past or {}), tape.token, swallowed, mlp
        self.parameters = leaves(tape.word)

    def __call__(self) -> dict[str, Word]:
        if not self.parameters:
            return self.past
        if not self.mlp:
            return {**self.past, self.token: Word(self.parameters, self.swallowed)}
        vectors = []
        for first, second, bias in zip(*[iter(self.parameters)] * 3, strict=True):
            hidden = (first @ torch.ones(first.shape[1])).clamp(min=0)
            vectors.append((second @ hidden + bias).view(-1, first.shape[0]))
        return {**self.past, self.token: Word(vectors, self.swallowed)}

    def learnt(self) -> dict[str, Word]:
        """All words after the lesson."""
        return {t: Word([v.detach().clone() for v in word.vectors], word.swallowed) for t, word in self().items()}


# --- arithmetic on dictionaries of matrices ---


def leaves(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies to be trained."""
    return [tensor.detach().clone().requires_grad_() for tensor in tensors]


def trained_pairs(factors: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
    """Copies of factors, to be trained."""
    return {name: tuple(leaves(pair)) for name, pair in factors.items()}


def products(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """B A of each."""
    return {name: b @ a for name, (a, b) in pairs.items()}


def plus(one: Matrices, two: Matrices) -> dict[str, Tensor]:
    """The sum, where a missing matrix is zero."""
    return {n: one.get(n, 0) + two.get(n, 0) for n in {**one, **two}}


def still(matrices: Matrices) -> dict[str, Tensor]:
    """As they are now, without their graph."""
    return {name: matrix.detach().clone() for name, matrix in matrices.items()}


def flat(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> list[Tensor]:
    """All factors in a row."""
    return [factor for pair in pairs.values() for factor in pair]


def larger(old: Tensor, new: Tensor) -> Tensor:
    """Of two entries the one of larger magnitude; of equal ones the new."""
    return old * (old.abs() > new.abs()) + new * (old.abs() <= new.abs())


# --- what more than one method adds to the loss ---


def distillation(
    model: Plain, tape, weight: float, before: Matrices, now: Callable[[int], Matrices], words, past, turns
):
    """weight * mean squared difference to the model before: own captions in even steps, past ones in odd (`both`)."""

    def penalty(step: int, batch, predicted: Tensor) -> Tensor:
        captions = None
        if past and (turns == "past" or (turns == "both" and step % 2)):
            picked = torch.randint(len(past), (len(batch.latents),), generator=tape.draw("distil", step))
            captions = [past[k] for k in picked]
            predicted = model.predict(now(step), batch, captions, words())
        with torch.no_grad():
            teacher = model.predict(before, batch, captions, words())
        return weight * (predicted - teacher).pow(2).mean()

    return penalty


def preserved(model: Plain, tapes, number: int, before: Matrices, now: Callable[[int], Matrices], words=None) -> list:
    """The penalties of `training.preserve` in a lesson (from 0): none in the first, none where the plan has none."""
    tape = tapes[number]
    how = tape.training.preserve
    if how is None or number == 0:
        return []
    return [
        distillation(model, tape, how.weight, before, now, words or Words(tape), spoken(tapes[:number]), how.prompts)
    ]


def spoken(tapes) -> list[str]:
    """The distinct captions of some lessons."""
    return [caption for tape in tapes for caption in dict.fromkeys(tape.captions)]
