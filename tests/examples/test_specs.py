"""The corpus of hostile specs is as it is made now, with Python's verdicts; tests of other languages read the same."""

import pytest

from .specs import ATTACKS, attacks, files_of_attacks, is_accepted


@pytest.mark.parametrize("name", ["changes.json", "texts.json"])
def test_the_corpus_is_current(name):
    assert (ATTACKS / name).read_text("ascii") == files_of_attacks()[name]


def test_python_accepts_and_refuses_as_the_corpus_says():
    cases = attacks()
    assert len(cases) > 800
    assert 50 < sum(accepted for _, accepted in cases) < len(cases) / 2
    assert [text for text, accepted in cases if is_accepted(text) != accepted] == []
