"""How the help of a command is laid out: options under headings, one line for each where it fits, and an example.

typer's own panels take two lines each and leave 30 letters for a text at 80 columns: `predict --help` had 82 lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperCommand

PANELS = {
    "Input": "run runs inputs files_from manifest shard retry_failed virus other groups gbff min_length allow_short "
    "replace_unknown reuse",
    "Models": "model nucleotide_model protein_model classifier chunk_length offline",
    "Calls": "consensus prevalence sensitive balanced strict max_fdr",
    "Output": "output folder embeddings embedding_dtype min_score gzip_tables legacy_output restart name description "
    "licence",
    "Fit": "hidden dropout optimizer learning_rate momentum weight_decay learning_rate_schedule decay_every decay "
    "epochs patience keep batch_size class_weights oversample validation_share test_share calibration_share heads "
    "shortest_chunk bootstraps seed",
    "Numbers": "dtype token_budget",
    "Launch": "nproc ranks device threads schedule stall_timeout config",
    "Display": "progress log_interval as_json help help_all",
}
"""Headings, in their order, with the options of commands that run something."""
SELDOM = (
    "replace_unknown files_from shard retry_failed allow_short reuse balanced embedding_dtype gzip_tables "
    "legacy_output token_budget threads schedule log_interval stall_timeout"
).split()
"""Options that --help only names, so that it fits on a screen; --help-all describes them."""
HELP_ALL = "help_all"
OTHERS, ALL = "Others", "Options"
"""For what is under no heading above, and for all options of a command that has few."""
BRACKETS = "[in brackets: the default]"
DEFAULT = re.compile(r"\[default: ([^]]*)\]")
"""As typer writes it."""
FEW = 10
"""Options up to which a command needs no headings."""
EXAMPLES = {
    "predict": "vpdist predict reads.fa.gz -o RUN --model virnucpro-500",
    "embed": "vpdist embed reads.fa.gz -o RUN --protein-model facebook/esm2_t33_650M_UR50D",
    "train": "vpdist train --virus viruses.fa.gz --other bacteria=bacteria.fa.gz -o MODEL --model virnucpro-500",
    "plan": "vpdist plan reads.fa.gz -o RUN --model virnucpro-500 --ranks 16",
    "classify": "vpdist classify RUN --model virnucpro-500 --consensus max",
    "merge": "vpdist merge run-1 run-2 run-3 -o RUN",
    "verify": "vpdist verify RUN",
    "watch": "vpdist watch RUN",
    "models": "vpdist models --folder models/",
    "download": "vpdist download virnucpro-500",
    "import-classifier": "vpdist import-classifier 500_model.pth --chunk-length 500 -o MODEL",
    "info": "vpdist info --json",
    "check": "vpdist check --model MODEL --dtype auto",
    "export": "vpdist export RUN --to h5ad --per sequence",
    "report": "vpdist report RUN",
    "status": "vpdist status RUN --json",
}


class ArrangedCommand(TyperCommand):
    """A command whose help is laid out as this module says."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self.print_help(ctx)

    def print_help(self, ctx: Any, *, whole: bool = False) -> None:
        """Print the help; `whole`: with texts of the options that are seldom needed, too."""
        from rich.console import Console

        console = Console(highlight=False)
        console.print(f"Usage: {ctx.command_path} {' '.join(self.collect_usage_pieces(ctx))}", markup=False)
        console.print(f"\n{(self.help or '').strip()}\n", markup=False)
        console.print(self._options(ctx, whole))
        if str(self.name) in EXAMPLES:
            console.print(f"\nExample: {EXAMPLES[str(self.name)]}", markup=False, soft_wrap=True)

    def _options(self, ctx: Any, whole: bool) -> Any:
        """Headings and options as one table, so that all texts begin in one column."""
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column()
        headings = dict(self.under_headings(ctx))
        seldom = [parameter for under in headings.values() for parameter in under if parameter.name in SELDOM]
        seldom = seldom if any(each.name == HELP_ALL for each in self.params) else []
        for heading, parameters in headings.items():
            table.add_row(Text(heading, style="bold"), "" if table.row_count else Text(BRACKETS))
            for parameter in parameters:
                if whole or parameter not in seldom:
                    table.add_row(Text(f"  {_typed(parameter, ctx)}"), Text(_described(parameter, ctx)))
        if seldom and not whole:
            named = ", ".join(max(parameter.opts, key=len) for parameter in seldom)
            table.add_row(Text("Seldom needed", style="bold"), Text(f"{named}: see --help-all"))
        return table

    def under_headings(self, ctx: Any) -> Iterator[tuple[str, list[Any]]]:
        """The command's parameters by heading."""
        shown = [parameter for parameter in self.get_params(ctx) if not getattr(parameter, "hidden", False)]
        if len(shown) <= FEW:
            yield ALL, shown
            return
        place = {name: heading for heading, names in PANELS.items() for name in names.split()}
        for heading in (*PANELS, OTHERS):
            under = [parameter for parameter in shown if place.get(str(parameter.name), OTHERS) == heading]
            if under:
                yield heading, under


def whole_help(context: typer.Context, wanted: bool) -> bool:
    """The parser's callback of --help-all: print all of a command's help and end."""
    if wanted and not context.resilient_parsing and isinstance(context.command, ArrangedCommand):
        context.command.print_help(context, whole=True)
        raise typer.Exit
    return wanted


def _typed(parameter: Any, ctx: Any) -> str:
    """What is typed: `-o, --output RUN`."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    flags = ", ".join(sorted(parameter.opts, key=len))
    if parameter.is_flag:
        return flags
    kinds = {"<int>": "N", "<float>": "X", "<str>": "TEXT"}
    kind = parameter.display_type_rich(ctx) if hasattr(parameter, "display_type_rich") else ""
    return f"{flags} {parameter.metavar or kinds.get(kind, 'PATH')}"


def _described(parameter: Any, ctx: Any) -> str:
    """Its text, with its default, or that it must be given."""
    record = parameter.get_help_record(ctx)
    return DEFAULT.sub(r"[\1]", " ".join(str(record[1]).split())) if record else ""


def arrange(app: typer.Typer) -> None:
    """Lay out the help of all commands of `app`, and list them in the order of EXAMPLES, others last; call when all
    have been added."""
    order = {name: number for number, name in enumerate(EXAMPLES)}
    app.registered_commands.sort(key=lambda registered: order.get(_name(registered), len(order)))
    for registered in app.registered_commands:
        if registered.cls is None or registered.cls is TyperCommand:
            registered.cls = ArrangedCommand


def _name(registered: Any) -> str:
    return str(registered.name or registered.callback.__name__.replace("_", "-"))
