"""Whether a plan is the one that a lineage was made with, also when the lineage is of an older version."""

import json

import pytest

from perdure import plan, run
from perdure.errors import LineageError
from perdure.lineage import Lineage, agreement, taught
from perdure.plan import Concept, describe


def rewrite(lineage, change):
    path = lineage.folder / "lineage.json"
    facts = json.loads(path.read_text())
    change(facts["settings"])
    path.write_text(json.dumps(facts))
    return Lineage(lineage.folder)


@pytest.fixture
def made():
    concepts = [{"name": "dog", "images": "/photos/dog", "token": "zwz", "class": "dog"}]
    return plan.build({"name": "m", "base": "some/base", "method": "naive", "concepts": concepts})


@pytest.fixture
def lineage(made, tmp_path):
    return Lineage.create(tmp_path / "model", made, "identity", {})


def older(settings):
    """What a version wrote that did not know some keys yet."""
    del settings["training"]["min_snr"], settings["sampling"]["unseen"], settings["scoring"]["models"], settings["vae"]


def test_keys_that_a_lineage_lacks_are_at_their_defaults(lineage, made):
    lineage = rewrite(lineage, older)
    agreement.on_plan(lineage, made)
    for section, key, value in (("training", "min_snr", 5.0), ("sampling", "unseen", True)):
        changed = getattr(made, section).model_copy(update={key: value})
        with pytest.raises(LineageError, match=rf"{section}\.{key} is (None|False) there and {value} in the plan"):
            agreement.on_plan(lineage, made.model_copy(update={section: changed}))


def test_keys_that_only_the_lineage_knows_are_named(lineage, made):
    later = rewrite(lineage, lambda settings: settings["training"].update(warp=9))
    with pytest.raises(LineageError, match=r"lineage\.json: training\.warp: no such key.* by a later version"):
        agreement.on_plan(later, made)


def test_a_concept_is_known_by_what_was_recorded_of_it(made):
    (concept,) = made.concepts
    known = describe(concept)
    assert taught.alike({key: value for key, value in known.items() if key not in ("hold_out", "prompts")}, concept)
    assert not taught.alike({**known, "hold_out": 1}, concept) and not taught.alike({}, concept)
    drawn = Concept.model_validate({"name": "d", "token": "zwz", "drawn": {"index": 1}})
    assert taught.alike({**describe(drawn), "drawn": {"what": "subject", "index": 1}}, drawn)
    assert not taught.alike({**describe(drawn), "drawn": {"what": "subject", "index": 2}}, drawn)


def test_a_lineage_of_an_older_version_is_taught_on(plan_data, tmp_path):
    values = {**plan_data, "training": {**plan_data["training"], "steps": 1}, "concepts": plan_data["concepts"][:1]}
    (lineage,) = run.run(plan.build(values), tmp_path, device="cpu")

    def lacking(settings):
        del settings["training"]["preserve"], settings["sampling"]["negative_prompt"]

    rewrite(lineage, lacking)
    longer = plan.build({**values, "concepts": plan_data["concepts"][:2]})
    (again,) = run.run(longer, tmp_path, device="cpu")
    assert again.concepts == ["dog", "cat"] and again.plan().settings() == longer.settings()
    other = {"name": "other", "token": "uwu", "prompt": "a photo of uwu dog"}
    row = run.teach(again, longer.concepts[0].model_copy(update=other), device="cpu")
    assert row.number == 3
