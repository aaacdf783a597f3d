# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command line of bridgewarden: its commands and options.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import argparse
import sys
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.output import EXIT_CODES, EXIT_USAGE
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.defaults import DEFAULT_SOCKET


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> t.NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message}\n")


def make_parser() -> Parser:
    """Each command names its function, `file.function` of this room: main.py imports that file and no other."""
    top = Parser(
        prog="bridgewarden",
        description="Looks at and steers the bridgewarden kernel module of this host.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)

    def command(name: str, run: str, words: str) -> Parser:
        sub: Parser = commands.add_parser(
            name,
            help=words,
            description=words,
            epilog=EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=run)
        sub.add_argument("--json", action="store_true", help="one JSON record instead of text for people")
        return sub

    command(
        "status",
        "status.cmd_status",
        "The module's state: generation, mode, guards, whether our hooks run first.",
    )
    command("ready", "status.cmd_ready", "Whether a policy is in force; for other units to wait on.")
    rules = command("rules", "counters.cmd_rules", "Rules and built-in reasons with their counters.")
    rules.add_argument("--all", action="store_true", help="built-in reasons without packets too")
    top_ = command("top", "counters.cmd_top", "The counters, again and again, with what was added a second.")
    top_.add_argument(
        "--interval", type=seconds_argument, default=2.0, metavar="S", help="default: %(default)s"
    )
    top_.add_argument("--count", type=int, default=0, metavar="N", help="end after so many times")
    asks_docker(
        command(
            "endpoints", "containers.cmd_endpoints", "The containers' addresses as the kernel knows them."
        )
    )
    asks_docker(
        command(
            "unmanaged",
            "containers.cmd_unmanaged",
            "Who sends behind a guard and is no container's address that is known: closed.",
        )
    )
    explain = command(
        "explain", "containers.cmd_explain", "Which verdict a connection would get, and by which rule."
    )
    asks_docker(explain)
    explain.add_argument("source", metavar="FROM", help="an address, a container's name, host or world")
    explain.add_argument("target", metavar="TO", help="the same; for a container, its own address and port")
    explain.add_argument(
        "service", metavar="SERVICE", nargs="?", default="", help="like 8080/tcp, 53/udp, icmp"
    )
    explain.add_argument("--direct", action="store_true", help="not through a published port")
    explain.add_argument(
        "--policy",
        default="",
        metavar="FILE",
        help="by this policy (JSON or YAML) with the containers of now; the kernel is not asked",
    )
    for name, run, words in (
        ("confirm", "commits.cmd_confirm", "Keeps a commit whose confirm window is open."),
        ("rollback", "commits.cmd_rollback", "Restores the rules before the last commit."),
        (
            "seal",
            "commits.cmd_seal",
            "Allows no change of rules or endpoints, and no unloading, until reboot.",
        ),
    ):
        settle = command(name, run, words)
        settle.add_argument("--generation", type=int, help="only if this generation is in force")
    log = command("log", "log.cmd_log", "Prints the module's log lines as they come, with containers' names.")
    asks_docker(log)
    log.add_argument("--group", type=int, help="nfnetlink_log group; default: the policy's")
    log.add_argument("--count", type=int, default=0, metavar="N", help="end after so many lines")
    trace = command(
        "trace", "trace.cmd_trace", "Shows the way of packets through every hook, device and namespace."
    )
    asks_docker(trace)
    add_trace_options(trace)
    hooks = command(
        "hooks", "trace.cmd_hooks", "Who stands at each netfilter hook, in the order in which they run."
    )
    asks_docker(hooks)
    hooks.add_argument(
        "namespace",
        metavar="NAMESPACE",
        nargs="?",
        default="host",
        help="host, a container, or of 'ip netns'",
    )
    asks_docker(
        command("sync", "services.cmd_sync", "Brings the kernel in step with policy and Docker, once.")
    )
    command("policy", "policy.cmd_policy", "The desired policy, and what is applied, in words.")
    command(
        "boot",
        "services.cmd_boot",
        "Loads the module closed and commits the policy without endpoints; for bridgewarden.service.",
    )
    agent = command("agent", "services.cmd_agent", "Follows Docker; for bridgewarden-agent.service.")
    asks_docker(agent)
    agent.add_argument(
        "--metrics",
        choices=("none", "textfile", "http"),
        default="none",
        help="for Prometheus; default: none",
    )
    agent.add_argument(
        "--metrics-textfile",
        metavar="FILE",
        default="/var/lib/prometheus/node-exporter/bridgewarden.prom",
        help="default: %(default)s",
    )
    agent.add_argument(
        "--metrics-listen", metavar="ADDRESS:PORT", default="127.0.0.1:9899", help="default: %(default)s"
    )
    return top


def add_trace_options(trace: Parser) -> None:
    what = trace.add_argument_group("what to trace (all that is given must hold; answers are shown too)")
    what.add_argument("--proto", default="", metavar="NAME", help="tcp, udp, icmp, icmpv6, sctp or a number")
    what.add_argument(
        "--from", dest="source", default="", metavar="ADDRESS", help="an address or CIDR of either side"
    )
    what.add_argument(
        "--to", dest="target", default="", metavar="ADDRESS", help="an address or CIDR of the other side"
    )
    what.add_argument("--port", type=int, default=0, metavar="N", help="either side's port")
    where = what.add_mutually_exclusive_group()
    where.add_argument(
        "--container", default="", metavar="NAME", help="by namespace, addresses and published ports"
    )
    where.add_argument(
        "--namespace", default="", metavar="NAME", help="host, a container, of 'ip netns', or an inode"
    )
    where.add_argument("--guard", default="", metavar="LINK", help="a bridge or another link of the host")
    what.add_argument("--dropped", action="store_true", help="show only what was dropped, rejected or lost")
    what.add_argument(
        "--include-session", action="store_true", help="show the SSH session that this command runs in, too"
    )
    end = trace.add_argument_group("when to end")
    end.add_argument("--count", type=int, default=0, metavar="N", help="after so many packets")
    end.add_argument(
        "--seconds", type=int, default=60, metavar="S", help="default: %(default)s, at most 3600"
    )
    end.add_argument("--events", type=int, default=100000, metavar="N", help="default: %(default)s")
    end.add_argument(
        "--rate", type=int, default=5000, metavar="N", help="events a second; default: %(default)s"
    )
    out = trace.add_argument_group("where to")
    out.add_argument("--record", metavar="FILE", help="write everything as JSON, readable by root only")
    out.add_argument("--replay", metavar="FILE", help="show a recorded trace; the kernel is not asked")


def seconds_argument(text: str) -> float:
    """A time to sleep: a number above zero."""
    value = float(text)
    if not 0.05 <= value <= 86400:
        raise ValueError
    return value


def asks_docker(sub: Parser) -> None:
    sub.add_argument("--docker-socket", default=DEFAULT_SOCKET, metavar="URL", help="default: %(default)s")
