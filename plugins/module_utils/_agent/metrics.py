# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The agent's metrics for Prometheus: a file for node_exporter, or a page over HTTP.

The kernel is asked when somebody scrapes, or when the file is written.  Needs
python3-prometheus-client, which is imported on use only.  Metrics that fail
never hold up the rules: each way out of here goes through a Guard.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import socket
import threading
import time
import typing as t
import wsgiref.simple_server

from ansible_collections.bridgewarden.docker.plugins.module_utils._abi import DirectionClass, Reason
from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.journal import FaultBarrier, Log
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    BridgewardenError,
    LibraryMissing,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.replies import Info, RuleRow
from ansible_collections.bridgewarden.docker.plugins.module_utils._system import write_atomically

if t.TYPE_CHECKING:
    from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.daemon import State


#: Between two files where nothing happens, and the shortest time between two.
TEXTFILE_IDLE_SECONDS = 15.0
TEXTFILE_MIN_SECONDS = 1.0

METRIC_PREFIX = "bridgewarden_"
METRICS_NAME = "the metrics"

#: name -> type, labels, meaning. Everything that is exported stands here.
METRICS: t.Dict[str, t.Tuple[str, t.Tuple[str, ...], str]] = {
    "up": ("gauge", (), "Whether the kernel module answers."),
    "info": (
        "gauge",
        ("version", "mode", "placement"),
        "Always 1; the module's version, mode and placement.",
    ),
    "enforcing": (
        "gauge",
        (),
        "Whether what is denied is dropped: a ruleset is in force and its mode is enforce.",
    ),
    "generation": ("gauge", (), "Generation of the ruleset in force; 0: none, the guards are closed."),
    "rule_packets_total": ("counter", ("rule", "action"), "Packets that a rule decided about."),
    "rule_bytes_total": ("counter", ("rule", "action"), "Bytes that a rule decided about."),
    "default_packets_total": ("counter", ("class", "action"), "Packets of a direction class without a rule."),
    "default_bytes_total": ("counter", ("class", "action"), "Bytes of a direction class without a rule."),
    "reason_packets_total": (
        "counter",
        ("reason", "action"),
        "Packets that a built-in reason decided about.",
    ),
    "reason_bytes_total": ("counter", ("reason", "action"), "Bytes that a built-in reason decided about."),
    "endpoints": ("gauge", (), "Container addresses that the kernel knows."),
    "unmanaged_endpoints": (
        "gauge",
        (),
        "Container addresses of the plan that the kernel does not know: closed.",
    ),
    "unmanaged_senders": (
        "gauge",
        (),
        "Addresses that send behind a guard and that nobody knows: closed. At most 1024 are listed.",
    ),
    "unmanaged_lost_total": ("counter", (), "Packets of such senders that found no place in the list."),
    "rules": ("gauge", (), "Rules of the ruleset in force."),
    "guarded_links": ("gauge", (), "Links whose traffic is judged now."),
    "hooks_in_place": ("gauge", (), "Whether our hooks run before everybody else's."),
    "sealed": ("gauge", (), "Whether nothing changes until reboot."),
    "confirm_remaining_seconds": (
        "gauge",
        (),
        "Until an unconfirmed commit rolls itself back; 0: none is open.",
    ),
    "log_swallowed_total": ("counter", (), "Log lines that the rate limit kept back."),
    "docker_reachable": ("gauge", (), "Whether dockerd answered when it was last asked."),
    "stuck_containers": ("gauge", (), "Containers that dockerd does not answer about."),
    "last_sync_timestamp_seconds": (
        "gauge",
        (),
        "When kernel, policy and Docker were last found or brought in step.",
    ),
    "sync_failures_total": ("counter", ("kind",), "Syncs that failed, by the kind of the error."),
    "lag_seconds": ("histogram", (), "From a link's carrier, or Docker's event, to the kernel in step."),
    "last_lag_seconds": ("gauge", (), "The last of these."),
}

Samples = t.Dict[str, t.Dict[t.Tuple[str, ...], float]]


class Collector:
    """What prometheus_client asks at each scrape."""

    def __init__(self, state: State, kernel_factory: t.Callable[[], Kernel] = Kernel) -> None:
        self.state = state
        self.kernel_factory = kernel_factory

    def collect(self) -> t.Iterator[t.Any]:
        from prometheus_client import core

        classes = {"gauge": core.GaugeMetricFamily, "counter": core.CounterMetricFamily}
        samples = self.samples()
        for name, (kind, labels, words) in METRICS.items():
            if kind == "histogram":
                yield self._lag(core.HistogramMetricFamily(METRIC_PREFIX + name, words))
                continue
            values = samples.get(name)
            if values is None:
                continue
            family = classes[kind](METRIC_PREFIX + name, words, labels=labels)
            for of, value in sorted(values.items()):
                family.add_metric(of, value)
            yield family

    def _lag(self, family: t.Any) -> t.Any:
        state, buckets, so_far = self.state, [], 0
        for limit, count in zip((*state.BUCKETS, None), state.lag_counts):
            so_far += count
            buckets.append(("+Inf" if limit is None else str(limit), so_far))
        family.add_metric((), buckets, sum_value=state.lag_sum)
        return family

    def samples(self) -> Samples:
        found = self._of_state()
        try:
            with self.kernel_factory() as kernel:
                found.update(of_kernel(kernel.info(), kernel.rules()))
                alive = len(kernel.endpoints())
                found["unmanaged_senders"] = {(): len(kernel.unmanaged())}
        except BridgewardenError:
            found["up"] = {(): 0}
        else:
            found["up"] = {(): 1}
            found["endpoints"] = {(): alive}
            found["unmanaged_endpoints"] = {(): max(self.state.planned - alive, 0)}
        return found

    def _of_state(self) -> Samples:
        state = self.state
        return {
            "docker_reachable": {(): state.docker_reachable},
            "stuck_containers": {(): state.stuck},
            "last_sync_timestamp_seconds": {(): state.last_sync},
            "sync_failures_total": {(kind,): count for kind, count in list(state.failures.items())},
            "last_lag_seconds": {(): state.lag_last},
        }


def of_kernel(info: Info, rules: t.Sequence[RuleRow]) -> Samples:
    found: Samples = {
        "info": {(info.version, info.mode, info.placement): 1},
        "enforcing": {(): info.generation > 0 and info.mode == "enforce"},
        "generation": {(): info.generation},
        "rules": {(): info.counts.get("rules", 0)},
        "guarded_links": {(): len(info.guard_links)},
        "hooks_in_place": {(): info.hooks_in_place},
        "sealed": {(): info.sealed},
        "confirm_remaining_seconds": {(): info.confirm_remaining},
        "log_swallowed_total": {(): info.log_swallowed},
        "unmanaged_lost_total": {(): info.unmanaged_lost},
    }
    for rule in rules:
        kind, label = rule_kind(rule)
        for what, value in (("packets", rule.packets), ("bytes", rule.bytes)):
            values = found.setdefault(f"{kind}_{what}_total", {})
            # The kernel cuts long names: two rules may have one.
            values[label, rule.action] = values.get((label, rule.action), 0) + value
    return found


def rule_kind(rule: RuleRow) -> t.Tuple[str, str]:
    if not rule.builtin:
        return "rule", rule.name
    if rule.index < len(DirectionClass):
        return "default", DirectionClass(rule.index).name.lower()
    known = rule.index in set(Reason)
    return "reason", Reason(rule.index).name.lower() if known else str(rule.index)


# Where they go


def registry(collector: Collector) -> t.Any:
    try:
        from prometheus_client import CollectorRegistry
    except ImportError:
        raise LibraryMissing(
            "the metrics' library for Python is not installed",
            "import prometheus_client",
            "install the package python3-prometheus-client, or set bridgewarden_metrics to none",
        )
    one = CollectorRegistry()
    one.register(collector)
    return one


class Textfile:
    """Writes the file whole or not at all."""

    def __init__(self, collector: Collector, path: str, log: Log) -> None:
        self._registry = registry(collector)
        self._path = path
        self._barrier = FaultBarrier(log, METRICS_NAME)
        self._wrote: t.Optional[float] = None

    def __call__(self, news: bool) -> bool:
        """Called after each sync, and now and then; whether it wrote."""
        now = time.monotonic()
        if self._wrote is not None and now - self._wrote < (
            TEXTFILE_MIN_SECONDS if news else TEXTFILE_IDLE_SECONDS
        ):
            return False
        self._wrote = now
        return self._barrier(self.write, False)

    def write(self) -> bool:
        from prometheus_client import generate_latest

        content = generate_latest(self._registry)
        try:
            # node_exporter reads *.prom, which the temporary name is not, and is not root.
            write_atomically(self._path, content, 0o644, durable=False)
        except OSError as error:
            raise BridgewardenError(
                f"the metrics cannot be written: {error.strerror}",
                self._path,
                "install prometheus-node-exporter or name another file, and restart bridgewarden-agent",
            )
        return True


class Server(wsgiref.simple_server.WSGIServer):
    def handle_error(self, *dummy: t.Any) -> None:
        """A client that went away is no news."""


class QuietHandler(wsgiref.simple_server.WSGIRequestHandler):
    timeout = 5  # a client that says nothing must not hold up the next one

    def log_message(self, *dummy: t.Any) -> None:
        """A scrape is no news."""


class MetricsPage:
    """Answers scrapes in a thread of its own."""

    def __init__(self, collector: Collector, listen: str, log: Log) -> None:
        from_registry = registry(collector)
        from prometheus_client import make_wsgi_app

        self._answer = make_wsgi_app(from_registry)
        self._barrier = FaultBarrier(log, METRICS_NAME)
        host, port = listen_address(listen)
        server_class = type(
            "ServerOfItsFamily",
            (Server,),
            {"address_family": socket.AF_INET6 if ":" in host else socket.AF_INET},
        )
        try:
            self.server: wsgiref.simple_server.WSGIServer = wsgiref.simple_server.make_server(
                host, port, self._app, server_class, handler_class=QuietHandler
            )
        except OSError as error:
            raise BridgewardenError(
                f"the metrics cannot be served: {error.strerror}",
                listen,
                "name a free address and port in bridgewarden_metrics_listen",
            )
        threading.Thread(target=self.server.serve_forever, name="metrics", daemon=True).start()

    def _app(self, environ: t.Any, start_response: t.Any) -> t.List[bytes]:
        # The library collects before it begins the answer, so there is still one to give.
        found: t.List[bytes] = self._barrier(lambda: list(self._answer(environ, start_response)), [])
        if not found:
            start_response("500 Internal Server Error", [("Content-Type", "text/plain; charset=utf-8")])
            found = [b"the metrics could not be collected, see 'journalctl -t bridgewarden'\n"]
        return found

    def __call__(self, news: bool) -> bool:
        """The kernel is asked when somebody scrapes."""
        return False


def listen_address(listen: str) -> t.Tuple[str, int]:
    """ "127.0.0.1:9899", "[::1]:9899"."""
    host, _colon, port = listen.rpartition(":")
    if not host or not port.isdigit() or not 0 <= int(port) < 65536:
        raise BridgewardenError(
            f"{listen!r} is no address and port", "metrics", "write it as 127.0.0.1:9899 or [::1]:9899"
        )
    return host.strip("[]"), int(port)


def exporter(kind: str, state: State, log: Log, textfile: str, listen: str) -> t.Callable[[bool], bool]:
    """textfile or http; called by the agent after each sync (True) and while it waits (False)."""
    collector = Collector(state)
    try:
        return (
            Textfile(collector, textfile, log) if kind == "textfile" else MetricsPage(collector, listen, log)
        )
    except Exception as error:
        FaultBarrier(log, METRICS_NAME).report(error, "; there are no metrics, the rules are followed")
        return lambda _news: False
