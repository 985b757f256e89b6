"""The fields of `Settings` as options of a command: arguments as typed go in, checked settings come out."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from vpdist import settings_file
from vpdist.config import OPTIONS, Settings
from vpdist.help_pages import HELP_ALL, ArrangedCommand, whole_help
from vpdist.train_settings import TRAIN_OPTIONS, TrainSettings

Command = Callable[..., None]

ALL_OPTIONS = OPTIONS | TRAIN_OPTIONS
TYPES = get_type_hints(TrainSettings) | get_type_hints(Settings)
DEFAULTS = {
    field.name: Parameter.empty if field.default is MISSING else field.default
    for field in (*fields(TrainSettings), *fields(Settings))
}
Nproc = Annotated[
    int | None,
    typer.Option(
        help="Ranks; by default one per visible GPU, else by cores and memory. torchrun and srun say it themselves."
    ),
]
ADDED = {
    settings_file.OPTION: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Options from a TOML file; typed ones count more.",
            callback=settings_file.take_from,
            is_eager=True,
        ),
    ],
    HELP_ALL: Annotated[
        bool,
        typer.Option("--help-all", help="Show all options with their texts.", callback=whole_help, is_eager=True),
    ],
}
"""Options of every command with settings, which are no settings themselves."""


class SeveralValues(ArrangedCommand):
    """A command whose options of several values take them one after the other, `--virus a.fa b.fa`, too: a shell writes
    out `*.fa` in that way. It has no positional arguments."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        several = {flag for option in self.params if getattr(option, "multiple", False) for flag in option.opts}
        written: list[str] = []
        current = ""
        for argument in args:
            if argument.startswith("-") and argument != "-":
                current = argument if argument in several else ""
            elif current and written[-1] != current:
                written.append(current)
            written.append(argument)
        return super().parse_args(ctx, written)


def option(name: str, *, default: str | None = None) -> Any:
    """The option or argument for field `name`, as typer's annotation of a command's parameter.

    `default`: a text for the help, if the parameter's own default says nothing.
    """
    declared = ALL_OPTIONS[name]
    choices = " or ".join(filter(None, (", ".join(declared.choices[:-1]), *declared.choices[-1:])))
    arguments: dict[str, Any] = {"metavar": declared.metavar, "help": declared.help.format(choices=choices)}
    if name == "inputs":  # the only positional one
        return typer.Argument(**arguments)
    return typer.Option(*declared.flags_of(name), show_default=default or True, **arguments)


def with_settings(names: str, **fixed: Any) -> Callable[[Command], Command]:
    """Make a command of a function that takes `Settings`, and its own options by name.

    Args:
        names: the command's options in the order of its help: fields of Settings, of TrainSettings if the function
            takes those as `training`, and the function's own parameters.
        fixed: values of fields that are no options of this command.
    """

    def decorate(function: Command) -> Command:
        own = inspect.signature(function, eval_str=True).parameters

        @functools.wraps(function)
        def command(**typed: Any) -> None:
            for name in ADDED:  # their callbacks have done what there is to do
                del typed[name]
            given = {name: OPTIONS[name].parse(value) for name, value in typed.items() if name in OPTIONS.keys() - own}
            rest = {name: value for name, value in typed.items() if name in own}
            if "training" in own:
                names = TRAIN_OPTIONS.keys() - own
                chosen = {name: TRAIN_OPTIONS[name].parse(value) for name, value in typed.items() if name in names}
                rest["training"] = TrainSettings(**chosen)
            function(Settings(**given, **fixed), **rest)

        parameters = [own[name] if name in own else _parameter(name) for name in names.split()]
        parameters += [_added(name, annotation) for name, annotation in ADDED.items()]
        command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # typer reads it
            [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in parameters]
        )
        return command

    return decorate


def _parameter(name: str) -> Parameter:
    declared = ALL_OPTIONS[name]
    default = DEFAULTS[name] if declared.default is None else declared.default
    return Parameter(
        name,
        Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[declared.typed or TYPES[name], option(name)],
    )


def _added(name: str, annotation: Any) -> Parameter:
    return Parameter(
        name, Parameter.KEYWORD_ONLY, default=None if name == settings_file.OPTION else False, annotation=annotation
    )
