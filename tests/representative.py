"""Parametrise a test over many cases: `make test` runs one of each family, `make test-all` runs every case."""

from collections.abc import Callable, Hashable, Iterable
from typing import Any

import pytest


def representative(
    names: str | tuple[str, ...],
    cases: Iterable[Any],
    *,
    by: Callable[..., Hashable] | None = None,
    ids: Any = None,
) -> pytest.MarkDecorator:
    """Return `pytest.mark.parametrize(names, cases)` with all cases marked long but the first of each family.

    `by` gives a case's family from its values; without it all cases are one family. Stacked on one test, two of them
    run the first pair, and leave the rest of the product to `make test-all`.
    """
    is_one = isinstance(names, str) and "," not in names
    seen: set[Hashable] = set()
    marked = []
    for case in cases:
        values = case.values if hasattr(case, "values") and hasattr(case, "marks") else (case,) if is_one else case
        family = by(*values) if by else None
        marks = list(getattr(case, "marks", ())) + ([pytest.mark.long] if family in seen else [])
        marked.append(pytest.param(*values, marks=marks, id=getattr(case, "id", None)))
        seen.add(family)
    return pytest.mark.parametrize(names, marked, ids=ids)
