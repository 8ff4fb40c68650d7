"""The head of a classifier: a row for each class, learnt in its own task beside the body, and kept as it was then.

What is remembered of a task: `heads/<task>/rows` (own, width + 1) float32, the last column a bias; without it for a
cosine head. Classes are in the order in which they were learnt.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from perdure.memory import Memory
from perdure.memory.delta import Delta
from perdure.method import Adapter, Consolidate, Context, Method, Wanted
from perdure.plan import Head

HEADS = "heads"
PLAIN = Head.model_validate({})
"""The head where a plan says nothing of it."""


def classes_of(memory: Memory) -> dict[str, list[str]]:
    """The classes that a memory knows, by task, in the order in which they were learnt."""
    return {task: list(classes) for task, classes in memory.facts.get("classes", {}).items()}


def rows_of(memory: Memory) -> Tensor | None:
    """The rows (C, d) of all classes known; None where none is."""
    stored = memory.under(HEADS)
    rows = [stored[f"{task}/rows"] for task in classes_of(memory) if f"{task}/rows" in stored]
    return torch.cat(rows) if rows else None


def with_classes(memory: Memory, tasks: Mapping[str, Sequence[str]], rows: Tensor | None) -> Memory:
    """A memory that knows the classes of one more lesson, and their rows (own, d) where any were learnt."""
    first = 0
    for task, classes in tasks.items():
        if rows is not None:
            memory = memory.with_tensors(f"{HEADS}/{task}", {"rows": rows[first : first + len(classes)]})
        memory = memory.with_facts(classes={**classes_of(memory), task: list(classes)})
        first += len(classes)
    return memory


def logits(features: Tensor, rows: Tensor, head: Head) -> Tensor:
    """Logits (b, C) of features (b, width) by rows (C, d)."""
    if head.kind == "cosine":
        likeness: Tensor = head.scale * nearest(features, rows)
        return likeness
    return features @ rows[:, :-1].T + rows[:, -1]


def classified(method: Method, memory: Memory, features: Tensor, head: Head) -> Tensor:
    """Logits (n, C) of all classes that a memory knows, by the method's own way or by the rows."""
    if method.consolidate.classify is not None:
        return method.consolidate.classify(memory, features)
    rows = rows_of(memory)
    assert rows is not None  # a method without rows has its own way
    return logits(features, rows, head)


def means(features: Tensor, labels: Sequence[str], classes: Sequence[str]) -> Tensor:
    """The mean feature (classes, width) of each class."""
    at = torch.tensor([classes.index(label) for label in labels])
    return torch.stack([features[at == number].mean(dim=0) for number in range(len(classes))])


def nearest(features: Tensor, centres: Tensor) -> Tensor:
    """Cosines (n, classes) of features with the classes' means: the nearest one has the largest."""
    likeness: Tensor = F.normalize(features, dim=1) @ F.normalize(centres, dim=1).T
    return likeness


def begun(head: Head, count: int, width: int, centres: Tensor | None, generator: torch.Generator) -> Tensor:
    """Rows (count, d) to begin with: at random as linear layers of torch, or at the classes' means (count, width).

    A linear head at its means is the classifier by Euclidean distance, w = s m and b = -s |m|^2 / 2, scaled by s so
    that its logits are as large as those of the cosine head.
    """
    columns = width if head.kind == "cosine" else width + 1
    if centres is None:
        drawn: Tensor = (2 * torch.rand(count, columns, generator=generator) - 1) / width**0.5
        return drawn
    if head.kind == "cosine":
        return F.normalize(centres, dim=1)
    squares = centres.square().sum(dim=1, keepdim=True)
    rows: Tensor = head.scale / squares.mean() * torch.cat([centres, -squares / 2], dim=1)
    return rows


# --- heads that are computed, not learnt -----------------------------------------------------------------------------


def _add_means(adapter: Adapter, memory: Memory, context: Context) -> Memory:
    features, labels = context.model.embedded()
    known = memory.under("means").get("all", features[:0])
    return memory.with_tensors("means", {"all": torch.cat([known, means(features, labels, _classes(labels))])})


def _nothing(memory: Memory, wanted: Wanted) -> Delta:
    return Delta()


def _by_means(memory: Memory, features: Tensor) -> Tensor:
    return nearest(features, memory.tensors["means/all"])


nearest_mean = Consolidate(_add_means, _nothing, carries=frozenset({"means"}), classify=_by_means)
"""The mean feature of each class; a picture is of the one whose cosine is largest."""


def ridge_of_random_features(count: int, ridge: float | None) -> Consolidate:
    """Ridge regression of relu(F W) onto classes from carried sums (RanPAC); `ridge` None: chosen in each lesson.

    Sums are float64: of float32 ones the least directions would be rounding, for which small ridges are no measure.
    """

    def remember(adapter: Adapter, memory: Memory, context: Context) -> Memory:
        features, labels = context.model.embedded()
        drawn = torch.randn(features.shape[1], count, generator=context.common(f"random features {count}"))
        wide, wanted = torch.relu(features @ drawn).double(), _one_hot(labels).double()
        known = memory.under("gram")
        products = known["G"] if known else wide.new_zeros(count, count)
        sums = known["C"] if known else wide.new_zeros(count, 0)
        products, sums = products + wide.T @ wide, torch.cat([sums, wide.T @ wanted], dim=1)
        least = ridge or chosen_ridge(wide, wanted, torch.randperm(len(wide), generator=context.generator("ridge")))
        carried = memory.with_tensors("gram", {"G": products, "C": sums}).with_facts(ridge=least)
        return carried.with_tensors("projection", {"W": drawn})

    def classify(memory: Memory, features: Tensor) -> Tensor:
        gram = memory.under("gram")
        wide = torch.relu(features @ memory.tensors["projection/W"]).double()
        return wide @ _solved(gram["G"], gram["C"], memory.facts["ridge"])

    return Consolidate(remember, _nothing, carries=frozenset({"gram", "projection"}), classify=classify)


RIDGES = tuple(10.0**power for power in range(-8, 9))
"""What a ridge is chosen from."""


def chosen_ridge(wide: Tensor, wanted: Tensor, order: Tensor) -> float:
    """The ridge with the least squared error on the last fifth of an order, learnt from the rest; 1 for too few."""
    cut = int(0.8 * len(order))
    fit, held = order[:cut], order[cut:]
    if not len(fit) or not len(held):
        return 1.0
    products, sums = wide[fit].T @ wide[fit], wide[fit].T @ wanted[fit]
    errors = [
        float((wide[held].double() @ _solved(products, sums, ridge) - wanted[held]).square().mean()) for ridge in RIDGES
    ]
    return RIDGES[errors.index(min(errors))]


def _solved(products: Tensor, sums: Tensor, ridge: float) -> Tensor:
    """(G + ridge I)^-1 C, (features, classes) float64; by least squares where that is singular in float64."""
    damped = products.double() + ridge * torch.eye(len(products), dtype=torch.float64)
    factor, failed = torch.linalg.cholesky_ex(damped)
    if failed:
        found: Tensor = torch.linalg.lstsq(damped, sums.double(), driver="gelsd").solution
        return found
    return torch.cholesky_solve(sums.double(), factor)


def _classes(labels: Sequence[str]) -> list[str]:
    """The classes in the order in which they first occur, which is that of the task."""
    return list(dict.fromkeys(labels))


def _one_hot(labels: Sequence[str]) -> Tensor:
    classes = _classes(labels)
    return F.one_hot(torch.tensor([classes.index(label) for label in labels]), len(classes)).float()
