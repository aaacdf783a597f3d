# SPDX-License-Identifier: GPL-3.0-or-later
"""Inside the benchmark's machine, in place of an init system: one plan of measurements, a JSON line each on the console.

The world of the plans that count instructions: a device `wan`, where clients are, and `bd`, the guarded one, with the container
172.18.0.2 (fd00:18::2); its port 80 is published as 192.0.2.1:8080 ([2001:db8:1::1]:8080) by DNAT rules as Docker makes them.
The host's port 8081 is docker-proxy's for the same container, and its port 22 is nobody's.
For bridged flows `bd` becomes a bridge of two ports, and the sender is 172.18.0.1 (fd00:18::1) at the other one.
"""

from __future__ import annotations

import functools
import json
import pickle
import socket
import subprocess
import sys
import termios
import time
import traceback
from pathlib import Path
from typing import Any, Callable

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "lib"), str(HERE)]

# The packages lie beside this file in the machine: they can be found from here on only.
from bench import peers, swap  # noqa: E402
from bench.flows import CONTAINER as TO_CONTAINER  # noqa: E402
from bench.flows import FLOWS, PROXY, UNJUDGED, Flow  # noqa: E402

REPEATS = 2
CLIENT = {4: "10.9.0.1", 6: "fd00:9::1"}
NEIGHBOUR = {4: "172.18.0.1", 6: "fd00:18::1"}
PUBLISHED = {4: ("192.0.2.1", 8080), 6: ("2001:db8:1::1", 8080)}
CONTAINER = {4: ("172.18.0.2", 80), 6: ("fd00:18::2", 80)}
#: The host's address on `bd`.
GATEWAY = {4: "172.18.255.254", 6: "fd00:18::ffff"}
PROXY_PORT, UNJUDGED_PORT = 8081, 22
NAT = """*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s {net} ! -o bd -j MASQUERADE
-A DOCKER -i bd -j RETURN
-A DOCKER ! -i bd -p udp -m udp --dport 8080 -j DNAT --to-destination {to}
COMMIT
"""
#: What Docker 20.10 has in its filter table for one bridge and one published port.
DOCKER = """*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o bd -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o bd -j DOCKER
-A FORWARD -i bd ! -o bd -j ACCEPT
-A FORWARD -i bd -o bd -j ACCEPT
-A DOCKER -d {to} ! -i bd -o bd -p udp -m udp --dport 80 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i bd ! -o bd -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o bd -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
"""


def tell(**record: Any) -> None:
    print("BENCH " + json.dumps(record), flush=True)


def run(*command: str, text: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr or done.stdout}")
    return done


def set_up(devices: bool) -> None:
    for command in (
        "mount -t proc proc /proc", "mount -t sysfs sys /sys", "mount -t tmpfs run /var/lib/bridgewarden",
        "mount -t tmpfs run /run",
        "modprobe nf_conntrack", "modprobe br_netfilter", "modprobe nf_reject_ipv4", "modprobe nf_reject_ipv6",
    ):  # fmt: skip
        run(*command.split(), check=not command.startswith("mount"))
    if devices:
        set_up_devices()
    else:
        swap.set_up(run)
    for key, value in {
        "net/ipv4/ip_forward": 1, "net/ipv6/conf/all/forwarding": 1,
        "net/netfilter/nf_conntrack_max": 2_000_000, "net/netfilter/nf_conntrack_udp_timeout": 100_000,
        "net/netfilter/nf_conntrack_udp_timeout_stream": 100_000, "kernel/watchdog": 0,
        # An entry for each client's address, from the highest threshold down.
        **{
            f"net/{family}/neigh/default/gc_thresh{n}": 65536
            for family in ("ipv4", "ipv6")
            for n in (3, 2, 1)
        },
    }.items():  # fmt: skip
        path = Path("/proc/sys") / key
        if path.exists():
            path.write_text(str(value))


def set_up_devices() -> None:
    for command in (
        f"insmod {HERE}/bwinject.ko", "ip link set lo up",
        "ip link add wan index 100 address 02:00:00:00:00:01 type bwkeep",
        "ip link add bd index 101 address 02:00:00:00:00:02 type bwkeep",
        "ip address add 192.0.2.1/32 dev lo", "ip address add 2001:db8:1::1/128 dev lo",
        "ip address add 10.9.255.254/16 dev wan", "ip address add fd00:9::ffff/64 dev wan nodad",
        "ip address add 172.18.255.254/15 dev bd", "ip address add fd00:18::ffff/64 dev bd nodad",
        "ip link set wan up", "ip link set bd up",
    ):  # fmt: skip
        run(*command.split())
    run("iptables-restore", text=NAT.format(net="172.18.0.0/16", to="172.18.0.2:80"))
    run("ip6tables-restore", text=NAT.format(net="fd00:18::/64", to="[fd00:18::2]:80"))


def make_bridge() -> None:
    """In place of the routed `bd`. Without a delay a port forwards from the start."""
    for command in (
        "ip link delete bd",
        "ip link add bd index 101 address 02:00:00:00:00:02 type bridge forward_delay 0",
        "ip link add port1 address 02:00:00:00:00:03 type bwkeep",
        "ip link add port2 address 02:00:00:00:00:04 type bwkeep",
        "ip link set port1 master bd up", "ip link set port2 master bd up",
        "ip link set bd up",
        "ip address add 172.18.255.254/15 dev bd", "ip address add fd00:18::ffff/64 dev bd nodad",
    ):  # fmt: skip
        run(*command.split())
    for tables in ("iptables", "ip6tables"):
        (Path("/proc/sys/net/bridge") / f"bridge-nf-call-{tables}").write_text("1")


def is_bridge() -> bool:
    return Path("/sys/class/net/bd/bridge").is_dir()


def ends(family: int, flow: Flow, reply: bool) -> tuple[str, str, str, tuple[str, int]]:
    """Where its packets come from and go to ("host": a socket there), the client's address, the server's and its port."""
    host = PUBLISHED[family][0]
    here, there, client, server = {
        "routed": ("wan", "bd", CLIENT[family], (CONTAINER if reply else PUBLISHED)[family]),
        "bridged": ("port1", "port2", NEIGHBOUR[family], CONTAINER[family]),
        PROXY: ("wan", "host", CLIENT[family], (host, PROXY_PORT)),
        TO_CONTAINER: ("host", "bd", GATEWAY[family], CONTAINER[family]),
        UNJUDGED: ("wan", "host", CLIENT[family], (host, UNJUDGED_PORT)),
    }[flow.path]
    return (there, here, client, server) if reply else (here, there, client, server)


def inject(family: int, flow: Flow, packets: int, reply: bool = False) -> dict[str, int]:
    begin, end, client, server = ends(family, flow, reply)
    flows = f"{flow.connections or 0} {flow.first} {flow.ports}"
    plan = f"{begin} {end} {client} {server[0]} {server[1]} {flows} {packets} {int(reply)}"
    Path("/proc/bwinject").write_text(plan)
    words = Path("/proc/bwinject").read_text().split()
    return {key: int(value) for key, value in zip(words[::2], words[1::2])}


def prime(family: int, flow: Flow) -> None:
    """Established means that both directions were seen, by conntrack and by the bridge."""
    assert flow.connections
    inject(family, flow, flow.connections)
    inject(family, flow, flow.connections, reply=True)


def forget() -> None:
    """All connections."""
    run("conntrack", "-F", check=False)


def forget_neighbour(family: int) -> None:
    """The container: found again by the first packet, it is the first in its bucket. Else it costs 5 instructions more where a
    client's address is in that bucket, which the boot's random seed decides.
    """
    run("ip", "neighbour", "delete", CONTAINER[family][0], "dev", "bd", check=False)


def one_of(flow: Flow) -> Flow:
    """One established flow on the same path."""
    return FLOWS["bridged established" if flow.bridged else "established"]


def start(family: int, flow: Flow) -> None:
    """From the same state each time: conntrack refreshes a UDP connection otherwise when it is 2 s old, for 5 instructions."""
    forget()
    if flow.established:
        prime(family, flow)
    elif flow.bridged:
        prime(family, one_of(flow))  # for the bridge to learn
        forget()


WARM: set[tuple[int, Flow]] = set()


def warm(family: int, flow: Flow) -> None:
    """The first connections of a boot find no slabs to be put in, and cost some 15 instructions more."""
    if (family, flow) not in WARM:
        WARM.add((family, flow))
        start(family, flow)
        inject(family, flow, flow.packets)


def measure(name: str, families: tuple[int, ...], patterns: tuple[str, ...], passes: bool = True) -> None:
    for family in families:
        for pattern in patterns:
            flow = FLOWS[pattern]
            if passes and not flow.established:
                warm(family, flow)
            for _ in range(REPEATS):
                if passes:
                    start(family, flow)
                forget_neighbour(family)
                got = inject(family, flow, flow.packets, flow.reply)
                wanted = got["packets"] if passes else 0
                if got["passed"] != wanted:
                    raise RuntimeError(f"{name} ipv{family} {pattern}: {got}")
                tell(engine=name, family=family, flow=pattern, **got)


# Engines: a name, how it is set up; everything is taken down between them.

LOADED = False
OPEN: list[Any] = []  # of a trace


def load() -> None:
    global LOADED
    run("insmod", str(HERE / "bridgewarden.ko"))
    LOADED = True


@functools.cache
def ruleset(name: str) -> Any:
    return pickle.loads((HERE / f"{name}.ruleset").read_bytes())


def commit(name: str) -> tuple[float, float]:
    """Seconds of all of it, and of the kernel's part: checking, building, exchanging."""
    from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel

    class Timed(Kernel):
        seconds = 0.0

        def _commit_patiently(self, *args: Any) -> Any:
            began = time.monotonic()
            replies = super()._commit_patiently(*args)
            self.seconds = time.monotonic() - began
            return replies

    wanted = ruleset(name)
    kernel = Timed()
    with kernel:
        began = time.monotonic()
        kernel.commit(wanted)
        return time.monotonic() - began, kernel.seconds


def begin_with(name: str) -> None:
    load()
    whole, kernel = commit(name)
    tell(committed=name, seconds=round(whole, 6), kernel_seconds=round(kernel, 6))


def swap_under_load(names: list[str], entries: int, count: int) -> None:
    if not LOADED:
        tell(swap=swap.without_ruleset())
        load()
    tell(swap=swap.swaps(commit, (names[0], names[1]), entries, count))


def trace(port: int) -> None:
    """A trace of that port, with its events enabled and nobody reading them."""
    from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel, Term
    from ansible_collections.bridgewarden.docker.plugins.module_utils._trace import tracefs as _tracefs

    run("mount", "-t", "tracefs", "tracefs", "/sys/kernel/tracing", check=False)
    kernel = Kernel()
    kernel.open()
    term = Term(proto=socket.IPPROTO_UDP, port=port)
    report = kernel.trace_begin([term], seconds=3600, events=10_000_000, rate=1_000_000)
    instance = _tracefs.Instance()
    instance.open(report.id, drops=False)
    OPEN.extend((kernel, instance))


def floor(on: int) -> None:
    Path("/sys/module/bwinject/parameters/floor").write_text(str(on))


def docker(backend: str) -> None:
    run(f"iptables{backend}-restore", text=DOCKER.format(to="172.18.0.2/32"))
    run(f"ip6tables{backend}-restore", text=DOCKER.format(to="fd00:18::2/128"))


def clear() -> None:
    global LOADED
    while OPEN:
        OPEN.pop().close()
    for family in ("ip", "ip6"):
        run("nft", "delete", "table", family, "filter", check=False)
    for tool in ("iptables-legacy", "ip6tables-legacy"):
        for words in ("-P FORWARD ACCEPT", "-F", "-X"):
            run(tool, *words.split(), check=False)
    for module in ("iptable_filter", "ip6table_filter"):
        run("rmmod", module, check=False)
    peers.clear(run)
    if LOADED:
        run("rmmod", "bridgewarden")
        LOADED = False
    floor(0)
    forget()


def main() -> None:
    plan = json.loads((HERE / "plan.json").read_text())
    devices = plan[0]["name"] != "swap"
    set_up(devices)
    for entry in plan:
        if devices:
            clear()
            path = one_of(FLOWS[entry["flows"][0]])
            if path.bridged and not is_bridge():
                make_bridge()
        if not entry.get("passes", True):
            # Connections that were permitted once: a ruleset that drops them lets none become established.
            for family in entry["families"]:
                prime(family, path)
        for step in entry["steps"]:
            STEPS[step[0]](*step[1:])
        if devices:
            measure(entry["name"], tuple(entry["families"]), tuple(entry["flows"]), entry.get("passes", True))
    tell(done=True)


STEPS: dict[str, Callable[..., Any]] = {
    "floor": lambda: floor(1),
    "load": load,
    "ruleset": begin_with,
    "peer": lambda kind, n, backend, first: peers.set_up(run, kind, n, backend, first),
    "swap": swap_under_load,
    "docker": docker,
    "trace": trace,
}


if __name__ == "__main__":
    try:
        main()
    except BaseException as error:
        tell(error=repr(error), where=traceback.format_exc()[-600:])
    termios.tcdrain(sys.stdout.fileno())  # the end takes with it what the console has not sent yet
    Path("/proc/sysrq-trigger").write_text("o")
    time.sleep(60)
