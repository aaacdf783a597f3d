#!/usr/bin/env bash
# Runs one molecule scenario from nothing to nothing and makes sure that its tests really ran: molecule calls a scenario
# without test files a success. An infrastructure error (the VM died, and not in the module under test) ends with 75, see lab/.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
scenario=$1
rm -f "build/test/molecule-$scenario"*.xml
log=build/test/molecule-$scenario.log
molecule test --scenario-name "$scenario"
status=$?
if [ $status -ne 0 ]; then
  grep -q 'in the module under test: VM' "$log" 2>/dev/null && exit 1
  grep -q 'infrastructure error: ' "$log" 2>/dev/null && exit 75
  exit $status
fi
shopt -s nullglob
count=0
for file in "build/test/molecule-$scenario"*.xml; do
  count=$((count + $(grep -o '<testcase' "$file" | wc -l)))
done
echo "molecule $scenario: $count passed"
[ "$count" -gt 0 ] || { echo "no test ran in scenario $scenario"; exit 1; }
