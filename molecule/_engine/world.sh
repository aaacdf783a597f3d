#!/bin/sh
# What the engine's tests talk to, on a lab machine (guest/rootfs/usr/local/sbin/bw-lab-net has the world outside). Safe to
# run again. Docker's own filter rules are opened wide: what is closed here, bridgewarden closed.
#
#   left    172.28.1.0/24 fd00:db8:11::/64   alpha .10 (8080 8081 8090 21, 9000/udp; published 18080, 19000/udp), beta .11
#   right   172.28.2.0/24 fd00:db8:12::/64   gamma .10
#   docker0 (IPv4 only)                      plain (8080; published 18081), local (8080; published on 127.0.0.1:18082)
#   host                                     hostly (7000)
set -eu

network() { # NAME IPV4 IPV6
    docker network inspect "$1" >/dev/null 2>&1 || docker network create --ipv6 --subnet "$2" --subnet "$3" "$1" >/dev/null
}

container() { # NAME LISTENERS OPTIONS...
    name=$1 listeners=$2
    shift 2
    # shellcheck disable=SC2086 # listeners are several words
    docker inspect "$name" >/dev/null 2>&1 || docker create --name "$name" "$@" bw-shop "$name" $listeners >/dev/null
}

bw-lab-shop image
network left 172.28.1.0/24 fd00:db8:11::/64
network right 172.28.2.0/24 fd00:db8:12::/64
container alpha "tcp:8080 tcp:8081 tcp:8090 tcp:21 udp:9000" --label tier=one --network left \
    --ip 172.28.1.10 --ip6 fd00:db8:11::10 -p 18080:8080 -p 19000:9000/udp
container beta "tcp:8080 tcp:8081 tcp:8090 tcp:21 udp:9000" --label tier=two --network left \
    --ip 172.28.1.11 --ip6 fd00:db8:11::11
container gamma "tcp:8080 udp:9000" --label tier=three --network right --ip 172.28.2.10 --ip6 fd00:db8:12::10
container plain "tcp:8080" -p 18081:8080
container local "tcp:8080" -p 127.0.0.1:18082:8080
container hostly "tcp:7000" --network host
docker start alpha beta gamma plain local hostly >/dev/null

modprobe br_netfilter
sysctl -qw net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1
for tool in iptables ip6tables; do
    $tool -P FORWARD ACCEPT
    $tool -C DOCKER-USER -j ACCEPT 2>/dev/null || $tool -I DOCKER-USER -j ACCEPT 2>/dev/null || true
done
