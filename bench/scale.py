# SPDX-License-Identifier: GPL-3.0-or-later
"""What it costs to resolve and compile a policy, by containers and rules: processor time, and what the kernel would get.

`make scale` writes build/scale/results.json: "rows" has for each size the seconds of processor time of each step (parse, resolve,
compile; the least of three runs) and the lengths of the arrays that the kernel would get; "bars" has what must hold, and whether it does.
It ends with 1 where a bar is missed.
Everything here is pure Python; nothing is committed and no container is started.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
import typing as t
from pathlib import Path

from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.parse import normalise
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.compile import compile_ruleset
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.resolve import resolve

Json = t.Dict[str, t.Any]

TOP = Path(__file__).resolve().parent.parent
RESULTS = TOP / "build" / "scale" / "results.json"
ROLES = ("web", "app", "db", "cache")
#: Containers and rules, from few to many.
SIZES = ((1_250, 125), (2_500, 250), (5_000, 500), (10_000, 1_000), (10_000, 2_000), (10_000, 5_000))
GOAL, GOAL_SECONDS = (10_000, 1_000), 0.6
#: Containers whose stacks' inner rules are relations.
WITHIN = (1_250, 10_000)
RELATIONS = (("web", "app", "8443/tcp"), ("app", "db", "5432/tcp"), ("app", "cache", "6379/tcp"))
#: Caches that are full sooner and Python's garbage collection cost up to 1.7 times as much; what grows squared would be at 5 or 8.
LINEAR = 2.0


def address(number: int) -> str:
    return f"10.{128 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def facts(containers: int) -> Json:
    """Stacks of four, each on a network of its own; every tenth stack publishes its web server."""
    found, networks = [], []
    for number in range(containers):
        stack, role = divmod(number, len(ROLES))
        name = f"stack{stack}_default"
        labels = {
            "com.docker.compose.project": f"stack{stack}",
            "com.docker.compose.service": ROLES[role],
            "tier": ROLES[role],
            "team": f"team{stack // 10}",
            "shard": f"shard{stack // 100}",
        }
        place = {
            "NetworkID": name, "IPAddress": address(number), "GlobalIPv6Address": None, "MacAddress": None,
            "Link": f"br-{stack:012x}", "LinkIndex": 10 + stack, "Port": f"veth{number}", "PortIndex": 20_000 + number,
            "Parent": None, "ParentIndex": None, "Namespace": None,
        }  # fmt: skip
        ports = []
        if role == 0 and stack % 10 == 0:
            ports = [
                {"HostIp": "192.0.2.1", "HostPort": 10_000 + stack, "ContainerPort": 8080, "Protocol": "tcp"}
            ]
        found.append({
            "Id": f"{number:064x}", "Name": f"stack{stack}-{ROLES[role]}-1", "Image": "i", "State": "running", "Pid": 1,
            "NetworkMode": name, "Labels": labels, "Networks": {name: place}, "Ports": ports,
        })  # fmt: skip
        if role == 0:
            networks.append({
                "Id": name, "Name": name, "Driver": "bridge", "Internal": False, "EnableIPv6": False,
                "Subnets": [address(number) + "/30"], "Gateways": [],
                "Bridge": f"br-{stack:012x}", "BridgeIndex": 10 + stack, "Parent": None, "ParentIndex": None, "Labels": {},
            })  # fmt: skip
    return {
        "docker": {"version": "26.1.5", "userland_proxy": True}, "containers": found, "networks": networks,
        "links": {}, "default_route_links": ["eth0"],
    }  # fmt: skip


def policy(rules: int, containers: int) -> Json:
    """Ten rules about everybody, and the rest by service, by name, by label, by CIDR, and by published port, a fifth of each.

    Rules about everybody meet each kind of container, so their number is fixed: what grows is what a host has more of.
    """
    stacks = containers // len(ROLES)
    made: t.List[Json] = [
        {
            "name": f"office {number}",
            "from": [f"198.51.100.{number}/32"],
            "to": ["containers"],
            "ports": ["9100/tcp"],
        }
        for number in range(5)
    ]
    made += [
        {"name": f"no {number}", "action": "deny", "from": ["containers"], "to": [f"169.254.169.{number}/32"]}
        for number in range(5)
    ]
    for number in range(rules - len(made)):
        turn, kind = divmod(number, 5)
        stack = turn * 7 % stacks
        body: Json = {"name": f"rule {number}"}
        if kind == 0:
            body.update({"from": [f"compose:stack{stack}/web"], "to": [f"compose:stack{stack}/app"]})
            body["ports"] = ["8443/tcp"]
        elif kind == 1:
            body.update({"from": [f"container:stack{stack}-app-1"], "to": [f"network:stack{stack}_default"]})
            body["ports"] = ["5432/tcp"]
        elif kind == 2:
            body.update(
                {"from": [f"label:team=team{stack // 10}"], "to": [f"203.0.{stack >> 8}.{stack & 255}/32"]}
            )
            body["ports"] = [f"{1000 + turn}/tcp"]
        elif kind == 3:
            body.update(
                {"from": [f"192.0.{stack >> 8}.{stack & 255}/32"], "to": [f"compose:stack{stack}/web"]}
            )
            body.update({"ports": ["8080/tcp"], "direct": True})
        else:
            body.update(
                {"from": ["world"], "to": [f"group{stack // 100}"], "published": [f"{10_000 + stack}/tcp"]}
            )
        made.append(body)
    groups = {
        f"group{n}": {"labels": {"shard": f"shard{n}"}, "names": ["stack*-web-1"]}
        for n in range(stacks // 100 + 1)
    }
    return {"mode": "enforce", "groups": groups, "rules": made}


def within(containers: int) -> Json:
    """What holds within each of the same stacks, as three rules for all."""
    rules = [
        {
            "name": f"{one} to {other}",
            "from": [f"label:tier={one}"],
            "to": [f"label:tier={other}"],
            "ports": [port],
            "within": "com.docker.compose.project",
        }
        for one, other, port in RELATIONS
    ]
    return {"mode": "enforce", "rules": rules}


def measured(raw: Json, host: Json, runs: int) -> Json:
    """The least of so many runs: what another program takes meanwhile is not the compiler's."""
    best: t.Dict[str, float] = {}
    for _run in range(runs):
        gc.collect()
        begin = time.process_time()
        wanted = normalise(raw)
        parsed = time.process_time()
        resolution = resolve(wanted, host, "ignore")
        resolved = time.process_time()
        ruleset = compile_ruleset(wanted, resolution, host)
        compiled = time.process_time()
        seconds = {"parse": parsed - begin, "resolve": resolved - parsed, "compile": compiled - resolved}
        best = {step: min(took, best.get(step, took)) for step, took in seconds.items()}
    best["resolve and compile"] = best["resolve"] + best["compile"]
    counts = {
        name: len(getattr(ruleset, name)) for name in ("rules", "identities", "pairs", "blocks", "spans")
    }
    return {"seconds": {step: round(took, 4) for step, took in best.items()}, "counts": counts}


def rows(runs: int) -> t.Iterator[Json]:
    for containers, rules in SIZES:
        found = measured(policy(rules, containers), facts(containers), runs)
        yield {"policy": "mixed", "containers": containers, "rules": rules, **found}
    for containers in WITHIN:
        raw = within(containers)
        found = measured(raw, facts(containers), runs)
        yield {"policy": "within", "containers": containers, "rules": len(raw["rules"]), **found}


def took(row: Json) -> float:
    return float(row["seconds"]["resolve and compile"])


def bars(found: t.Sequence[Json]) -> t.List[Json]:
    """What must hold, with what was found."""
    at = {(row["policy"], row["containers"], row["rules"]): row for row in found}
    goal = took(at[("mixed", *GOAL)])
    least, most = at[("mixed", *SIZES[0])], at[("mixed", *GOAL)]
    wider = at[("mixed", *SIZES[-1])]
    few, many = (at["within", containers, len(RELATIONS)] for containers in (WITHIN[0], WITHIN[-1]))
    made = [
        {
            "name": f"{GOAL[0]} containers and {GOAL[1]} rules, seconds of processor time",
            "limit": GOAL_SECONDS,
            "value": goal,
        },
        {
            "name": "containers and rules both times 8: how much more than 8 times the time",
            "limit": LINEAR,
            "value": round(took(most) / took(least) / (GOAL[0] / SIZES[0][0]), 2),
        },
        {
            "name": "rules times 5: how much more than 5 times the time",
            "limit": LINEAR,
            "value": round(took(wider) / goal / (SIZES[-1][1] / GOAL[1]), 2),
        },
        {
            "name": "within: pairs a stack, where there are 8 times as many stacks",
            "limit": 1.0,
            "value": round(many["counts"]["pairs"] / few["counts"]["pairs"] / (WITHIN[-1] / WITHIN[0]), 2),
        },
    ]
    return [{**bar, "met": bar["value"] <= bar["limit"]} for bar in made]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: %(default)s")
    parser.add_argument("--runs", type=int, default=3, help="default: %(default)s")
    args = parser.parse_args()
    found = []
    for row in rows(args.runs):
        found.append(row)
        seconds, counts = row["seconds"], row["counts"]
        print(
            f"{row['policy']:>6}  {row['containers']:>6} containers  {row['rules']:>5} rules  parse {seconds['parse']:.3f}  "
            f"resolve {seconds['resolve']:.3f}  compile {seconds['compile']:.3f} s  {counts['pairs']} pairs",
            flush=True,
        )
    judged = bars(found)
    for bar in judged:
        print(f"{'met' if bar['met'] else 'MISSED'}: {bar['name']}: {bar['value']} (at most {bar['limit']})")
    args.results.parent.mkdir(parents=True, exist_ok=True)
    args.results.write_text(json.dumps({"rows": found, "bars": judged}, indent=2) + "\n", encoding="utf-8")
    return 0 if all(bar["met"] for bar in judged) else 1


if __name__ == "__main__":
    raise SystemExit(main())
