"""The page of every command with its options."""

import re
from typing import Any

import typer.main

from docs.generate.markdown import BY_MACHINE, Row, cell, table
from studies.cli.app import app


def commands_page() -> str:
    """Write the page of every command with its options."""
    parts = [
        BY_MACHINE + "# Every command\n",
        "`STUDY` is a preset or a YAML file. Results go to standard output, everything else to "
        "standard error. `oat COMMAND --help` says the same in a terminal. [Running a "
        "study](../running.md) explains how the commands go together.\n",
        "Exit codes: 0 done, 1 something is not (a trial, a bound, a job), 2 something for you to "
        "mend, 130 stopped.\n",
    ]
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        context = command.make_context(name, [], resilient_parsing=True)
        told = [(one, one.get_help_record(context)) for one in command.params]
        places = [_name(said) for one, said in told if one.param_type_name == "argument"]
        options = [said for one, said in told if one.param_type_name == "option"]
        usage = " ".join(["oat", name, *places, *(["[OPTIONS]"] if options else [])])
        parts += [f"## `oat {name}`\n", f"{cell(command.help)}\n", f"    {usage}\n"]
        if told:
            rows = [_parameter(said) for _, said in told]
            parts.append(table(("argument or option", "default", "meaning"), rows))
        parts.append(f"In Python: {{py:func}}`studies.{name}`.\n")
    return "\n".join(parts)


DEFAULT = re.compile(r"\s*\[(?:default: )?([^\]]+)\]$")


def _name(record: tuple[str, str]) -> str:
    """Return how an argument is named, without its type."""
    return record[0].partition(" <")[0]


def _parameter(record: tuple[str, str]) -> Row:
    """Return how a parameter is written, its default and its meaning."""
    name, said = record
    default = DEFAULT.search(said)
    shown = "" if default is None or default[1].startswith("no-") else default[1]
    shown = f"`{shown}`" if shown not in {"", "required"} else shown
    return f"`{name}`", shown, DEFAULT.sub("", said)
