"""What `make test` rests on: a case of each family is kept; what tests share is made again when its source changes."""

from representative import representative


def cases_of(mark):
    return [(case.values, [mark.name for mark in case.marks]) for case in mark.args[1]]


def test_of_each_family_the_first_case_is_kept():
    assert cases_of(representative("name", ["a", "b"])) == [(("a",), []), (("b",), ["long"])]
    parities = representative("n, m", [(1, 0), (2, 0), (3, 0)], by=lambda n, m: n % 2 + m)
    assert cases_of(parities) == [((1, 0), []), ((2, 0), []), ((3, 0), ["long"])]


def test_what_is_made_once_is_made_again_when_a_source_changes(made_once, tmp_path):
    made = []

    def make(folder):
        made.append(folder)
        (folder / "file").write_text(source.read_text())

    source = tmp_path / "source"
    for text, count in (("a", 1), ("a", 1), ("b", 2)):
        source.write_text(text)
        assert (made_once("self-test", make, tmp_path) / "file").read_text() == text
        assert len(made) == count
