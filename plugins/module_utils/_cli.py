# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command `bridgewarden` on a host: looks at the kernel, and steers it.

Each command makes one record; --json prints it as it is, without it people get
a table made of the same record.  Decides nothing about policy: what it changes
goes through the engine, as for the modules.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import time
import typing as t
from dataclasses import replace

from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import BridgewardenError
from ansible_collections.bridgewarden.docker.plugins.module_utils._light import pyroute2_parts
from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink import (
    REASON_MAX,
    Info,
    Kernel,
    RuleRow,
)

# What only some commands need they import themselves: a zipapp is compiled at each start.

Json = t.Dict[str, t.Any]

DEFAULT_SOCKET = "unix:///var/run/docker.sock"

EXIT_CODES = """\
exit codes:
  0   all is well
  1   other error
  2   the policy is wrong
  3   refused, it would cut somebody off
  4   Docker does not answer, or a Python library is missing
  5   the kernel module is not loaded, or speaks another version
  6   no permission
  7   the kernel refused (stale generation, busy, sealed)
  8   a file of bridgewarden's is damaged
  9   another writer holds the lock
  10  status, ready: the module is loaded, but not all is well
  64  wrong usage
"""
NOT_WELL = 10
USAGE = 64


class Reply(t.NamedTuple):
    record: t.Any
    lines: t.List[str]
    code: int = 0
    said: bool = False  # line by line already


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> t.NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: error: {message}\n")


# Text for people.


def table(rows: t.Sequence[t.Sequence[t.Any]], head: t.Sequence[str]) -> t.List[str]:
    """Columns as wide as they must be; numbers to the right."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max([len(title)] + [len(row[i]) for row in texts]) for i, title in enumerate(head)]
    right = [bool(rows) and all(isinstance(row[i], int) for row in rows) for i in range(len(head))]

    def line(cells: t.Sequence[str]) -> str:
        parts = [
            cell.rjust(width) if r else cell.ljust(width) for cell, width, r in zip(cells, widths, right)
        ]
        return "  ".join(parts).rstrip()

    return [line([title.upper() for title in head])] + [line(row) for row in texts]


def paint(word: str, code: str) -> str:
    """In colour where somebody looks; NO_COLOR is respected."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return word
    return f"\033[{code}m{word}\033[0m"


def good(word: str) -> str:
    return paint(word, "32")


def bad(word: str) -> str:
    return paint(word, "1;31")


def link_name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return "#%d" % index


# The commands.


def cmd_status(args: argparse.Namespace) -> Reply:
    with Kernel() as kernel:
        info = kernel.info()
    record = info_record(info)
    well = info.generation > 0 and info.hooks_in_place
    rows = [
        ("module", f"version {info.version}"),
        ("generation", good(str(info.generation)) if info.generation else bad("none: the guards are closed")),
        ("mode", info.mode if info.mode == "enforce" else bad(info.mode + ": nothing is dropped")),
        ("placement", info.placement),
        ("guards", ", ".join(info.guards) or "none"),
        ("guarded links", ", ".join(record["guard_links"]) or "none"),
        ("defaults", ", ".join("{} {}".format(*item) for item in sorted(info.defaults.items()))),
        ("holds", ", ".join("%d %s" % (count, name) for name, count in sorted(info.counts.items()))),
        ("policy", info.policy_digest[:16] or "none"),
        (
            "hooks",
            good("run first")
            if info.hooks_in_place
            else bad("not all run first: " + ", ".join(info.hooks_ahead or hooks_behind(info))),
        ),
        (
            "log",
            "group %d, defaults %s, %d lines swallowed"
            % (info.log_group, "too" if info.log_defaults else "not", info.log_swallowed),
        ),
    ]
    if info.placement == "container":
        rows.append(
            ("inside", "%d namespaces, parents: %s" % (info.namespaces, ", ".join(info.parents) or "none"))
        )
    if info.traces:
        rows.append(("traces", "%d run" % info.traces))
    if info.sealed:
        rows.append(("sealed", good("nothing changes until reboot")))
    if info.confirm_remaining:
        rows.append(("confirm", bad("rolls back in %d s unless confirmed" % info.confirm_remaining)))
    lines = ["%-14s %s" % row for row in rows]
    return Reply(record, lines, 0 if well else NOT_WELL)


def info_record(info: Info) -> Json:
    return {
        "version": info.version,
        "generation": info.generation,
        "mode": info.mode,
        "placement": info.placement,
        "defaults": info.defaults,
        "policy_digest": info.policy_digest,
        "ruleset_digest": info.ruleset_digest,
        "confirm_remaining": info.confirm_remaining,
        "guards": list(info.guards),
        "parents": list(info.parents),
        "namespaces": info.namespaces,
        "traces": info.traces,
        "guard_links": [link_name(index) for index in info.guard_links],
        "counts": info.counts,
        "hooks_in_place": info.hooks_in_place,
        "hooks_behind": hooks_behind(info),
        "hooks_ahead": list(info.hooks_ahead),
        "log_group": info.log_group,
        "log_defaults": info.log_defaults,
        "log_swallowed": info.log_swallowed,
        "sealed": info.sealed,
    }


def hooks_behind(info: Info) -> t.List[str]:
    """The hooks before which somebody else runs."""
    names = ("PRE_ROUTING", "LOCAL_IN", "FORWARD", "LOCAL_OUT", "POST_ROUTING")
    missing = info.hooks_expected & ~info.hooks_first
    return [
        f"{family} {name}"
        for pf, family in enumerate(("IPv4", "IPv6"))
        for hook, name in enumerate(names)
        if missing >> (pf * 8 + hook) & 1
    ]


def cmd_ready(args: argparse.Namespace) -> Reply:
    with Kernel() as kernel:
        generation = kernel.info().generation
    words = "generation %d is in force" % generation if generation else "the module holds no policy"
    return Reply(
        {"generation": generation, "ready": bool(generation)}, [words], 0 if generation else NOT_WELL
    )


def cmd_rules(args: argparse.Namespace) -> Reply:
    with Kernel() as kernel:
        rules = kernel.rules()
    record: t.List[Json] = [
        {
            "index": rule.index,
            "name": rule.name,
            "builtin": rule.index < REASON_MAX,
            "action": rule.action,
            "packets": rule.packets,
            "bytes": rule.bytes,
            "queue": rule.queue,
        }
        for rule in rules
    ]
    shown = [row for row in record if args.all or not row["builtin"] or row["packets"]]
    rows = [
        (row["action"], row["packets"], row["bytes"], row["name"] + (" (built in)" if row["builtin"] else ""))
        for row in shown
    ]
    return Reply(record, table(rows, ("action", "packets", "bytes", "rule")))


def cmd_top(args: argparse.Namespace) -> Reply:
    """Shows the counters again and again, with their rates."""
    with Kernel() as kernel:
        before, then = counters(kernel), time.monotonic()
        left = args.count
        while True:
            time.sleep(args.interval)
            info = kernel.info()
            now, after = time.monotonic(), counters(kernel)
            record = {
                "time": time.time(),
                "seconds": round(now - then, 3),
                "generation": info.generation,
                "mode": info.mode,
                "endpoints": info.counts.get("endpoints", 0),
                "rules": rates(before, after, now - then),
            }
            if args.json:
                say(json.dumps(record, sort_keys=True))
            else:
                say("\n".join(top_lines(record, args.interval)))
            sys.stdout.flush()
            before, then = after, now
            left -= 1
            if not left:
                return Reply(None, [], said=True)


def counters(kernel: Kernel) -> t.Dict[t.Tuple[int, int], RuleRow]:
    """By what stays the same of a rule when another ruleset is committed."""
    return {(rule.index if rule.builtin else REASON_MAX, rule.key): rule for rule in kernel.rules()}


def rates(
    before: t.Mapping[t.Tuple[int, int], RuleRow],
    after: t.Mapping[t.Tuple[int, int], RuleRow],
    seconds: float,
) -> t.List[Json]:
    """Each rule's counters and what was added a second, the busiest first."""
    rows: t.List[Json] = []
    for key, rule in after.items():
        former = before.get(key)
        if former is None or former.packets > rule.packets:
            former = replace(rule, packets=0, bytes=0)  # it is new, or counts anew
        rows.append(
            {
                "name": rule.name,
                "builtin": rule.builtin,
                "action": rule.action,
                "packets": rule.packets,
                "bytes": rule.bytes,
                "packets_per_second": round((rule.packets - former.packets) / seconds, 1),
                "bytes_per_second": round((rule.bytes - former.bytes) / seconds, 1),
            }
        )
    rows.sort(key=lambda row: (-row["packets_per_second"], -row["packets"], row["builtin"], row["name"]))
    return rows


def top_lines(record: Json, interval: float) -> t.List[str]:
    """One screen; where nobody looks, all of it and no control sequences."""
    head = "{}  generation {}, mode {}, {} endpoints, every {:g} s".format(
        time.strftime("%H:%M:%S", time.localtime(record["time"])),
        record["generation"], record["mode"], record["endpoints"], interval,
    )  # fmt: skip
    rows = [
        (
            row["action"],
            int(row["packets_per_second"]),
            int(row["bytes_per_second"]),
            row["packets"],
            row["bytes"],
            row["name"] + (" (built in)" if row["builtin"] else ""),
        )
        for row in record["rules"]
        if row["packets"] or not row["builtin"]
    ]
    lines = [head, *table(rows, ("action", "packets/s", "bytes/s", "packets", "bytes", "rule"))]
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        size = shutil.get_terminal_size((100, 24))
        lines = [line[: size.columns] for line in lines[: size.lines - 1]]
        lines[0] = "\033[H\033[2J" + lines[0]
    return lines


def cmd_endpoints(args: argparse.Namespace) -> Reply:
    with Kernel() as kernel:
        endpoints = kernel.endpoints()
    names = container_names(args.docker_socket)
    record = [
        {
            "address": endpoint.address,
            "container": names.get(endpoint.address),
            "identity": endpoint.identity,
            "link": link_name(endpoint.link),
            "port": link_name(endpoint.port) if endpoint.port else None,
        }
        for endpoint in endpoints
    ]
    record.sort(key=lambda row: (row["container"] or "", str(row["address"])))
    rows = [
        (row["address"], row["container"] or "?", row["identity"], row["link"], row["port"] or "any")
        for row in record
    ]
    return Reply(record, table(rows, ("address", "container", "identity", "link", "port")))


def container_names(docker_socket: str) -> t.Dict[str, str]:
    """address -> container; empty where Docker does not answer: the kernel's answer stands without it."""
    from ansible_collections.bridgewarden.docker.plugins.module_utils._docker import collect

    try:
        return {address: name for name, address in container_addresses(collect(docker_socket))}
    except BridgewardenError:
        return {}


def container_addresses(facts: Json) -> t.Iterator[t.Tuple[str, str]]:
    for container in facts["containers"]:
        for network in container["Networks"].values():
            for key in ("IPAddress", "GlobalIPv6Address"):
                if network[key]:
                    yield container["Name"], network[key]


def cmd_explain(args: argparse.Namespace) -> Reply:
    from ansible_collections.bridgewarden.docker.plugins.module_utils import _engine as engine
    from ansible_collections.bridgewarden.docker.plugins.module_utils._docker import collect

    with Kernel() as kernel:
        facts = collect(args.docker_socket, warn=warn)
        answers = engine.explain(kernel, facts, args.source, args.target, args.service, args.direct)
    return Reply(answers, [answer["words"] for answer in answers])


def cmd_confirm(args: argparse.Namespace) -> Reply:
    from ansible_collections.bridgewarden.docker.plugins.module_utils import _engine as engine
    from ansible_collections.bridgewarden.docker.plugins.module_utils._store import Store

    with Kernel() as kernel:
        generation = engine.confirm(kernel, Store(), args.generation)
    return Reply({"generation": generation}, ["generation %d is kept" % generation])


def cmd_rollback(args: argparse.Namespace) -> Reply:
    from ansible_collections.bridgewarden.docker.plugins.module_utils import _engine as engine
    from ansible_collections.bridgewarden.docker.plugins.module_utils._store import Store

    with Kernel() as kernel:
        generation = engine.rollback(kernel, Store(), args.generation)
    return Reply({"generation": generation}, ["back to generation %d" % generation])


def cmd_seal(args: argparse.Namespace) -> Reply:
    from ansible_collections.bridgewarden.docker.plugins.module_utils import _engine as engine
    from ansible_collections.bridgewarden.docker.plugins.module_utils._store import Store

    with Kernel() as kernel:
        generation = engine.seal(kernel, Store(), args.generation)
    return Reply(
        {"generation": generation, "sealed": True}, ["generation %d is sealed until reboot" % generation]
    )


def cmd_log(args: argparse.Namespace) -> Reply:
    """Prints each line as it comes, with the containers' names."""
    from ansible_collections.bridgewarden.docker.plugins.module_utils._nflog import Reader

    group = args.group
    if group is None:
        with Kernel() as kernel:
            group = kernel.info().log_group
    names = Names(args.docker_socket)
    left = args.count
    with Reader(group) as reader:
        for line in reader.lines():
            for side in ("from", "to"):
                line[side + "_container"] = names.of(line[side])
            say(json.dumps(line, sort_keys=True) if args.json else log_text(line))
            sys.stdout.flush()
            left -= 1
            if not left:
                break
    return Reply(None, [], said=True)


class Names:
    """Addresses to containers; asks Docker again where it meets an unknown one, but not at every packet."""

    def __init__(self, docker_socket: str, patience: float = 5.0) -> None:
        self._socket = docker_socket
        self._patience = patience
        self._names: t.Dict[str, str] = {}
        self._asked: t.Optional[float] = None

    def of(self, address: t.Optional[str]) -> t.Optional[str]:
        if address is None:
            return None
        now = time.monotonic()
        if address not in self._names and (self._asked is None or now - self._asked >= self._patience):
            self._asked = now
            self._names = container_names(self._socket)
        return self._names.get(address)


def log_text(line: Json) -> str:
    when = time.strftime("%H:%M:%S", time.localtime(line["time"])) if line["time"] else "now"
    sides = [
        f"{line[side + '_container']} ({line[side]})" if line[side + "_container"] else str(line[side])
        for side in ("from", "to")
    ]
    service = line["protocol"] or "?"
    if line["to_port"] is not None:
        service = "%d/%s" % (line["to_port"], service)
    links = " ".join(
        f"{word} {line[key]}" for word, key in (("in", "in"), ("port", "port"), ("out", "out")) if line[key]
    )
    verdict = paint(line["action"], "33") if line["audit"] else bad(line["action"])
    by = f'rule "{line["rule"]}"' if line["rule"] else line["reason"]
    audit = "audit " if line["audit"] else ""
    return f"{when} {audit}{verdict} {line['class'] or '-'} {' -> '.join(sides)} {service}: {by} ({links})"


def cmd_trace(args: argparse.Namespace) -> Reply:
    """Shows each packet's way as soon as it is complete."""
    from ansible_collections.bridgewarden.docker.plugins.module_utils import _trace as tracing

    if args.replay:
        recorded = tracing.read_record(args.replay)
        for path in recorded["paths"]:
            show_path(path, args.json)
        write_page(args.html, recorded)
        return Reply(None, [], said=True)
    options = tracing.Options(
        protocol=args.proto,
        source=args.source,
        target=args.target,
        port=args.port,
        container=args.container,
        namespace=args.namespace,
        guard=args.guard,
        dropped=args.dropped,
        packets=args.count,
        seconds=args.seconds,
        events=args.events,
        rate=args.rate,
        docker_socket=args.docker_socket,
        include_session=args.include_session,
    )
    keep = bool(args.record or args.html)
    paths: t.List[Json] = []
    with tracing.Trace(options) as trace:
        with on_signals(trace.stop):
            for path in trace.paths():
                show_path(path, args.json)
                if keep:
                    paths.append(path)
        summary = trace.summary()
        record = {"schema": tracing.SCHEMA, "paths": paths, "summary": summary, "hooks": trace.hooks}
    if args.json:
        say(json.dumps({"summary": summary, "hooks": trace.hooks}, sort_keys=True))
    else:
        say("%d packets, %d events, ended by %s" % (summary["packets"], summary["events"], summary["ended"]))
        for note in summary["notes"]:
            warn(note)
    if args.record:
        tracing.write_private(args.record, json.dumps(record, sort_keys=True) + "\n")
    write_page(args.html, record)
    return Reply(None, [], said=True)


def show_path(path: Json, as_json: bool) -> None:
    from ansible_collections.bridgewarden.docker.plugins.module_utils._picture import lanes

    if as_json:
        say(json.dumps(path, sort_keys=True))
    else:
        colours = {"good": "32", "bad": "1;31", "dim": "2"}
        width = shutil.get_terminal_size((100, 24)).columns
        say("\n".join(lanes(path, width, lambda words, colour: paint(words, colours[colour]))) + "\n")
    sys.stdout.flush()


def write_page(target: t.Optional[str], record: Json) -> None:
    from ansible_collections.bridgewarden.docker.plugins.module_utils import _trace as tracing
    from ansible_collections.bridgewarden.docker.plugins.module_utils._picture import page

    if target:
        tracing.write_private(target, page(record, "bridgewarden trace on " + socket.gethostname()))


@contextlib.contextmanager
def on_signals(stop: t.Callable[[], None]) -> t.Iterator[None]:
    """Of an operator, or of a session that dies: what there is by now is still told, and the buffers go."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda _number, _frame: stop()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def cmd_hooks(args: argparse.Namespace) -> Reply:
    from ansible_collections.bridgewarden.docker.plugins.module_utils import _trace as tracing

    with Kernel() as kernel:
        record = tracing.hooks_of(kernel, tracing.namespace_path(args.namespace, args.docker_socket))
    rows = [
        (
            row["family"],
            row["hook"],
            row["priority"],
            row["function"],
            row["module"],
            "ours" if row["own"] else "",
        )
        for row in record
    ]
    return Reply(record, table(rows, ("family", "hook", "priority", "function", "module", "")))


def cmd_sync(args: argparse.Namespace) -> Reply:
    from ansible_collections.bridgewarden.docker.plugins.module_utils._agent import sync
    from ansible_collections.bridgewarden.docker.plugins.module_utils._store import Store

    synced = sync(Store(), args.docker_socket)
    if synced is None:
        raise BridgewardenError(
            "no policy yet", "/etc/bridgewarden/policy.json", "apply one with bridgewarden.docker.policy"
        )
    record = {
        "changed": synced.changed,
        "generation": synced.generation,
        "endpoints": synced.endpoints,
        "actions": synced.actions,
        "warnings": synced.warnings,
    }
    lines = list(synced.actions) or ["in step already"]
    lines += ["warning: " + warning for warning in synced.warnings]
    return Reply(record, [*lines, "generation %d, %d endpoints" % (synced.generation, synced.endpoints)])


def cmd_policy(args: argparse.Namespace) -> Reply:
    from ansible_collections.bridgewarden.docker.plugins.module_utils._store import Store

    store = Store()
    desired, pending, applied = store.read_policy(), store.read_pending(), store.read_applied()
    record = {"desired": desired, "pending": pending, "applied": applied}
    if desired is None and pending is None:
        return Reply(record, ["no policy yet"])
    lines = list((applied or {}).get("words") or ["nothing is applied yet"])
    if pending is not None:
        lines.append(bad("a commit waits for its confirmation"))
    return Reply(record, lines)


def cmd_boot(args: argparse.Namespace) -> Reply:
    from ansible_collections.bridgewarden.docker.plugins.module_utils._agent import boot
    from ansible_collections.bridgewarden.docker.plugins.module_utils._store import Store
    from ansible_collections.bridgewarden.docker.plugins.module_utils._systemd import Log

    code = boot(Store(), Log())
    return Reply({"code": code}, [], code)


def cmd_agent(args: argparse.Namespace) -> Reply:
    from ansible_collections.bridgewarden.docker.plugins.module_utils._agent import Agent, Settings, State
    from ansible_collections.bridgewarden.docker.plugins.module_utils._systemd import Log

    log, state, publish = Log(), State(), None
    if args.metrics != "none":
        from ansible_collections.bridgewarden.docker.plugins.module_utils._metrics import exporter

        publish = exporter(args.metrics, state, log, args.metrics_textfile, args.metrics_listen)
    code = Agent(Settings(docker_socket=args.docker_socket), log=log, publish=publish, state=state).run()
    return Reply({"code": code}, [], code)


def cmd_completion(args: argparse.Namespace) -> Reply:
    from ansible_collections.bridgewarden.docker.plugins.module_utils import _usage as usage

    text = usage.completion(parser())
    return Reply({"bash": text}, [text.rstrip("\n")])


def cmd_manual(args: argparse.Namespace) -> Reply:
    text = manual()
    return Reply({"troff": text}, [text.rstrip("\n")])


def manual() -> str:
    from ansible_collections.bridgewarden.docker.plugins.module_utils import _usage as usage

    more = [
        ("exit status", usage.sections(EXIT_CODES)),
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
    return usage.manual(parser(), more)


def parser() -> Parser:
    top = Parser(
        prog="bridgewarden",
        description="Looks at and steers the bridgewarden kernel module of this host.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)

    def command(name: str, run: t.Callable[[argparse.Namespace], Reply], words: str) -> Parser:
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
        "status", cmd_status, "The module's state: generation, mode, guards, whether our hooks run first."
    )
    command("ready", cmd_ready, "Whether a policy is in force; for other units to wait on.")
    rules = command("rules", cmd_rules, "Rules and built-in reasons with their counters.")
    rules.add_argument("--all", action="store_true", help="built-in reasons without packets too")
    top_ = command("top", cmd_top, "The counters, again and again, with what was added a second.")
    top_.add_argument("--interval", type=seconds, default=2.0, metavar="S", help="default: %(default)s")
    top_.add_argument("--count", type=int, default=0, metavar="N", help="end after so many times")
    asks_docker(command("endpoints", cmd_endpoints, "The containers' addresses as the kernel knows them."))
    explain = command("explain", cmd_explain, "Which verdict a connection would get, and by which rule.")
    asks_docker(explain)
    explain.add_argument("source", metavar="FROM", help="an address, a container's name, host or world")
    explain.add_argument("target", metavar="TO", help="the same; for a container, its own address and port")
    explain.add_argument(
        "service", metavar="SERVICE", nargs="?", default="", help="like 8080/tcp, 53/udp, icmp"
    )
    explain.add_argument("--direct", action="store_true", help="not through a published port")
    for name, run, words in (
        ("confirm", cmd_confirm, "Keeps a commit whose confirm window is open."),
        ("rollback", cmd_rollback, "Restores the rules before the last commit."),
        ("seal", cmd_seal, "Allows no change of rules or endpoints, and no unloading, until reboot."),
    ):
        settle = command(name, run, words)
        settle.add_argument("--generation", type=int, help="only if this generation is in force")
    log = command("log", cmd_log, "Prints the module's log lines as they come, with containers' names.")
    asks_docker(log)
    log.add_argument("--group", type=int, help="nfnetlink_log group; default: the policy's")
    log.add_argument("--count", type=int, default=0, metavar="N", help="end after so many lines")
    trace = command("trace", cmd_trace, "Shows the way of packets through every hook, device and namespace.")
    asks_docker(trace)
    add_trace_options(trace)
    hooks = command("hooks", cmd_hooks, "Who stands at each netfilter hook, in the order in which they run.")
    asks_docker(hooks)
    hooks.add_argument(
        "namespace",
        metavar="NAMESPACE",
        nargs="?",
        default="host",
        help="host, a container, or of 'ip netns'",
    )
    asks_docker(command("sync", cmd_sync, "Brings the kernel in step with policy and Docker, once."))
    command("policy", cmd_policy, "The desired policy, and what is applied, in words.")
    command(
        "boot",
        cmd_boot,
        "Loads the module closed and commits the policy without endpoints; for bridgewarden.service.",
    )
    command("completion", cmd_completion, "Completion for bash, to be sourced.")
    command("manual", cmd_manual, "The manual page, as troff.")
    agent = command("agent", cmd_agent, "Follows Docker; for bridgewarden-agent.service.")
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
    out.add_argument("--html", metavar="FILE", help="write a page with drawings, readable by root only")
    out.add_argument("--replay", metavar="FILE", help="show a recorded trace; the kernel is not asked")


def seconds(text: str) -> float:
    """A time to sleep: a number above zero."""
    value = float(text)
    if not 0.05 <= value <= 86400:
        raise ValueError
    return value


def asks_docker(sub: Parser) -> None:
    sub.add_argument("--docker-socket", default=DEFAULT_SOCKET, metavar="URL", help="default: %(default)s")


def main(argv: t.Optional[t.Sequence[str]] = None) -> t.NoReturn:
    args = parser().parse_args(argv)
    pyroute2_parts()
    try:
        reply: Reply = args.run(args)
    except BridgewardenError as error:
        if args.json:
            say(json.dumps({"error": error.text(), **error.as_result()}, indent=2, sort_keys=True))
        else:
            warn(error.text())
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:
        os._exit(0)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    if reply.said:
        pass
    elif args.json:
        say(json.dumps(reply.record, indent=2, sort_keys=True))
    elif reply.lines:
        say("\n".join(reply.lines))
    raise SystemExit(reply.code)


def warn(text: str) -> None:
    sys.stderr.write("bridgewarden: %s\n" % text)


def say(text: str) -> None:
    """Print for the operator; not print(), which ansible-test rightly forbids in what modules import as well."""
    sys.stdout.write(text + "\n")
