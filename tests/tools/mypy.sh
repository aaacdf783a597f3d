#!/usr/bin/env bash
# Types of the library, the lab, the benchmark, the stress and the tests' tools. The collection is checked under the name it is imported by.
set -euo pipefail
cd "$(dirname "$0")/../.."
mypy lab tests/run.py tests/tools/kmod_order.py
MYPYPATH=.collections mypy --namespace-packages --explicit-package-bases \
  -p ansible_collections.bridgewarden.docker.plugins
MYPYPATH=.:.collections mypy --namespace-packages --explicit-package-bases bench stress
