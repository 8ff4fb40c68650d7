"""What the scorers' trainings share: contrastive losses, mild distortions of pictures, the area under the ROC curve."""

import torch
from torch import Tensor
from torch.nn import functional as F


def paired_loss(left: Tensor, right: Tensor, temperature: Tensor | float) -> Tensor:
    """InfoNCE both ways between unit rows (N, dim): row i of one belongs to row i of the other."""
    scores = left @ right.T / temperature
    target = torch.arange(len(left), device=left.device)
    return (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2


def grouped_loss(rows: Tensor, groups: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss (Khosla et al. 2020, equation 2) of unit rows (N, dim) with labels (N,)."""
    scores = rows @ rows.T / temperature
    own = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    logs = F.log_softmax(scores.masked_fill(own, -1e4), dim=1)
    same = (groups[:, None] == groups[None, :]) & ~own
    return -((logs * same).sum(1) / same.sum(1).clamp(min=1)).mean()


def distorted(pictures: Tensor, draws: torch.Generator, colour: float = 0.08, flip: bool = True) -> Tensor:
    """Pictures (N, 3, H, W) in [-1, 1], each mirrored, shifted, softened, tinted and grained a little.

    Generated pictures are softer and less even than drawn ones; the distortions keep the scorers from minding.
    """
    count, _, height, width = pictures.shape

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=draws)

    if flip:
        mirrored = (uniform(count) < 0.5).view(-1, 1, 1, 1)
        pictures = torch.where(mirrored, pictures.flip(3), pictures)
    padded = F.pad(pictures, (3, 3, 3, 3), mode="replicate")
    moves = torch.randint(0, 7, (count, 2), generator=draws).tolist()
    pictures = torch.stack([p[:, y : y + height, x : x + width] for p, (y, x) in zip(padded, moves, strict=True)])
    soft = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    pictures = torch.lerp(pictures, soft, uniform(count, 1, 1, 1) * (uniform(count, 1, 1, 1) < 0.6))
    gain = 1 + colour * (2 * uniform(count, 3, 1, 1) - 1)
    shift = colour * (2 * uniform(count, 1, 1, 1) - 1)
    grain = torch.randn(pictures.shape, generator=draws) * uniform(count, 1, 1, 1) * 0.06
    return (pictures * gain + shift + grain).clamp(-1, 1)


def auc(positive: Tensor, negative: Tensor) -> float:
    """Probability that a positive score exceeds a negative one, ties counted half."""
    ordered = negative.sort().values
    below = torch.searchsorted(ordered, positive.contiguous(), right=False)
    not_above = torch.searchsorted(ordered, positive.contiguous(), right=True)
    return float((below + not_above).double().mean() / 2 / len(ordered))


def same_against_other(rows: Tensor, groups: Tensor, apart: Tensor | None = None) -> float:
    """AUC of cosine: pairs of one group against pairs of different groups, optionally only those alike in `apart`."""
    scores = rows @ rows.T
    upper = torch.ones_like(scores, dtype=torch.bool).triu(1)
    same = groups[:, None] == groups[None, :]
    other = ~same if apart is None else ~same & (apart[:, None] == apart[None, :])
    return auc(scores[same & upper], scores[other & upper])
