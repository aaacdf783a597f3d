#!/usr/bin/env bash
# Shows whether a VM's processors run what its kernel has just written into its own code: trace events in hot functions are
# switched on and off, each a flip of static keys, under traffic on loopback. On an emulator with the fault that lab/accelerator.py
# names, the kernel dies ("Oops: int3") within a minute; otherwise it says how many flips it outlived. As root, in the VM:
#   python3 -m lab ssh NAME -- bash -s 60 < lab/guest/flip.sh
set -euo pipefail
seconds=${1:-60}
events=/sys/kernel/tracing/events
for address in 127.0.0.1 127.0.0.2; do
  timeout "$seconds" ping -q -f "$address" > /dev/null &
done
flips=0
until [ "$SECONDS" -ge "$seconds" ]; do
  for on in 1 0; do
    for group in net sched skb; do
      echo $on > "$events/$group/enable"
    done
    flips=$((flips + 1))
  done
done
echo "alive after $flips flips in $SECONDS s"
