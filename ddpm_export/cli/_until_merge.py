"""What the commands call of the library, on the functions of today; goes away with them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpm_export.model.choice import Choice
from ddpm_export.model.spec import ModelSpec
from ddpm_export.sampling import edit as editing
from ddpm_export.sampling import generate as generating
from ddpm_export.sets import job as jobs


@dataclass(frozen=True, eq=False)
class Request(generating.Settings):
    """Everything that determines the pictures, apart from the model."""

    edit: editing.Edit | None = None

    @property
    def steps(self) -> Choice:
        """Return the rows and what they are of."""
        return self.choice

    def describe(self) -> dict[str, Any]:
        """Return what an image follows from."""
        return {**super().describe(), **(self.edit.text if self.edit else {})}


def request_for(
    spec: ModelSpec,
    *,
    n: int | None = None,
    images: Any = None,
    mask: Any = None,
    measure: str | None = None,
    strength: float | None = None,
    returns: int = 0,
    jump: int = 1,
    between: bool = False,
    seeds: Sequence[int] | None = None,
    x_T: Any = None,
    **asked: Any,
) -> Request:
    """Return a request; raises UsageError for what no image can be made from."""
    given = {"mask": mask, "measure": measure, "strength": strength, "seeds": seeds, "x_T": x_T}
    if images is None and not any(value is not None for value in given.values()) and not between and not returns:
        return Request(**vars(generating.settings_for(spec, n=16 if n is None else n, **asked)))
    edit = editing.edit_for(spec, images, **given, returns=returns, jump=jump, between=between, n=n, **asked)
    return Request(**vars(edit.settings), edit=edit)


def pictures(opened: Any, request: Request, wants: Callable[[int], bool]) -> Iterator[tuple[range, Any, Any]]:
    """Yield (image numbers, row, pictures after it or None)."""
    edit = request.edit
    return generating.pictures(opened, request, wants, edit and edit.walks, edit and edit.given)


invert = editing.invert


def begin(model: Path, spec: ModelSpec, out: Path, asked: Mapping[str, Any], **how: Any) -> jobs.Job:
    """Return the job of a set in a folder."""
    return jobs.begin(model, spec, out, **{**asked, "n": 16 if asked["n"] is None else asked["n"]}, **how)
