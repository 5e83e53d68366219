"""Help and options: titled groups with an example below each, and records of options spread out for typer."""

import dataclasses
import inspect
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, get_type_hints

import typer
import typer.core

WHAT, HOW, WHERE, SAFETY, HELP, OPTIONS = "What", "How", "Where", "Safety", "Help", "Options"
GROUPS = (WHAT, HOW, OPTIONS, WHERE, SAFETY, HELP)
EVERYWHERE = ("help", "install_completion", "show_completion")  # options that typer adds

LIKE_LIMITS = re.compile(r"\d+(\.\d+)?[A-Za-z]*(,.*)?")  # wrong ones too, which are then refused

Examples = Mapping[str, str]  # by the title of a group, a command line that uses it


def _option(group: str, text: str, *names: str, **rest: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=group, **rest)


# an option of one group: its line of help, then its flag where that differs from the parameter's name
what, how, where, safety = (partial(_option, group) for group in (WHAT, HOW, WHERE, SAFETY))
Debug = Annotated[bool, safety("Show a traceback on errors.", "--debug")]


class Command(typer.core.TyperCommand):
    """A command whose help shows its options in groups, each followed by an example."""

    examples: ClassVar[Examples] = {}

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write each group with its example below."""
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
    """Return arguments in which --untrusted has a value: the limits that follow it, or else the usual ones."""
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
    """Add a command to an app: a function whose annotations are options or records of options."""
    cls = type("Command", (Command,), {"examples": examples or {}})
    app.command(name, cls=cls)(spread(function))


def spread(function: Callable[..., None]) -> Callable[..., None]:
    """Return a function that takes the fields of a function's records by themselves, and passes on the records.

    It also takes --debug, which `console` reads by itself.
    """
    parameters, build = _spread(function)
    if all(parameter.name != "debug" for parameter in parameters):
        parameters.append(inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug))

    def call(**values: Any) -> None:
        build(values)

    call.__doc__, call.__name__ = function.__doc__, function.__name__
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return call


def _spread(made: Callable[..., Any]) -> tuple[list[inspect.Parameter], Callable[[Mapping[str, Any]], Any]]:
    """Return the parameters of a function or record, those of its records in their place, and what calls it by them."""
    hints = get_type_hints(made, include_extras=True)
    parameters: list[inspect.Parameter] = []
    builders: dict[str, Callable[[Mapping[str, Any]], Any]] = {}
    for field in inspect.signature(made).parameters.values():
        hint: Any = hints[field.name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            inner, builders[field.name] = _spread(hint)
            parameters += inner
        else:
            parameters.append(field.replace(kind=field.KEYWORD_ONLY, annotation=hint))
            builders[field.name] = operator.itemgetter(field.name)
    return parameters, lambda values: made(**{name: build(values) for name, build in builders.items()})
