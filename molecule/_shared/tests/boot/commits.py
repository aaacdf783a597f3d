# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs in the machine: commits one policy after another, each written to the disk, until somebody cuts the power.

    python3 commits.py COMMAND      COMMAND is the installed zipapp, whose library is used

Prints one line for each commit.
"""

import sys

sys.path.insert(0, sys.argv[1])

from ansible_collections.bridgewarden.docker.plugins.module_utils import _engine as engine
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker import collect
from ansible_collections.bridgewarden.docker.plugins.module_utils._light import pyroute2_parts
from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink import Kernel
from ansible_collections.bridgewarden.docker.plugins.module_utils._store import Store

pyroute2_parts()
store = Store()
policy = store.read_policy()
facts = collect()
options = engine.Options(on_empty_selector="ignore", force=True)
own = [rule for rule in policy["rules"] if not rule["name"].startswith("more ")]
for number in range(10000):
    # Long enough to take several blocks on the disk; none of it concerns the pairs that the test probes.
    more = [
        {
            "name": f"more {number} {index}",
            "from": [f"192.0.2.{index}/32"],
            "to": ["host"],
            "ports": ["9/tcp"],
        }
        for index in range(number % 200)
    ]
    with Kernel() as kernel:
        result = engine.apply(
            engine.plan({**policy, "rules": own + more}, facts, options), kernel, store, options=options
        )
    print(number, result.generation, flush=True)
