#!/bin/bash
# Starts the test bed: one real Kubernetes node and the data systems, as plain processes inside one network namespace. Root.
#   up.sh [--keep] [kubernetes] [kafka] [cassandra] [mysql] [mongo] [brokers-1 brokers-2 brokers-3] [cassandra-auth]      (default: the first four)
# It starts empty each time. With --keep what runs is left alone with its data, and only what is missing is started.
# Seen from the host and from pods: the API server https://10.99.0.1:6443 and, at 10.99.0.1, kafka :9092, cassandra :9042, mysql :3306 (root, root),
# mongo :27017 (tapeline, tapeline), brokers-1 to -3, one cluster, :9192 to :9194, cassandra-auth :9043 (tapeline, tapeline; superuser cassandra,
# cassandra); in the cluster also as Services of the namespace `data` (kafka.data, cassandra.data, brokers.data:9092 and so on).
source "$(dirname "$0")/lib.sh"
source "$TESTBED/servers.sh"
source "$TESTBED/kubernetes.sh"

keep=false; [ "${1:-}" != --keep ] || { keep=true; shift; }
wanted=("$@"); [ $# -gt 0 ] || wanted=(kubernetes kafka cassandra mysql)
for one in "${wanted[@]}"; do [ "$one" = kubernetes ] || [ -n "${PORT[$one]:-}" ] || die "there is no '$one'; choose of: kubernetes ${SERVERS[*]}"; done
need_root
unbuilt=$("$TESTBED/install.sh" --missing | paste -sd ' ')
[ -z "$unbuilt" ] || die "the test bed is not built yet, or something of it has changed ($unbuilt): $TESTBED/install.sh"
lock "$CACHE/.lock-up" "up.sh"

network() {
  ip netns add $NS
  ip link add $NS-up type veth peer name eth0 netns $NS
  ip addr add $GATEWAY/24 dev $NS-up; ip link set $NS-up up
  "${IN_NS[@]}" ip link set lo up
  "${IN_NS[@]}" ip addr add $IP/24 dev eth0; "${IN_NS[@]}" ip link set eth0 up; "${IN_NS[@]}" ip route add default via $GATEWAY
  local cidr; for cidr in $SERVICE_CIDR $POD_CIDR; do                              # Services and pods answer to the host too
    ip route add "$cidr" via $IP || die "this host has a route to $cidr already ($(ip route show "$cidr")), of another cluster or a VPN: end that first"
  done
  modprobe br_netfilter 2>/dev/null || true                                       # it may be built in
  "${IN_NS[@]}" sysctl -qw net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1
  local watches; watches=$(cat /proc/sys/fs/inotify/max_user_instances)           # kubelet, containerd and the pods share the limit
  [ "$watches" -ge 1024 ] || sysctl -qw fs.inotify.max_user_instances=1024 || true
  touch "$RUN/network"
}

fine() { if [ "$1" = kubernetes ]; then kubernetes_answers; else answers "$1"; fi; }

begun=$(now) missing=()
if $keep && [ -e "$RUN/network" ] && [ -e /run/netns/$NS ]; then
  for one in "${wanted[@]}"; do fine "$one" || missing+=("$one"); done
  [ ${#missing[@]} -gt 0 ] || { say "the test bed runs: ${wanted[*]}"; exit 0; }
else
  missing=("${wanted[@]}")
  "$TESTBED/down.sh" >/dev/null
  mkdir -p "$RUN"/{log,pid}
  network
fi
link_kind

say "starting ${missing[*]} (usually 10 to 30 s)"
# The servers first: they take their time while the control plane is being started.
for one in "${missing[@]}"; do [ "$one" = kubernetes ] || start_server "$one"; done
for one in "${missing[@]}"; do
  [ "$one" = kubernetes ] || continue
  for part in "${KUBERNETES[@]}"; do ! frozen "$part" || kill -CONT "$(pid_of "$part")"; done
  start_kubernetes; await_kubernetes; say "  kubernetes     ready after $(since "$begun")"
done
for one in "${missing[@]}"; do
  [ "$one" != kubernetes ] || continue
  await_server "$one"; printf '  %-14s ready after %s\n' "$one" "$(since "$begun")"
done
say "the test bed runs; for a shell on it:  eval \"\$($TESTBED/env)\""
