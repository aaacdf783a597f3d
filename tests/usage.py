# SPDX-License-Identifier: GPL-3.0-or-later
"""The command's manual page and its completion for bash, made from its parser into roles/agent/files.

The parser is the only place that knows commands and options; nothing here names one. `python tests/usage.py` writes both files,
with --check (a stage of `make lint`) it fails where they are not what the parser makes of them.
"""

from __future__ import annotations

import argparse
import re
import sys
import typing as t
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / ".collections"))

from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.output import EXIT_CODES
from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.parser import make_parser

#: What stands for the name of a container in the parser, and is completed with those that run.
CONTAINERS = ("FROM", "TO", "NAMESPACE", "NAME")
FILES = ("FILE",)


class CommandUsage(t.NamedTuple):
    name: str
    words: str
    parser: argparse.ArgumentParser


def commands_of(parser: argparse.ArgumentParser) -> t.List[CommandUsage]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return [
                CommandUsage(choice.dest, choice.help or "", action.choices[choice.dest])
                for choice in action._choices_actions
            ]
    return []


def options_of(parser: argparse.ArgumentParser) -> t.List[argparse.Action]:
    return [action for action in parser._actions if action.option_strings]


def positionals_of(parser: argparse.ArgumentParser) -> t.List[argparse.Action]:
    return [action for action in parser._actions if not action.option_strings]


def value_name(action: argparse.Action) -> str:
    """What stands for its value; '' for a switch."""
    if action.nargs == 0:
        return ""
    return str(action.metavar or (action.option_strings and action.dest.upper()) or action.dest.upper())


# bash


_COMPLETION = """\
# Completion of {name} for bash; made of its parser.
_{name}() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} command= i
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        [[ ${{COMP_WORDS[i]}} == -* ]] || {{ command=${{COMP_WORDS[i]}}; break; }}
    done
    local options= places= takes_file= takes_name= takes_word=
    case $command in
{cases}
    esac
    if [[ " $takes_file " == *" $before "* ]]; then
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
    elif [[ " $takes_name " == *" $before "* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$(docker ps --format '{{{{.Names}}}}' 2>/dev/null)" -- "$word")
    elif [[ " $takes_word " == *" $before "* ]]; then
        COMPREPLY=()
    elif [[ $word == -* || -z $places ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
    elif [[ $places == names ]]; then
        mapfile -t COMPREPLY < <(compgen -W "host world $(docker ps --format '{{{{.Names}}}}' 2>/dev/null)" -- "$word")
    else
        mapfile -t COMPREPLY < <(compgen -W "$places" -- "$word")
    fi
}}
complete -F _{name} {name}
"""


def completion_script(parser: argparse.ArgumentParser) -> str:
    known = commands_of(parser)
    cases = [_case("''", parser, [command.name for command in known])]
    for command in known:
        places = positionals_of(command.parser)
        words = [str(choice) for place in places for choice in place.choices or ()]
        named = any(place.metavar in CONTAINERS for place in places)
        cases.append(_case(command.name, command.parser, ["names"] if named else words))
    return _COMPLETION.format(name=parser.prog, cases="\n".join(cases))


def _case(pattern: str, parser: argparse.ArgumentParser, places: t.Sequence[str]) -> str:
    groups: t.Dict[str, t.List[str]] = {"takes_file": [], "takes_name": [], "takes_word": []}
    every: t.List[str] = []
    for action in options_of(parser):
        every += action.option_strings
        value = value_name(action)
        if value:
            group = (
                "file" if value in FILES else "name" if action.dest in ("container", "namespace") else "word"
            )
            groups["takes_" + group] += action.option_strings
    sets = [f"options='{' '.join(every)}'", f"places='{' '.join(places)}'"]
    sets += [f"{name}='{' '.join(words)}'" for name, words in groups.items() if words]
    return f"        {pattern}) {' '.join(sets)} ;;"


# The manual page


def manual_text(
    parser: argparse.ArgumentParser, more: t.Sequence[t.Tuple[str, t.Sequence[t.Tuple[str, str]]]]
) -> str:
    """troff with the man macros; `more` are further sections of terms and their meaning."""
    name = parser.prog
    description = parser.description or ""
    lines = [
        f'.TH {name.upper()} 8 "" {name} "System administration"',
        ".SH NAME",
        f"{name} \\- {troff(description[:1].lower() + description[1:].rstrip('.'))}",
        ".SH SYNOPSIS",
        f".B {name}",
        ".I COMMAND",
        "[options]",
        ".SH DESCRIPTION",
        troff(description),
    ]
    known = commands_of(parser)
    shared = set.intersection(
        *({_term(action) for action in options_of(command.parser)} for command in known)
    )
    lines += [".SH OPTIONS", "Of every command:"]
    for action in options_of(known[0].parser):
        if _term(action) in shared:
            lines += _described(action)
    lines.append(".SH COMMANDS")
    for command in known:
        lines += _command_text(name, command, shared)
    for title, entries in more:
        lines.append(f".SH {title.upper()}")
        for term, meaning in entries:
            lines += [".TP", f".B {troff(term)}", troff(meaning)]
    return "\n".join(lines) + "\n"


def _command_text(name: str, command: CommandUsage, shared: t.Collection[str]) -> t.List[str]:
    places = " ".join(
        f"[{place.metavar or place.dest}]" if place.nargs == "?" else str(place.metavar or place.dest)
        for place in positionals_of(command.parser)
    )
    lines = [f'.SS "{name} {command.name}{" " + places if places else ""}"', troff(command.words)]
    for action in [*positionals_of(command.parser), *options_of(command.parser)]:
        if _term(action) not in shared:
            lines += _described(action)
    return lines


def _term(action: argparse.Action) -> str:
    value = value_name(action)
    return (
        ", ".join(action.option_strings) + (" " + value if value else "") if action.option_strings else value
    )


def _described(action: argparse.Action) -> t.List[str]:
    return [".TP", f".B {troff(_term(action))}", troff(_help(action))]


def _help(action: argparse.Action) -> str:
    words = (action.help or "").replace("%(default)s", str(action.default))
    if action.choices:
        words = "; ".join(part for part in (words, "one of " + ", ".join(map(str, action.choices))) if part)
    return words or "see above"


def sections(epilog: str) -> t.List[t.Tuple[str, str]]:
    """The "number  meaning" lines of an epilog."""
    return re.findall(r"^  (\d+) +(\S.*)$", epilog, re.MULTILINE)


def troff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + escaped if escaped[:1] in (".", "'") else escaped


def completion() -> str:
    return completion_script(make_parser())


def manual() -> str:
    more = [
        ("exit status", sections(EXIT_CODES)),
        ("environment", [("NO_COLOR", "No colour, even on a terminal.")]),
        (
            "files",
            [
                ("/etc/bridgewarden/policy.json", "The desired policy, for root only."),
                ("/var/lib/bridgewarden/", "The last good policy, and what was applied."),
                ("/run/bridgewarden/lock", "Held by whoever changes the policy or the endpoints."),
                ("/run/bridgewarden/lock.agent", "Held by the agent: a host has one."),
            ],
        ),
        ("see also", [("docker(1), systemctl(1), journalctl(1), nft(8), bridge(8)", "")]),
    ]
    return manual_text(make_parser(), more)


FILES_MADE: t.Dict[str, t.Callable[[], str]] = {"bridgewarden.8": manual, "bridgewarden.bash": completion}


def main(arguments: t.Sequence[str]) -> int:
    status = 0
    for name, made in FILES_MADE.items():
        path = TOP / "roles" / "agent" / "files" / name
        if arguments != ["--check"]:
            path.write_text(made(), encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != made():
            print(f"{path.relative_to(TOP)} is not what the parser makes: run make generated")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
