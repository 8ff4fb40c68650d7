"""What shall be done: base, methods, concepts and settings, read from a file and checked whole."""

from perdure.plan.choice import FamilyChoice, MethodChoice
from perdure.plan.fields import TOYBOX
from perdure.plan.performance import Performance
from perdure.plan.plan import JOINT, Plan, build, concept, describe, fingerprint, load, plan_text, portable, ready
from perdure.plan.sections import Concept, Drawn, Prompts, Sampling, Scoring
from perdure.plan.training import Prior, Times, Training

__all__ = [
    "JOINT",
    "TOYBOX",
    "Concept",
    "Drawn",
    "FamilyChoice",
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
]
