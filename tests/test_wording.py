import pytest

from ddpm_export.errors import shown


class Rude:
    def __repr__(self):
        raise ZeroDivisionError


def nested(times, pair):
    value = ()
    for _ in range(times):
        value = pair(value)
    return value


DOUBLED, DEEP = nested(100, lambda value: (value, value)), nested(10**5, lambda value: [value])


@pytest.mark.parametrize("value", [3, "a\n" * 20, [1.5, None], {"a": 1, "b": (2,)}, {3}, b"x", 10**70, True])
def test_what_is_short_is_shown_as_python_writes_it(value):
    assert shown(value) == repr(value)


@pytest.mark.parametrize("value", ["x" * 10**6, list(range(10**6)), tuple([0] * 10**5), b"y" * 10**6])
def test_what_is_long_is_cut(value):
    assert shown(value) == repr(value)[:77] + "..."


@pytest.mark.parametrize("value", [DOUBLED, DEEP, 10**9000, Rude(), {(): DOUBLED}], ids=range(5))
def test_what_has_no_bearable_repr_is_shown_all_the_same(value):
    assert 0 < len(shown(value)) <= 80
