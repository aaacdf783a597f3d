#!/usr/bin/env bash
# Runs ansible-test sanity on a copy of the tree laid out as Ansible demands (ansible_collections/NAMESPACE/NAME).
# Never downloads get-pip: ansible-test finds a stand-in in the HOME it is given, which uses Python's own ensurepip.
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
venv=$top/build/venv
work=$top/build/sanity
copy=$work/ansible_collections/bridgewarden/docker
junit=$top/build/test/sanity

mkdir -p "$work/bin" "$work/home/.ansible/test/cache" "$copy" "$junit"
# ansible-test takes every pythonX.Y it finds on the PATH; a version manager leaves some there that do not run.
rm -f "$work"/bin/*
for minor in 8 9 10 11 12 13 14; do
  python=$(command -v "python3.$minor") && "$python" -c '' 2>/dev/null \
    && ln -s "$("$python" -c 'import sys; print(sys.executable)')" "$work/bin/python3.$minor"
done
export HOME=$work/home PATH=$venv/bin:$work/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
pip_version=$(sed -n "s/.*pip='\([0-9.]*\)'.*/\1/p" "$venv"/lib/python3*/site-packages/ansible_test/_internal/python_requirements.py | head -1)
for version in "${pip_version:-}" 24.2 25.0; do
  [ -n "$version" ] || continue
  cat > "$HOME/.ansible/test/cache/get_pip_${version//./_}.py" <<'PY'
import ensurepip
import os
import runpy
import sys

ensurepip.bootstrap()
os.environ.pop("PIP_CONFIG_FILE", None)
# --no-setuptools and --no-wheel are get-pip's own options.
sys.argv = ["pip", "install"] + [word for word in sys.argv[1:] if not word.startswith("--no-")]
runpy.run_module("pip.__main__", run_name="__main__", alter_sys=True)
PY
done

rm -rf "$copy" && mkdir -p "$copy"
cd "$top"
git ls-files -co --exclude-standard -z | grep -zvE '^(\.collections|bench|lab|molecule|stress|tests|kmod/tests)/' \
  | while IFS= read -r -d '' file; do [ -e "$file" ] && printf '%s\0' "$file"; done \
  | tar --null -T - -cf - | tar -xf - -C "$copy"

cd "$copy"
# ansible-test asks git which files there are, and would else find the outer checkout, which ignores build/.
git init -q . && git add -A -f
# pslint is for PowerShell, of which there is none.
ansible-test sanity --skip-test pslint --junit --color yes "$@"
cp tests/output/junit/*.xml "$junit"/
