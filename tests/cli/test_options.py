"""Every command: few options, in titled groups, each with an example that the command takes."""

import importlib
import shlex
from dataclasses import dataclass
from typing import Annotated
from unittest import mock

import pytest
import typer
from commands import assert_refused, run_here
from models import tiny_spec

from ddpm_export import plan
from ddpm_export.cli.console import FLAGS, entry_point, with_flags
from ddpm_export.cli.help import EVERYWHERE, GROUPS, Command, with_limits
from ddpm_export.errors import UsageError
from ddpm_export.sampling.request import request_for

MOST = 24
NAMES = ("run", "edit", "dataset", "adopt", "export", "check", "eval", "bench", "serve")


def commands():
    """Yield (words that call it, its typer command) of every command and subcommand."""
    for name in NAMES:
        found = typer.main.get_command(importlib.import_module(f"ddpm_export.cli.{name}").main.app)
        if isinstance(found, Command):
            yield f"ddpm-{name}", found
        else:
            yield from ((f"ddpm-{name} {sub}", command) for sub, command in found.commands.items())


COMMANDS = dict(commands())


def options_of(command):
    return [entry for entry in command.params if entry.param_type_name == "option" and entry.name not in EVERYWHERE]


def test_the_commands_are_those_of_the_package():
    from ddpm_export.cli import start

    assert len(COMMANDS) == 14
    for name in NAMES:
        assert hasattr(start, {"eval": "evaluate"}.get(name, name))


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_has_few_options_each_with_help_and_a_group(words):
    options = options_of(COMMANDS[words])
    assert len(options) <= MOST
    for option in options:
        assert option.rich_help_panel in GROUPS, option.name
        assert option.help, option.name
        assert option.help.rstrip("]").endswith((".", *"abcdefghijklmnopqrstuvwxyz0123456789B")), option.help


@pytest.mark.parametrize("words", COMMANDS)
def test_every_group_has_an_example_below_it_that_the_command_takes(words):
    ending = run_here(
        importlib.import_module(f"ddpm_export.cli.{words.split()[0][5:]}").main, *words.split()[1:], "--help"
    )
    assert ending.code == 0
    groups = [line.rstrip(":") for line in ending.out.splitlines() if line.rstrip(":") in GROUPS]
    examples = [line.strip("$ ") for line in ending.out.splitlines() if line.startswith("  $ ")]
    assert len(groups) == len(set(groups)) == len(examples) >= 4
    for example in examples:
        assert example.startswith(words)
        name, *arguments = shlex.split(example)
        if "--install-completion" in arguments or "--help" in arguments:
            continue
        with mock.patch.object(Command, "invoke", return_value=0):
            taken = run_here(importlib.import_module(f"ddpm_export.cli.{name[5:]}").main, *arguments)
        assert taken.code == 0, (example, taken)


@pytest.mark.parametrize("name", ["edit", "dataset"])
def test_a_command_of_several_lists_them_and_wants_one(name):
    main = importlib.import_module(f"ddpm_export.cli.{name}").main
    ending = run_here(main, "--help")
    for words in COMMANDS:
        if words.startswith(f"ddpm-{name} "):
            assert words.split()[1] in ending.out
    assert "Example: ddpm-" in ending.out
    assert_refused(run_here(main), 2, "--help")
    assert_refused(run_here(main, "nothing"), 2, "nothing")


@dataclass(frozen=True)
class Some:
    size: Annotated[int, typer.Option(help="A size.")] = 3


def test_a_record_of_options_is_spread_and_put_together_again():
    seen = []

    def command(name: str, *, some: Some, rest: int = 1) -> None:
        seen.append((name, some, rest))

    main = entry_point(command)
    assert run_here(main, "a", "--size", 5).code == 0
    assert run_here(main, "b", "--rest", 2).code == 0
    assert seen == [("a", Some(5), 1), ("b", Some(3), 2)]


def test_a_message_calls_fields_by_their_flags():
    def command() -> None:
        raise UsageError("num_steps must be from 1 to 40, got 'num_steps'. Leave --num_steps out.", "num_steps")

    ending = run_here(entry_point(command))
    assert_refused(ending, 2, "error: --steps must be from 1 to 40, got 'num_steps'. Leave --num_steps out.")
    assert with_flags("x_T must be finite", ["x_T"]) == "--from must be finite"
    assert with_flags("eta must be 0, n is 1", ["eta"]) == "eta must be 0, n is 1"
    assert with_flags("n, not an n-th or n=1", ["n"]) == "--n, not an n-th or n=1"
    seeds = UsageError("seeds takes two seeds and replaces seed, got [1, 2].", "seeds", "seed")
    assert with_flags(str(seeds), seeds.fields) == "--seeds takes two seeds and replaces --seed, got [1, 2]."
    assert with_flags("a/out holds 'out', out.png, out", ["out"]) == "a/out holds 'out', out.png, --out"
    with pytest.raises(UsageError) as error:
        request_for(tiny_spec(plans={"own": plan(tiny_spec(), num_steps=3)}), plan="own", num_steps=2)
    assert with_flags(str(error.value), error.value.fields) == "--plan own already fixes the steps. Drop --steps."


def test_every_flag_of_the_table_is_an_option_of_a_command():
    known = {flag for command in COMMANDS.values() for option in options_of(command) for flag in option.opts}
    assert set(FLAGS.values()) <= known


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (["m.onnx", "--untrusted"], ["m.onnx", "--untrusted=usual"]),
        (["--untrusted", "m.onnx"], ["--untrusted=usual", "m.onnx"]),
        (["--untrusted", "60s", "m.onnx"], ["--untrusted", "60s", "m.onnx"]),
        (["--untrusted", "1.5s,4GiB"], ["--untrusted", "1.5s,4GiB"]),
        (["--untrusted=4GiB"], ["--untrusted=4GiB"]),
        (["--untrusted", "60"], ["--untrusted", "60"]),
        (["--untrusted", "7.onnx"], ["--untrusted=usual", "7.onnx"]),
        (["m.onnx"], ["m.onnx"]),
    ],
)
def test_untrusted_may_have_limits(given, taken):
    assert with_limits(given) == taken
