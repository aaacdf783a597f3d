# SPDX-License-Identifier: GPL-3.0-or-later
"""The one default of the guards, and the texts that recommend a value."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import BridgewardenError
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.bridges import check_guards
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.model import GUARDS
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.parse import normalise

pytest.importorskip("ansible")
yaml = pytest.importorskip("yaml")

from ansible_collections.bridgewarden.docker.plugins.modules import bridge_netfilter, kernel_module

ROLE = Path(__file__).resolve().parents[3] / "roles" / "common"


def test_the_default_is_the_same_everywhere() -> None:
    assert normalise({}).guards == tuple(sorted(GUARDS))
    defaults = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
    assert defaults["bridgewarden_guards"] == list(GUARDS)
    spec = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text())
    assert spec["argument_specs"]["main"]["options"]["bridgewarden_guards"]["default"] == list(GUARDS)
    assert yaml.safe_load(bridge_netfilter.DOCUMENTATION)["options"]["guards"]["default"] == list(GUARDS)


def test_each_text_that_recommends_guards_names_the_default() -> None:
    """br-* also matches br-lan, br-ex and br-mgmt, over which a host may be managed."""
    with pytest.raises(BridgewardenError) as loopback:
        normalise({"guards": ["l?"]})
    with pytest.raises(BridgewardenError) as no_pattern:
        check_guards(["a/b"])
    closed = yaml.safe_load(kernel_module.EXAMPLES)[0]["bridgewarden.docker.kernel_module"]
    assert closed["reload_parameters"]["closed"] == list(GUARDS)
    for text in (loopback.value.hint, no_pattern.value.hint):
        assert GUARDS[0] in text and "br-*" not in text
