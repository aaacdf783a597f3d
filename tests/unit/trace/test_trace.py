# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of the kernel, the tracefs instance (on a folder that looks like one), bounds and what is said of them."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import time
import typing as t
from pathlib import Path as File

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._abi import MAX_TERMS
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    BridgewardenError,
    ModuleMissing,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._host import sshd as _sshd
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Term
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.replies import HookRow, TraceReport
from ansible_collections.bridgewarden.docker.plugins.module_utils._trace import session
from ansible_collections.bridgewarden.docker.plugins.module_utils._trace import tracefs as tracefs
from ansible_collections.bridgewarden.docker.plugins.module_utils._trace.filters import TraceOptions, terms
from ansible_collections.bridgewarden.docker.plugins.module_utils._trace.namespaces import (
    Namespaces,
    proxies,
    setting_words,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._trace.session import (
    MAX_DROPS_PER_SECOND,
    Trace,
    read_record,
    run_trace,
    write_private,
)

Json = t.Dict[str, t.Any]
OWN = os.stat("/proc/self/ns/net").st_ino


def network(
    v4: str = "172.18.0.2",
    v6: t.Optional[str] = None,
    link: t.Optional[str] = "br-shop",
    parent: t.Optional[str] = None,
) -> Json:
    return {"IPAddress": v4, "GlobalIPv6Address": v6, "Link": link, "Parent": parent}


def container(
    name: str,
    pid: int = os.getpid(),
    networks: t.Optional[Json] = None,
    ports: t.Sequence[Json] = (),
    mode: str = "shop",
) -> Json:
    return {
        "Id": name * 16, "Name": name, "Pid": pid, "NetworkMode": mode,
        "Networks": {"shop": network()} if networks is None else networks, "Ports": list(ports),
    }  # fmt: skip


PUBLISHED = {"HostIp": "0.0.0.0", "HostPort": 8081, "ContainerPort": 8080, "Protocol": "tcp"}
FACTS: Json = {
    "docker": {"version": "26", "userland_proxy": True},
    "containers": [
        container("web", networks={"shop": network(v6="fd00::2")}, ports=[PUBLISHED]),
        container("db", networks={"shop": network("172.18.0.3")}),
        container("gone", pid=0),
        container("hosty", networks={}, mode="host"),
    ],
    "networks": [{"Bridge": "lo", "Parent": None, "Subnets": ["172.18.0.0/16", "fd00::/64"]}],
}


def test_nothing_asked_is_everything() -> None:
    assert terms(TraceOptions(), FACTS) == []


def test_plain_filters_are_one_term() -> None:
    assert terms(TraceOptions(protocol="udp", source="10.0.0.0/8", target="10.1.2.3", port=53), FACTS) == [
        Term(17, 53, "10.0.0.0/8", "10.1.2.3/32")
    ]


def test_a_container_is_its_namespace_its_addresses_and_its_published_ports() -> None:
    assert terms(TraceOptions(container="web"), FACTS) == [
        Term(netns=OWN),
        Term(one="172.18.0.2"),
        Term(one="fd00::2"),
        Term(6, 8081),
    ]
    assert Term(one="10.0.0.0/8", other="172.18.0.2") in terms(
        TraceOptions(container="web", source="10.0.0.0/8"), FACTS
    )
    # Of the other family, and of a port that is not published.
    assert terms(TraceOptions(container="web", source="10.0.0.0/8", port=9), FACTS) == [
        Term(port=9, one="10.0.0.0/8", netns=OWN),
        Term(port=9, one="10.0.0.0/8", other="172.18.0.2"),
    ]


def test_a_container_with_the_hosts_network_is_never_everything() -> None:
    assert terms(TraceOptions(container="hosty", port=80), FACTS) == [Term(port=80, netns=OWN)]


def test_on_the_way_to_a_container_a_packet_has_the_hosts_address_at_first() -> None:
    assert Term(6, 8081) in terms(TraceOptions(target="172.18.0.0/16", port=8080), FACTS)
    assert Term(6, 8081) in terms(TraceOptions(port=8080), FACTS)
    assert terms(TraceOptions(protocol="udp", port=8080), FACTS) == [Term(17, 8080)]


def test_behind_a_published_port_docker_proxy_goes_on_by_itself() -> None:
    assert Term(6, 8080, "fd00::2") in terms(TraceOptions(port=8081), FACTS)


def test_a_guard_is_its_link_and_its_subnets() -> None:
    assert terms(TraceOptions(guard="lo"), FACTS) == [
        Term(link=1),
        Term(one="172.18.0.0/16"),
        Term(one="fd00::/64"),
    ]


@pytest.mark.parametrize(
    "options, words",
    [
        (
            TraceOptions(container="wbe"),
            'no container is called "wbe" (container): there are: db, gone, hosty, web',
        ),
        (TraceOptions(container="gone"), "does not run"),
        (TraceOptions(source="ten"), '"ten" is no address (from): give an address'),
        (TraceOptions(source="10.0.0.1", target="fd00::1"), "different families"),
        (TraceOptions(protocol="tpc"), 'no protocol is called "tpc" (proto)'),
        (TraceOptions(protocol="256"), "no protocol"),
        (TraceOptions(guard="br-none"), 'no link is called "br-none" (guard)'),
        (TraceOptions(namespace="nowhere"), 'no network namespace is called "nowhere"'),
    ],
)
def test_mistakes_are_told(options: TraceOptions, words: str) -> None:
    with pytest.raises(BridgewardenError) as raised:
        terms(options, FACTS)
    assert words in raised.value.text()


def test_a_term_on_the_wire() -> None:
    packed = Term(6, 80, "10.0.0.0/8", "", 3, 4).packed()
    assert struct.unpack("=BBHBBHII16s16s", packed) == (
        2,
        6,
        80,
        8,
        0,
        0,
        3,
        4,
        b"\n".ljust(16, b"\0"),
        bytes(16),
    )
    assert Term(one="fd00::/64").packed()[:1] == b"\n" and Term(port=1).packed()[:1] == b"\0"


def setting(tmp_path: File, overall: t.Optional[str], own: str) -> str:
    (tmp_path / "sys/br/bridge").mkdir(parents=True)
    (tmp_path / "sys/br/bridge/nf_call_iptables").write_text(own)
    if overall is not None:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/bridge-nf-call-iptables").write_text(overall)
    return setting_words("br", "IPv4", str(tmp_path / "proc"), str(tmp_path / "sys"))


@pytest.mark.parametrize(
    "overall, own, words",
    [
        ("0\n", "0\n", "bridge-nf-call-iptables is 0 on br"),
        ("1\n", "0\n", ""),
        ("0\n", "1\n", ""),
        (None, "0\n", "br_netfilter is not loaded, so that nothing within br passes the host's hooks"),
    ],
)
def test_why_the_host_sees_nothing(tmp_path: File, overall: t.Optional[str], own: str, words: str) -> None:
    assert setting(tmp_path, overall, own) == words


def test_proxies() -> None:
    assert proxies(FACTS) == {("tcp", 8081): ("web", 8080)}
    assert proxies(dict(FACTS, docker={"userland_proxy": False})) == {}
    assert proxies(None) == {}


# The instance.


class Instance(tracefs.Instance):
    """On plain files: what the kernel makes in a new instance is made here."""

    def put(self, name: str, text: str) -> None:
        target = os.path.join(self.path, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        super().put(name, text)


@pytest.fixture
def top(tmp_path: File) -> File:
    (tmp_path / "instances").mkdir()
    (tmp_path / "events/bridgewarden").mkdir(parents=True)
    return tmp_path


def test_no_events_of_ours(tmp_path: File) -> None:
    (tmp_path / "instances").mkdir()
    with pytest.raises(BridgewardenError, match="no trace events here"):
        tracefs.Instance(str(tmp_path))


def test_tracefs_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: File) -> None:
    monkeypatch.setattr(tracefs, "TRACEFS", (str(tmp_path / "none"),))
    with pytest.raises(BridgewardenError, match="mount -t tracefs"):
        tracefs.Instance()


def test_instances_of_the_dead_are_swept_and_those_of_the_living_kept(top: File) -> None:
    dead = next(pid for pid in range(400000, 500000) if not os.path.exists("/proc/%d" % pid))
    for name in ("bridgewarden-%d-1" % dead, "bridgewarden-%d-1" % os.getpid(), "somebodys"):
        (top / "instances" / name).mkdir()
    tracefs.Instance(str(top))._sweep()
    assert sorted(os.listdir(str(top / "instances"))) == ["bridgewarden-%d-1" % os.getpid(), "somebodys"]


def test_an_instance_filters_by_its_trace_and_reads_whole_lines(
    top: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = Instance(str(top))
    path = top / "instances" / ("bridgewarden-%d-7" % os.getpid())
    mkdir = os.mkdir

    def made(name: str, mode: int = 0o777) -> None:
        mkdir(name, mode)
        os.mkfifo(os.path.join(name, "trace_pipe"))

    monkeypatch.setattr(tracefs.os, "mkdir", made)
    instance.open(7)
    monkeypatch.undo()
    assert (path / "events/bridgewarden/filter").read_text() == "trace == 7"
    assert path.stat().st_mode & 0o777 == 0o700
    writer = os.open(str(path / "trace_pipe"), os.O_WRONLY)
    os.write(writer, b"one\ntw")
    assert list(instance.lines(0.1)) == ["one"]
    os.write(writer, b"o\n")
    assert list(instance.lines(0.1)) == ["two"]
    os.close(writer)
    for cpu, overrun, dropped in (("cpu0", 3, 0), ("cpu1", 4, 5)):
        (path / "per_cpu" / cpu).mkdir(parents=True)
        text = "entries: 9\noverrun: %d\ncommit overrun: 2\ndropped events: %d\nread events: 1\n" % (
            overrun,
            dropped,
        )
        (path / "per_cpu" / cpu / "stats").write_text(text)
    assert instance.lost() == 16


def test_who_else_traces_keeps_the_names_of_processes(top: File) -> None:
    instance = Instance(str(top))
    assert instance._alone()
    (top / "set_event").write_text("sched:sched_switch\n")
    assert not instance._alone()
    (top / "set_event").write_text("")
    (top / "instances" / "somebodys").mkdir()
    assert not instance._alone()


def test_an_instance_does_not_outlive_who_is_killed(top: File) -> None:
    instance = top / "instances" / "mine"
    instance.mkdir()
    ready, tell = os.pipe()
    pid = os.fork()
    if not pid:
        tracefs._start_cleaner(str(instance))
        os.write(tell, b"x")
        time.sleep(60)
    os.close(tell)
    assert os.read(ready, 1) == b"x" and instance.exists()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    # Nobody else holds the other end: its heir let go of all it had.
    assert os.read(ready, 1) == b""
    end = time.monotonic() + 20
    while instance.exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert not instance.exists()


# A whole trace.


class Kernel:
    """Writes lines where the instance reads them, and says how the trace stands."""

    lines: t.List[str] = []
    report = TraceReport(1, "running", 9, 100, 0, 0)

    def __init__(self) -> None:
        self.closed = False
        self.asked: t.Any = None

    def open(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def trace_begin(self, *asked: t.Any) -> TraceReport:
        self.asked = asked
        return self.report

    def trace_get(self) -> TraceReport:
        return self.report

    def hooks(self, netns: int) -> t.List[HookRow]:
        return [
            HookRow("IPv4", "FORWARD", -225, "selinux_ip_forward", "", False),
            HookRow("IPv4", "FORWARD", -2147483648, "bw_trace_hook", "bridgewarden", True),
            HookRow("IPv4", "FORWARD", -2147483648, "bw_hook_forward", "bridgewarden", True),
        ]


class Fed(tracefs.Instance):
    """An instance that reads lines of a list, one a time."""

    fed: t.List[str] = []
    full = 0
    drained = True

    def __init__(self) -> None:
        self.path, self.closed = "x", False
        self.left = list(self.fed)
        self.put_there: t.List[t.Tuple[str, str]] = []

    def open(self, trace: int, drops: bool = True) -> None:
        pass

    def lines(self, seconds: float) -> t.Iterator[str]:
        if not self.left:
            time.sleep(0.02)
        while self.left:
            yield self.left.pop(0)

    def lost(self) -> int:
        return self.full

    def put(self, name: str, text: str) -> None:
        self.put_there.append((name, text))

    def close(self) -> None:
        self.closed = True


#: Seconds since boot of the machine they were recorded on, when the last of them was over.
RECORDED = 1860.0
STAMP = re.compile(r"(?<=\s)(\d+\.\d{6})(?=: )")


def stamped(name: str) -> t.List[str]:
    """A recording as if it had just been made here: how long a path has been silent goes by this machine's clock."""
    later = time.clock_gettime(time.CLOCK_MONOTONIC) - RECORDED
    text = (File(__file__).parent / "data" / f"{name}.txt").read_text()
    return STAMP.sub(lambda found: "%.6f" % (float(found.group()) + later), text).splitlines()


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> t.Type[Fed]:
    class Mine(Fed):
        pass

    monkeypatch.setattr(session, "Instance", Mine)
    monkeypatch.setattr(Trace, "_collect", lambda self: FACTS)
    monkeypatch.setattr(Kernel, "report", TraceReport(1, "running", 9, 100, 0, 0))
    return Mine


def run(options: TraceOptions) -> Json:
    return run_trace(options, t.cast(t.Any, Kernel))


def test_a_trace_ends_after_its_packets(fed: t.Type[Fed]) -> None:
    fed.fed = stamped("published")
    found = run(TraceOptions(packets=2))
    assert len(found["paths"]) == 2 and found["summary"]["ended"] == "packets" and found["schema"] == 1


@pytest.mark.parametrize(
    "connection, client, server",
    [
        ("10.9.0.1 40000 10.0.2.15 22", "10.9.0.1", "10.0.2.15"),
        ("::ffff:10.9.0.1 40000 ::ffff:10.0.2.15 22", "10.9.0.1", "10.0.2.15"),
        ("fe80::1%eth0 40000 fe80::2%eth0 22", "fe80::1", "fe80::2"),
    ],
)
def test_the_session_it_runs_in_is_left_out(
    fed: t.Type[Fed], monkeypatch: pytest.MonkeyPatch, connection: str, client: str, server: str
) -> None:
    """Also where other options ask for more, and not where it is asked for."""
    asked: t.List[t.List[Term]] = []

    def trace_begin(_self: Kernel, wanted: t.Sequence[Term], *_bounds: int) -> TraceReport:
        asked.append(list(wanted))
        return Kernel.report

    monkeypatch.setattr(Kernel, "trace_begin", trace_begin)
    monkeypatch.setattr(Kernel, "report", TraceReport(1, "time", 0, 16, 0, 0))
    monkeypatch.setenv("SSH_CONNECTION", connection)
    session = Term(6, 40000, client, server, leave_out=True)
    options = (TraceOptions(), TraceOptions(port=22), TraceOptions(include_session=True))
    notes = [" ".join(run(one)["summary"]["notes"]) for one in options]
    assert asked == [[session], [Term(port=22), session], []]
    assert [f"{client} port 40000" in note for note in notes] == [True, True, False]
    assert "--include-session" in notes[0]
    assert session.packed() != Term(6, 40000, client, server).packed()


@pytest.mark.parametrize("port", ["0", "65536"])
def test_a_session_of_an_impossible_port_is_none(monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    """In a term, port 0 is every port, and would leave out all connections of the two; 65536 does not fit in it."""
    for text, found in (("10.9.0.1 65535 10.0.2.15 22", True), (f"10.9.0.1 {port} 10.0.2.15 22", False)):
        monkeypatch.setenv("SSH_CONNECTION", text)
        monkeypatch.setattr(_sshd, "_environment", lambda _pid, _proc: {})
        assert (_sshd.controller_connection() is not None) is found


def test_a_filter_leaves_room_for_the_session(fed: t.Type[Fed], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: t.List[int] = []

    def trace_begin(_self: Kernel, wanted: t.Sequence[Term], *_bounds: int) -> TraceReport:
        asked.append(len(wanted))
        return Kernel.report

    def published(number: int) -> Json:
        ports = [dict(PUBLISHED, HostPort=port) for port in range(1, number + 1)]
        return dict(FACTS, containers=[container("web", ports=ports)])  # and its namespace and address

    monkeypatch.setattr(Kernel, "trace_begin", trace_begin)
    monkeypatch.setattr(Kernel, "report", TraceReport(1, "time", 0, 16, 0, 0))
    monkeypatch.setenv("SSH_CONNECTION", "10.9.0.1 40000 10.0.2.15 22")
    monkeypatch.setattr(Trace, "_collect", lambda self: published(MAX_TERMS - 3))
    run(TraceOptions(container="web"))
    assert asked == [MAX_TERMS]
    monkeypatch.setattr(Trace, "_collect", lambda self: published(MAX_TERMS - 2))
    with pytest.raises(BridgewardenError, match="the filter names 64 places, a trace takes 63"):
        run(TraceOptions(container="web"))
    assert asked == [MAX_TERMS]


def test_a_trace_ends_with_the_kernels(fed: t.Type[Fed], monkeypatch: pytest.MonkeyPatch) -> None:
    fed.fed = stamped("nftdrop")
    monkeypatch.setattr(Kernel, "report", TraceReport(1, "time", 0, 16, 0, 0))
    found = run(TraceOptions())
    assert found["summary"]["ended"] == "time"
    assert [path["outcome"] for path in found["paths"]] == ["dropped"]


def test_only_what_was_dropped(fed: t.Type[Fed], monkeypatch: pytest.MonkeyPatch) -> None:
    fed.fed = stamped("bridge1") + stamped("nftdrop")
    monkeypatch.setattr(Kernel, "report", TraceReport(1, "time", 0, 16, 0, 0))
    assert [path["outcome"] for path in run(TraceOptions(dropped=True))["paths"]] == ["dropped"]


def test_what_is_missing_is_said(fed: t.Type[Fed], monkeypatch: pytest.MonkeyPatch) -> None:
    fed.fed, fed.full = [], 5
    monkeypatch.setattr(Kernel, "report", TraceReport(1, "events", 0, 1000, 77, 2))
    monkeypatch.setattr(Trace, "_collect", lambda self: None)
    summary = run(TraceOptions(rate=10))["summary"]
    assert (summary["withheld"], summary["lost"], summary["blind"], summary["ended"]) == (77, 5, 2, "events")
    notes = "\n".join(summary["notes"])
    for words in (
        "77 events were kept back by the rate of 10 a second",
        "5 events were lost",
        "2 namespaces",
        "1000 events",
        "Docker",
    ):
        assert words in notes


def test_a_gap_is_no_loss_that_is_somebodys(fed: t.Type[Fed], monkeypatch: pytest.MonkeyPatch) -> None:
    fed.fed = [line for line in stamped("nftdrop") if "kfree_skb" not in line]
    monkeypatch.setattr(Kernel, "report", TraceReport(1, "time", 0, 16, 3, 0))
    (path,) = run(TraceOptions())["paths"]
    assert path["outcome"] == "lost" and path["sentence"].endswith("; or events are missing, see the summary")


def test_a_bound_on_events_cuts(fed: t.Type[Fed], monkeypatch: pytest.MonkeyPatch) -> None:
    fed.fed = stamped("nftdrop")[:5]
    monkeypatch.setattr(Kernel, "report", TraceReport(1, "events", 0, 5, 0, 0))
    assert [path["outcome"] for path in run(TraceOptions())["paths"]] == ["unfinished"]


def test_more_than_can_be_read_does_not_stop_the_rest(top: File, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = Instance(str(top))
    (top / "endless").write_bytes(b"x\n" * (1 << 19))
    monkeypatch.setattr(tracefs, "MAX_READS", 4)
    instance._pipe = os.open(str(top / "endless"), os.O_RDONLY)
    assert len(list(instance.lines(0))) == 4 * (1 << 15) and not instance.drained
    while not instance.drained:
        assert list(instance.lines(0)) or instance.drained
    os.close(instance._pipe)


def test_a_flood_of_others_drops_is_shut_off(fed: t.Type[Fed], monkeypatch: pytest.MonkeyPatch) -> None:
    line = "  x-1 [000] ..s1.  1.5: kfree_skb: skbaddr=%d protocol=2048 location=ffff reason: NO_SOCKET"
    fed.fed = [line % i for i in range(MAX_DROPS_PER_SECOND + 2)]
    with Trace(TraceOptions(), t.cast(t.Any, Kernel)) as trace:
        paths = trace.paths()
        monkeypatch.setattr(Kernel, "report", TraceReport(1, "time", 0, 0, 0, 0))
        assert list(paths) == []
        assert ("events/skb/kfree_skb/enable", "0") in t.cast(t.Any, trace._instance).put_there
        assert any("switched off" in note for note in trace.summary()["notes"])


def test_a_trace_that_is_stopped_tells_what_has_come(fed: t.Type[Fed]) -> None:
    fed.fed = stamped("nftdrop")
    with Trace(TraceOptions(), t.cast(t.Any, Kernel)) as trace:
        trace.stop()
        assert [path["outcome"] for path in trace.paths()] == ["dropped"]
        assert trace.summary()["ended"] == "stopped"


def test_whatever_happens_the_trace_is_closed(fed: t.Type[Fed]) -> None:
    kernels: t.List[Kernel] = []

    def made() -> t.Any:
        kernels.append(Kernel())
        return kernels[-1]

    with pytest.raises(ZeroDivisionError), Trace(TraceOptions(), made) as trace:
        raise ZeroDivisionError
    assert kernels[0].closed and t.cast(t.Any, trace._instance).closed


def test_what_cannot_be_traced_is_told_and_closed(fed: t.Type[Fed]) -> None:
    kernels: t.List[Kernel] = []

    class Missing(Kernel):
        def open(self) -> None:
            raise ModuleMissing("the kernel module bridgewarden is not loaded")

    def made() -> t.Any:
        kernels.append(Kernel())
        return kernels[-1]

    with pytest.raises(ModuleMissing):
        Trace(TraceOptions(), t.cast(t.Any, Missing))
    wrong = ("seconds", 3601), ("seconds", 0), ("port", 65536), ("rate", 0), ("events", -1), ("packets", -1)
    for options in [TraceOptions(container="wbe")] + [TraceOptions(**{name: value}) for name, value in wrong]:
        with pytest.raises(BridgewardenError), Trace(options, made):
            pass
        assert kernels[-1].closed and kernels[-1].asked is None


def test_who_stands_at_the_hooks_is_told_without_the_tracers_own(
    fed: t.Type[Fed], monkeypatch: pytest.MonkeyPatch
) -> None:
    fed.fed = [line.replace("4026531840", str(OWN)) for line in stamped("nftdrop")]
    monkeypatch.setattr(Kernel, "report", TraceReport(1, "time", 0, 16, 0, 0))
    found = run(TraceOptions())
    assert [row["function"] for row in found["hooks"]["host"]] == ["selinux_ip_forward", "bw_hook_forward"]


def test_docker_proxys_own_connection_joins_the_clients(
    fed: t.Type[Fed], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = stamped("proxy")
    host = next(
        line
        for line in lines
        if "dev=0:" in line and "dst=fd00:db8:11::10" in line and "hook=LOCAL_OUT" in line
    )
    inside = next(line for line in lines if "hook=LOCAL_IN" in line and "dst=fd00:db8:11::10" in line)
    ids = [int(line.split("netns=")[1].split()[0]) for line in (host, inside)]
    fed.fed = lines
    facts = dict(FACTS, containers=[container("alpha", ports=[dict(PUBLISHED, HostPort=18080)])])
    monkeypatch.setattr(Trace, "_collect", lambda self: facts)
    monkeypatch.setattr(Kernel, "report", TraceReport(1, "time", 0, 16, 0, 0))
    monkeypatch.setattr(
        Namespaces,
        "refresh",
        lambda self: setattr(self, "facts", facts) or self.names.update({ids[0]: "host", ids[1]: "alpha"}),
    )
    syns = [path for path in run(TraceOptions())["paths"] if path["detail"] == "tcp SYN"]
    assert [path["outcome"] for path in syns] == ["proxied", "delivered"]
    assert syns[0]["conversation"] == syns[1]["conversation"]
    assert "docker-proxy carries this connection" in syns[1]["sentence"]


# Files.


def test_a_record_is_its_owners_alone(tmp_path: File) -> None:
    target = tmp_path / "r.json"
    target.write_text("old")
    target.chmod(0o644)
    write_private(str(target), json.dumps({"schema": 1, "paths": []}))
    assert target.stat().st_mode & 0o777 == 0o600
    assert read_record(str(target))["paths"] == []


@pytest.mark.parametrize(
    "text, words", [("{", "no record"), ('{"schema": 2}', "of this release"), ("[]", "of this release")]
)
def test_other_files_are_no_records(tmp_path: File, text: str, words: str) -> None:
    (tmp_path / "x").write_text(text)
    with pytest.raises(BridgewardenError, match=words):
        read_record(str(tmp_path / "x"))
    with pytest.raises(BridgewardenError, match="cannot read"):
        read_record(str(tmp_path / "none"))
    with pytest.raises(BridgewardenError, match="cannot write"):
        write_private(str(tmp_path / "none" / "x"), "")
