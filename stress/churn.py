# SPDX-License-Identifier: GPL-3.0-or-later
"""In a machine that molecule/_engine/prepare.py made ready: `python3 churn.py SECONDS`. Containers and networks come and go, policies
follow them, traces begin and end, and one pair that is allowed and two that are not are tried all the time.

Prints one line of JSON: what was done, and what went wrong ("wrong": probes with another result than the policy's).
"""

from __future__ import annotations

import importlib
import itertools
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import Any

sys.path.insert(0, "/root/engine")

bench: Any = importlib.import_module("bench")
CLASSES = ("ingress", "egress", "inter_container", "to_host", "from_host")
#: From, to, port: the result under each policy of `policies`.
PAIRS = {
    ("beta", "172.28.1.10", 8080): "open",
    ("beta", "172.28.1.10", 8081): "timeout",
    ("gamma", "fd00:db8:11::10", 8080): "timeout",
}
done: Counter[str] = Counter()
ended = threading.Event()


def policies() -> Any:
    """They differ in what concerns those who come and go, and in size."""
    for turn in itertools.count():
        rules = [
            {"name": "beta", "from": ["container:beta"], "to": ["container:alpha"], "ports": ["8080/tcp"], "action": "allow"},
            *(
                {"name": f"guest {n}", "from": [f"10.{n}.{turn % 250}.0/24"], "to": ["label:tier=guest"], "ports": ["1-1024/tcp"],
                 "action": ("allow", "reject", "deny")[n % 3]}
                for n in range(turn * 7 % 60)
            ),
        ]  # fmt: skip
        yield {"defaults": {**dict.fromkeys(CLASSES, "deny"), "host_ingress": "allow"}, "rules": rules}


def docker(command: str) -> None:
    """Docker refuses some of what is asked of it at once with other things; that is counted, and no matter here."""
    status = subprocess.run(["docker", *command.split()], check=False, capture_output=True).returncode
    done["docker commands" if status == 0 else "docker refused"] += 1


def guests(number: int) -> None:
    name = f"guest-{number}"
    for network in itertools.cycle(("left", "right", "bridge")):
        if ended.is_set():
            break
        docker(f"run -d --rm --name {name} --label tier=guest --network {network} bw-shop {name} tcp:8080")
        if network == "left":
            docker(f"network connect right {name}")
        time.sleep(0.3 * number)  # so that they come and go at each other's different moments
        docker(f"rm -f {name}")
        done["containers"] += 1


def networks() -> None:
    while not ended.is_set():
        docker("network create --ipv6 --subnet 172.28.9.0/24 --subnet fd00:db8:19::/64 visitor")
        docker("run -d --rm --name visiting --network visitor bw-shop visiting tcp:8080")
        docker("rm -f visiting")
        docker("network rm visitor")
        done["networks"] += 1


def probes() -> list[dict[str, Any]]:
    return [
        {"from": who, "to": "", "host": host, "family": 6 if ":" in host else 4, "port": port, "proto": "tcp", "timeout": 3.0}
        for who, host, port in PAIRS
    ]  # fmt: skip


def without_rules() -> None:
    """All pairs reach each other where nothing forbids it."""
    bench.apply({"defaults": dict.fromkeys((*CLASSES, "host_ingress"), "allow"), "rules": []})
    results = [one["result"] for one in bench.probe(probes())]
    if set(results) != {"open"}:
        sys.exit(f"not even without rules do all pairs reach each other: {results}")


def main(seconds: float) -> None:
    without_rules()
    workers = [threading.Thread(target=guests, args=(n,)) for n in range(3)] + [
        threading.Thread(target=networks)
    ]
    wanted = policies()
    first = bench.apply(next(wanted))
    if "generation" not in first:
        sys.exit(f"the first policy: {first}")
    for worker in workers:
        worker.start()
    end = time.monotonic() + seconds
    wrong: list[Any] = []
    for turn, policy in enumerate(wanted):
        if time.monotonic() > end or len(wrong) > 20:
            break
        bench.Cache.facts = None
        answer = bench.apply(policy)
        if "generation" in answer:
            done["commits"] += 1
        elif answer["kind"] == "DockerUnavailable":  # too slow to say what runs; the policy before stays
            done["dockerd silent"] += 1
        else:
            wrong.append(answer)
        if turn % 5 == 0:
            found = bench.trace({}, probes(), 0.2)
            done["traces"] += 1
            results = found.get("results") or [found]
        else:
            results = bench.probe(probes())
        for pair, result in zip(PAIRS, results):
            done["probes"] += 1
            if result.get("result") != PAIRS[pair]:
                wrong.append([turn, *pair, result])
    ended.set()
    for worker in workers:
        worker.join()
    print(json.dumps({**done, "wrong": wrong}))


if __name__ == "__main__":
    main(float(sys.argv[1]))
