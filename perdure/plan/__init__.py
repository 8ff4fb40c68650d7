"""What shall be done: base, methods, concepts and settings, read from a file and checked whole."""

from perdure.plan.choice import CLASSIFICATION, FamilyChoice, MethodChoice
from perdure.plan.concept import Concept, Drawn
from perdure.plan.fields import EMBEDDED, TOYBOX, TOYBOX_VIT, TOYFLOW
from perdure.plan.performance import Performance
from perdure.plan.plan import (
    JOINT,
    Plan,
    build,
    concept,
    describe,
    fingerprint,
    load,
    plan_text,
    portable,
    ready,
    values,
)
from perdure.plan.sections import Prompts, Sampling, Scoring
from perdure.plan.training import Head, Prior, Times, Training

__all__ = [
    "CLASSIFICATION",
    "EMBEDDED",
    "JOINT",
    "TOYBOX",
    "TOYBOX_VIT",
    "TOYFLOW",
    "Concept",
    "Drawn",
    "FamilyChoice",
    "Head",
    "MethodChoice",
    "Performance",
    "Plan",
    "Prior",
    "Prompts",
    "Sampling",
    "Scoring",
    "Times",
    "Training",
    "build",
    "concept",
    "describe",
    "fingerprint",
    "load",
    "plan_text",
    "portable",
    "ready",
    "values",
]
