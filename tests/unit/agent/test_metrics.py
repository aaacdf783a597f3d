# SPDX-License-Identifier: GPL-3.0-or-later
"""The metrics, read back by Prometheus's own parsers: the library's, and promtool where it is installed."""

from __future__ import annotations

import io
import json
import re
import socket
import stat
import struct
import subprocess
import time
import typing as t
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._abi import REASON_MAX
from ansible_collections.bridgewarden.docker.plugins.module_utils._agent import metrics as metrics
from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.daemon import State
from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.journal import Log
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    BridgewardenError,
    ModuleMissing,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.replies import (
    EndpointRow,
    Info,
    RuleRow,
    UnmanagedRow,
)

pytest.importorskip("prometheus_client")
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[3]
DASHBOARD = ROOT / "docs" / "grafana" / "bridgewarden.json"


class FakeKernel:
    missing = False

    def __enter__(self) -> FakeKernel:
        if self.missing:
            raise ModuleMissing("the kernel module is not loaded", "netlink", "load it")
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def info(self) -> Info:
        return Info(
            "0.1.0", 4, "enforce", {}, "ab" * 32, "cd" * 32, 30, ("docker0",), (1, 2), {"rules": 3}, 1, 1,
            log_swallowed=7, sealed=True, unmanaged_lost=8,
        )  # fmt: skip

    def rules(self) -> t.List[RuleRow]:
        return [
            RuleRow(2, 0, "default for container to container", "deny", 5, 300),
            RuleRow(6, 0, "unmanaged", "deny", 12, 720),
            RuleRow(REASON_MAX - 1, 0, "of a newer module", "allow", 1, 60),
            RuleRow(REASON_MAX, 99, 'a "quoted" \\\\ rule\u00e9', "allow", 1234, 99999),
            RuleRow(REASON_MAX + 1, 98, "x" * 63, "deny", 1, 40),
            RuleRow(REASON_MAX + 2, 97, "x" * 63, "deny", 2, 80),
        ]

    def unmanaged(self) -> t.List[UnmanagedRow]:
        return [UnmanagedRow("10.13.13.%d" % n, "", 1, 1, 3, 0) for n in range(4)]

    def endpoints(self) -> t.List[EndpointRow]:
        return [EndpointRow("172.18.0.2", 3, 1, 0)]


@pytest.fixture
def state() -> State:
    state = State(docker_reachable=True, planned=3, stuck=1)
    for lag in (0.02, 0.02, 7.0, 99.0):
        state.synced(lag)
    state.failed("docker")
    return state


@pytest.fixture
def kernel() -> t.Type[FakeKernel]:
    class Mine(FakeKernel):
        pass

    return Mine


@pytest.fixture
def collector(state: State, kernel: t.Any) -> metrics.Collector:
    return metrics.Collector(state, kernel)


def parsed(text: str) -> t.Dict[t.Tuple[str, ...], float]:
    """(name, labels' values in the order of METRICS) -> value."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name.replace("bridgewarden_", "", 1)
            order = metrics.METRICS.get(name, ("", tuple(sample.labels), ""))[1]
            assert set(order) == set(sample.labels)
            found[(name, *(sample.labels[label] for label in order))] = sample.value
    return found


def text_of(collector: metrics.Collector) -> str:
    from prometheus_client import generate_latest

    return generate_latest(metrics.registry(collector)).decode()


def test_every_value_comes_out_as_it_went_in(collector: metrics.Collector, state: State) -> None:
    found = parsed(text_of(collector))
    for name, value in {
        ("up",): 1, ("info", "0.1.0", "enforce", "forward"): 1, ("enforcing",): 1, ("generation",): 4,
        ("rule_packets_total", 'a "quoted" \\\\ rule\u00e9', "allow"): 1234,
        ("rule_bytes_total", 'a "quoted" \\\\ rule\u00e9', "allow"): 99999,
        ("rule_packets_total", "x" * 63, "deny"): 3,
        ("default_packets_total", "inter_container", "deny"): 5,
        ("default_bytes_total", "inter_container", "deny"): 300,
        ("reason_packets_total", "unmanaged", "deny"): 12, ("reason_bytes_total", "unmanaged", "deny"): 720,
        ("reason_packets_total", "63", "allow"): 1,
        ("unmanaged_senders",): 4, ("unmanaged_lost_total",): 8,
        ("endpoints",): 1, ("unmanaged_endpoints",): 2, ("rules",): 3, ("guarded_links",): 2,
        ("hooks_in_place",): 1, ("sealed",): 1, ("confirm_remaining_seconds",): 30, ("log_swallowed_total",): 7,
        ("docker_reachable",): 1, ("stuck_containers",): 1, ("sync_failures_total", "docker"): 1,
        ("last_lag_seconds",): 99, ("lag_seconds_count",): 4, ("lag_seconds_bucket", "0.025"): 2,
        ("lag_seconds_bucket", "0.01"): 0, ("lag_seconds_bucket", "10.0"): 3, ("lag_seconds_bucket", "+Inf"): 4,
    }.items():  # fmt: skip
        assert found[name] == value, name
    assert abs(found[("last_sync_timestamp_seconds",)] - time.time()) < 60
    assert found[("lag_seconds_sum",)] == pytest.approx(106.04)


def test_all_that_is_described_is_exported_and_nothing_else(collector: metrics.Collector) -> None:
    plain = re.compile(r"_(bucket|sum|count)$")
    names = {plain.sub("", name) for name, *_labels in parsed(text_of(collector))}
    assert names == set(metrics.METRICS)


def test_without_the_module_what_the_agent_knows_remains(
    collector: metrics.Collector, kernel: t.Type[FakeKernel]
) -> None:
    kernel.missing = True
    found = parsed(text_of(collector))
    assert found[("up",)] == 0 and found[("docker_reachable",)] == 1
    assert ("generation",) not in found and ("endpoints",) not in found


def test_promtool_finds_nothing_to_say(collector: metrics.Collector) -> None:
    def check(text: str) -> str:
        argv = ["promtool", "check", "metrics"]
        done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    assert check(text_of(collector)) == ""
    assert check("bridgewarden_packets_total 1\n# TYPE x gauge\nx_total 1\n") != ""


# The file


def test_the_file_is_whole_and_node_exporter_may_read_it(
    collector: metrics.Collector, tmp_path: Path
) -> None:
    path = tmp_path / "bridgewarden.prom"
    textfile = metrics.Textfile(collector, str(path), Log(io.StringIO()))
    textfile(True)
    assert parsed(path.read_text())[("generation",)] == 4
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [path]
    before = path.stat().st_ino
    textfile(True)
    textfile(False)
    assert path.stat().st_ino == before  # not twice within a second
    textfile._wrote = time.monotonic() - metrics.TEXTFILE_MIN_SECONDS - 0.1
    textfile(False)
    assert path.stat().st_ino == before
    textfile(True)
    assert path.stat().st_ino != before


def test_a_missing_folder_is_told_once_and_stops_nothing(
    collector: metrics.Collector, tmp_path: Path
) -> None:
    out = io.StringIO()
    textfile = metrics.Textfile(collector, str(tmp_path / "no" / "x.prom"), Log(out))
    for _time in range(3):
        textfile._wrote = None
        textfile(True)
    (line,) = out.getvalue().splitlines()
    assert (
        line.startswith("<4>the metrics cannot be written: No such file")
        and "prometheus-node-exporter" in line
    )
    (tmp_path / "no").mkdir()
    textfile._wrote = None
    textfile(True)
    assert (tmp_path / "no" / "x.prom").exists()


def test_a_file_that_cannot_be_made_is_told_once_and_made_later(
    collector: metrics.Collector, kernel: t.Type[FakeKernel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.StringIO()
    textfile = metrics.Textfile(collector, str(tmp_path / "x.prom"), Log(out))
    with monkeypatch.context() as broken:
        broken.setattr(kernel, "rules", lambda _self: 1 // 0)
        for _time in range(3):
            textfile._wrote = None
            assert textfile(True) is False
            assert textfile(True) is False  # nothing to do yet is no success
    (line,) = out.getvalue().splitlines()
    assert line.startswith("<3>a mistake in the metrics, ZeroDivisionError")
    assert list(tmp_path.iterdir()) == []
    textfile._wrote = None
    assert textfile(True) is True
    assert (tmp_path / "x.prom").exists()
    assert out.getvalue().splitlines()[1:] == ["<5>the metrics are all right again"]


def test_an_exporter_that_cannot_begin_ends_nothing(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "registry", lambda _collector: {}["boom"])
    for kind in ("textfile", "http"):
        out = io.StringIO()
        publish = metrics.exporter(kind, state, Log(out), str(tmp_path / "x"), "127.0.0.1:0")
        publish(True)
        assert "KeyError: 'boom'" in out.getvalue() and "the rules are followed" in out.getvalue()


# The page


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return t.cast(str, answer.read().decode())


@pytest.fixture
def said() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def port(collector: metrics.Collector, said: io.StringIO) -> t.Iterator[int]:
    number = free_port()
    with pytest.raises(urllib.error.URLError):
        get(number)
    page = metrics.MetricsPage(collector, f"127.0.0.1:{number}", Log(said))
    yield number
    page.server.shutdown()
    page.server.server_close()


def test_a_scrape_asks_the_kernel_anew(port: int, kernel: t.Type[FakeKernel]) -> None:
    assert parsed(get(port))[("up",)] == 1
    kernel.missing = True
    assert parsed(get(port))[("up",)] == 0


def test_a_scrape_that_fails_is_told_once_and_the_next_one_answered(
    port: int,
    kernel: t.Type[FakeKernel],
    said: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(kernel, "rules", lambda _self: 1 // 0)
        for _time in range(3):
            with pytest.raises(urllib.error.HTTPError, match="500"):
                get(port)
    (line,) = said.getvalue().splitlines()
    assert line.startswith("<3>a mistake in the metrics, ZeroDivisionError")
    assert parsed(get(port))[("up",)] == 1
    assert said.getvalue().splitlines()[1:] == ["<5>the metrics are all right again"]
    assert capfd.readouterr().err == ""  # no traceback beside the journal's field


def test_a_client_that_goes_away_is_no_news(port: int, capfd: pytest.CaptureFixture[str]) -> None:
    for _time in range(3):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
    assert parsed(get(port))[("up",)] == 1
    assert capfd.readouterr().err == ""


def test_a_client_that_says_nothing_does_not_hold_up_others(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics.QuietHandler, "timeout", 0.2)
    with socket.create_connection(("127.0.0.1", port)):
        assert parsed(get(port))[("up",)] == 1


def test_an_address_in_use_is_told_and_stops_nothing(port: int, state: State) -> None:
    out = io.StringIO()
    publish = metrics.exporter("http", state, Log(out), "", f"127.0.0.1:{port}")
    publish(True)
    assert "already in use" in out.getvalue() and "the rules are followed" in out.getvalue()


@pytest.mark.parametrize("listen", ["9899", ":9899", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000"])
def test_a_bad_address_is_told(listen: str) -> None:
    with pytest.raises(BridgewardenError, match="write it as"):
        metrics.listen_address(listen)
    assert metrics.listen_address("[::1]:9899") == ("::1", 9899)


def test_prometheus_itself_scrapes_it(port: int, tmp_path: Path) -> None:
    (tmp_path / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s}\nscrape_configs:\n"
        f"  - {{job_name: bridgewarden, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}\n"
    )
    web = free_port()
    argv = ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
    server = subprocess.Popen(
        [*argv, f"--web.listen-address=127.0.0.1:{web}"], cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        found: t.List[t.Any] = []
        while not found and time.monotonic() < deadline:
            time.sleep(0.5)
            try:
                query = f"http://127.0.0.1:{web}/api/v1/query?query=bridgewarden_generation"
                with urllib.request.urlopen(query, timeout=5) as answer:
                    found = json.load(answer)["data"]["result"]
            except OSError:
                continue
        assert found and found[0]["value"][1] == "4"
        for expression in expressions():  # each question of the dashboard is one that Prometheus understands
            plain = expression.replace("$__rate_interval", "5m").replace("$instance", ".*")
            quoted = urllib.parse.quote(plain)
            with urllib.request.urlopen(
                f"http://127.0.0.1:{web}/api/v1/query?query={quoted}", timeout=5
            ) as answer:
                assert json.load(answer)["status"] == "success"
    finally:
        server.terminate()
        server.wait(20)


# The dashboard


def expressions() -> t.List[str]:
    board = json.loads(DASHBOARD.read_text())
    return [target["expr"] for panel in board["panels"] for target in panel["targets"]]


def test_the_dashboard_asks_for_what_there_is(collector: metrics.Collector) -> None:
    exported = {"bridgewarden_" + name for name, *_labels in parsed(text_of(collector))}
    board = json.loads(DASHBOARD.read_text())
    words = [
        *expressions(),
        *(v["query"]["query"] for v in board["templating"]["list"] if isinstance(v["query"], dict)),
    ]
    asked = {name for text in words for name in re.findall(r"bridgewarden_\w+", text)}
    assert len(asked) > 15 and asked <= exported
    assert "bridgewarden_nonsense" not in exported
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)


def test_the_labels_the_dashboard_uses_exist() -> None:
    for expression in expressions():
        names = re.findall(r"bridgewarden_(\w+)", expression)
        for labels in re.findall(r"by \(([^)]*)\)", expression):
            for label in labels.replace(" ", "").split(","):
                known = {one for name in names for one in metrics.METRICS.get(name, ("", (), ""))[1]}
                assert label in known | {"le", "instance"}, expression
