"""A few hundred spoilt inputs: each ends in a clear error, or in a clean result, and soon."""

import pytest

from tests.fuzz import Stock, try_case, without

CASES = 300


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    return Stock(tmp_path_factory.mktemp("stock"))


def test_spoilt_inputs_end_in_clear_errors(stock):
    findings = [told for number in range(CASES) if (told := try_case(0, number, stock))]
    assert not findings, "\n\n".join(findings)


def test_one_value_is_taken_away_or_exchanged():
    whole = {"a": [1, {"b": 2}], "c": 3}
    assert without(whole, ("a", 1, "b")) == {"a": [1, {}], "c": 3}
    assert without(whole, ("a", 0), None) == {"a": [None, {"b": 2}], "c": 3}
    assert whole == {"a": [1, {"b": 2}], "c": 3}
