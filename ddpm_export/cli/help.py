"""How typer sees a command: its options in titled groups with an example below each, records of options spread out."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, get_type_hints

import typer
import typer.core

WHAT, HOW, WHERE, SAFETY, HELP, OPTIONS = "What", "How", "Where", "Safety", "Help", "Options"
GROUPS = (WHAT, HOW, OPTIONS, WHERE, SAFETY, HELP)
EVERYWHERE = ("help", "install_completion", "show_completion")  # options that typer adds

LIKE_LIMITS = re.compile(r"\d+(\.\d+)?[A-Za-z]*(,.*)?")  # also wrong ones, which are then refused as such

Examples = Mapping[str, str]  # by the title of a group, a command line that uses it


class Command(typer.core.TyperCommand):
    """A command whose help shows its options in groups, each followed by an example."""

    examples: ClassVar[Examples] = {}

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the groups, and below each its example."""
        groups: dict[str, list[tuple[str, str]]] = {title: [] for title in GROUPS}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                groups[_title_of(parameter)].append(record)
        for title, records in groups.items():
            if not records:
                continue
            with formatter.section(title):
                formatter.write_dl(records)
            if title in self.examples:
                formatter.write(f"\n  $ {self.examples[title]}\n")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; --untrusted alone has the usual limits."""
        return super().parse_args(ctx, with_limits(args))


def with_limits(args: Sequence[str]) -> list[str]:
    """Return arguments in which --untrusted has a value: what follows it where that is limits, else the usual ones."""
    given = list(args)
    for k, word in enumerate(given):
        if word == "--untrusted" and not LIKE_LIMITS.fullmatch("".join(given[k + 1 : k + 2])):
            given[k] = "--untrusted=usual"
    return given


def _title_of(parameter: Any) -> str:
    if parameter.name in EVERYWHERE:
        return HELP
    usual = WHAT if parameter.param_type_name == "argument" else OPTIONS
    return getattr(parameter, "rich_help_panel", None) or usual


def add_command(
    app: typer.Typer, function: Callable[..., None], name: str | None = None, examples: Examples | None = None
) -> None:
    """Add a command to an app: a function whose annotations describe its options, or are records of options."""
    cls = type("Command", (Command,), {"examples": examples or {}})
    app.command(name, cls=cls)(spread(function))


def spread(function: Callable[..., None]) -> Callable[..., None]:
    """Return a function that takes the fields of a function's records by themselves, and passes on the records."""
    hints = get_type_hints(function, include_extras=True)
    records: dict[str, Any] = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    parameters = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name in records:
            parameters += _parameters_of(records[name])
        else:
            parameters.append(parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=hints[name]))

    def call(**values: Any) -> None:
        for name, record in records.items():
            values[name] = record(**{field.name: values.pop(field.name) for field in dataclasses.fields(record)})
        function(**values)

    call.__doc__, call.__name__ = function.__doc__, function.__name__
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return call


def _parameters_of(record: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(record, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(record)
    ]
