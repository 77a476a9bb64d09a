# Sourced by every script of the test bed: where things are, which versions, and the few helpers that they share.
# shellcheck shell=bash disable=SC2034    # the settings are used by the scripts that source this
set -euo pipefail

TESTBED=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE=${TESTBED_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tapeline/testbed}   # what install.sh builds; outside the work tree
RUN=$CACHE/run                                                            # what a running test bed writes; empty after each plain up.sh
BIN=$CACHE/bin

# The network namespace that everything runs in, and its addresses. The host reaches all of them.
NS=tapeline
IP=10.99.0.1 GATEWAY=10.99.0.2 POD_CIDR=10.244.0.0/24 SERVICE_CIDR=10.96.0.0/16 CLUSTER_DNS=10.96.0.10 NODE=node-1
IN_NS=(nsenter --net=/run/netns/$NS)      # not `ip netns exec`, which remounts /sys and hides the cgroup mounts from the kubelet

# The versions of what is built here. Kafka's and Cassandra's are in jvm/*.xml, MongoDB's (FerretDB) in mongo/go.mod, etcd's in kube/go.mod.
KUBE=1.36.4 COREDNS=v1.14.2 HELM=v4.3.1 FERRET=v1.24.2 KIND=v0.33.0

declare -A PORT=([kafka]=9092 [cassandra]=9042 [mysql]=3306 [mongo]=27017)
SERVERS=(kafka cassandra mysql mongo)

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }
need_root() { [ "$(id -u)" = 0 ] || die "must run as root (network namespaces, mounts, chroot): try again with sudo"; }

now() { printf '%s' "${EPOCHREALTIME//[.,]/}"; }                           # microseconds
since() {                                                                 # START: "3.2 s" or "4 min 31 s" since START
  local ms=$((($(now) - $1) / 1000))
  if ((ms < 60000)); then printf '%d.%d s' $((ms / 1000)) $((ms % 1000 / 100)); else printf '%d min %02d s' $((ms / 60000)) $((ms / 1000 % 60)); fi
}

# await WHAT SECONDS COMMAND...: until COMMAND succeeds; after SECONDS an error that names WHAT.
await() {
  local what=$1 seconds=$2 start; start=$(now); shift 2
  until "$@" >/dev/null 2>&1; do
    (($(now) - start < seconds * 1000000)) || { say "waited $seconds s in vain for $what; logs: $RUN/log" >&2; return 1; }
    sleep 0.1
  done
}

# One at a time: waits while another process changes the same thing. The lock is file descriptor 9; whoever starts a daemon closes it.
lock() {                                                                  # FILE WHAT
  [ -z "${TESTBED_LOCKED:-}" ] || return 0                                 # up.sh calls down.sh while it holds the lock
  mkdir -p "$CACHE"; exec 9>"$1"
  flock -n 9 || { say "$2: waiting for another process that does the same"; flock 9; }
  export TESTBED_LOCKED=1
}

# The pid of a process that spawn started, if it still lives. A pid of an earlier boot may be anybody's: it must be in our namespace.
pid_of() { local pid; pid=$(cat "$RUN/pid/$1" 2>/dev/null) && [ "/proc/$pid/ns/net" -ef "/run/netns/$NS" ] && printf '%s' "$pid"; }
running() { pid_of "$1" >/dev/null; }
frozen() { local pid stat; pid=$(pid_of "$1") && stat=$(cat "/proc/$pid/stat") && [[ ${stat##*) } == T* ]]; }

# spawn NAME COMMAND...: runs COMMAND in the namespace, detached from this terminal, unless it runs already. Log: $RUN/log/NAME.log.
spawn() {
  local name=$1 pid; shift
  running "$name" && return
  setsid nohup "${IN_NS[@]}" "$@" </dev/null >>"$RUN/log/$name.log" 2>&1 9>&- &
  pid=$!; echo $pid >"$RUN/pid/$name"
  while [ -d /proc/$pid ] && ! running "$name"; do sleep 0.01; done        # until nsenter has entered
}

# stop_process NAME [SIGNAL] [SECONDS]: sends SIGNAL (TERM) and waits; kills after SECONDS (30).
stop_process() {
  local name=$1 signal=${2:-TERM} seconds=${3:-30} pid
  pid=$(pid_of "$name") || return 0
  kill "-$signal" "$pid" 2>/dev/null || true
  kill -CONT "$pid" 2>/dev/null || true                                    # a frozen process would not hear it
  await "$name to stop" "$seconds" ended "$pid" || { kill -KILL "$pid" 2>/dev/null || true; await "$name to die" 10 ended "$pid"; }
}
# Its last thread is gone, and with it its ports. (Of a killed process the first thread is a zombie while others still hold them.)
ended() { [ ! -d "/proc/$1" ] || { [ "$(ps -o stat= -p "$1" | cut -c1)" = Z ] && [ "$(find "/proc/$1/task" -mindepth 1 -maxdepth 1 | wc -l)" = 1 ]; }; }

port_open() { timeout 1 bash -c "exec 3<>/dev/tcp/$1/$2" 2>/dev/null; }    # ADDRESS PORT

# load_archives MARKS COMMAND ARCHIVE...: calls COMMAND with each image archive that MARKS does not know yet, unchanged.
load_archives() {
  local marks=$1 load=$2 archive mark is; shift 2
  mkdir -p "$marks"
  for archive; do
    mark=$marks/$(basename "$archive") is=$(stat -c '%n %s %y' "$archive")
    [ "$(cat "$mark" 2>/dev/null)" != "$is" ] || continue
    $load "$archive"
    printf '%s' "$is" >"$mark"
  done
}

# external_service NAMESPACE NAME PORT [EXTRA-SPEC]: a Service whose endpoint is a process of the test bed.
external_service() {
  local ports="[{name: tcp, port: $3, protocol: TCP}, {name: udp, port: $3, protocol: UDP}]"
  cat <<Y
---
apiVersion: v1
kind: Service
metadata: {name: $2, namespace: $1}
spec: {${4:-} ports: $ports}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: $2, namespace: $1, labels: {kubernetes.io/service-name: $2}}
addressType: IPv4
ports: $ports
endpoints: [{addresses: [$IP], conditions: {ready: true}}]
Y
}

# The servers as a pod sees them: kafka.data, cassandra.data, mysql.data, mongo.data.
data_services() {
  printf 'apiVersion: v1\nkind: Namespace\nmetadata: {name: data}\n'
  local server; for server in "${SERVERS[@]}"; do external_service data "$server" "${PORT[$server]}"; done
}

# Pods of the kind cluster reach the servers too: a cable between the two namespaces. Does nothing unless both exist. (Docker's own
# rules masquerade what leaves its namespace, so the servers see one neighbour.)
KIND_NS=tapeline-kind KIND_IP=10.99.1.2 KIND_LINK=10.99.1.1
link_kind() {
  local kind=(nsenter --net=/run/netns/$KIND_NS)
  [ -e /run/netns/$NS ] && [ -e /run/netns/$KIND_NS ] || return 0
  "${kind[@]}" ip link show servers >/dev/null 2>&1 || ip link add servers netns $KIND_NS type veth peer name kind netns $NS
  "${IN_NS[@]}" ip addr replace $KIND_LINK/30 dev kind; "${IN_NS[@]}" ip link set kind up
  "${kind[@]}" ip addr replace $KIND_IP/30 dev servers; "${kind[@]}" ip link set servers up
  "${kind[@]}" ip route replace $IP via $KIND_LINK
}

# step NAME USUALLY COMMAND...: one step of an installation, once. COMMAND may be interrupted at any moment: it builds beside its result and renames, and
# the mark that it is done ($MARKS/.done-NAME) comes last. What it prints goes to a log, whose end is shown when it fails.
MARKS=$CACHE
step() {
  local name=$1 usually=$2 start; shift 2
  [ ! -e "$MARKS/.done-$name" ] || return 0
  start=$(now) STEP=$name STEP_LOG=$MARKS/log/$name.log
  mkdir -p "$MARKS/log"
  say "== $name (usually $usually)"
  exec 8>&2                                                                # the trap runs while the command's output still goes to the log
  trap step_failed EXIT; trap 'exit 130' INT TERM
  "$@" >"$STEP_LOG" 2>&1
  touch "$MARKS/.done-$name"
  trap - EXIT INT TERM
  say "   took $(since "$start")"
}
step_failed() {
  {
    say "the step $STEP failed or was interrupted; the end of $STEP_LOG:"
    tail -n 15 "$STEP_LOG"
    say "Call $0 again to go on from here."
  } >&8
}

# Removes a tree that may still have something mounted in it: an interrupted debootstrap leaves /proc and /sys behind.
remove_tree() {
  { grep -oE " $1/[^ ]*" /proc/mounts || true; } | sort -r | while read -r mount; do umount -l "$mount"; done
  rm -rf --one-file-system "$1"
}
# debian_tree SUITE FOLDER PACKAGES: a minimal Debian in FOLDER, from the mirror that apt uses here.
debian_mirror() { apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | sed -n 1p; }
debian_tree() {
  remove_tree "$2"; remove_tree "$2.new"
  debootstrap --variant=minbase --include="$3" "$1" "$2.new" "$(debian_mirror)"
}

apt_install() {
  dpkg --configure -a                                                      # an interrupted installation ends here
  apt-get update -o DPkg::Lock::Timeout=300
  DEBIAN_FRONTEND=noninteractive apt-get install -y -o DPkg::Lock::Timeout=300 --no-install-recommends "$@"
}
# go_install PACKAGE@VERSION: into $BIN, as a whole or not at all.
go_install() { GOBIN=$BIN/.new go install -ldflags '-s -w' "$1"; mv "$BIN"/.new/* "$BIN/"; }
