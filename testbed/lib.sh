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
IN_NS=(nsenter --net="/run/netns/$NS")      # not `ip netns exec`, which remounts /sys and hides the cgroup mounts from the kubelet

# The versions of what is built here. Kafka's and Cassandra's are in jvm/*.xml, MongoDB's (FerretDB) in mongo/go.mod, Kubernetes' and etcd's in kube/go.mod.
# MySQL's is what the tests were written for: Debian's current suite says what comes.
COREDNS=v1.14.2 HELM=v4.3.1 KIND=v0.33.0 MYSQL=9.7
KUBE=$(sed -n 's|^\tk8s.io/kubernetes v||p' "$TESTBED/kube/go.mod")

declare -A PORT=([kafka]=9092 [cassandra]=9042 [mysql]=3306 [mongo]=27017 [brokers-1]=9192 [brokers-2]=9193 [brokers-3]=9194 [cassandra-auth]=9043)
SERVERS=(kafka cassandra mysql mongo brokers-1 brokers-2 brokers-3 cassandra-auth)
BROKERS=$IP:9192,$IP:9193,$IP:9194                                         # brokers-1 to brokers-3 are one cluster
USER_NAME=tapeline USER_PASSWORD=tapeline                                 # whom mongo and cassandra-auth know

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }
[[ $CACHE == /* ]] || die "TESTBED_CACHE=$CACHE: give the whole path, beginning with /"
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

# external_service NAMESPACE NAME PORT [EXTRA-SPEC] [SERVER..]: a Service whose endpoints are processes of the test bed, at PORT or at those of the SERVERs.
external_service() {
  local namespace=$1 name=$2 port=$3 extra=${4:-} server; shift $(($# < 4 ? $# : 4))
  ports() { printf '[{name: tcp, port: %d, protocol: TCP}, {name: udp, port: %d, protocol: UDP}]' "$1" "$1"; }
  cat <<Y
---
apiVersion: v1
kind: Service
metadata: {name: $name, namespace: $namespace}
spec: {$extra ports: $(ports "$port")}
Y
  for server in "${@:-$name}"; do
    cat <<Y
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: $server, namespace: $namespace, labels: {kubernetes.io/service-name: $name}}
addressType: IPv4
ports: $(ports "${PORT[$server]:-$port}")
endpoints: [{addresses: [$IP], conditions: {ready: true}}]
Y
  done
}

# The servers as a pod sees them: kafka.data, cassandra.data, mysql.data, mongo.data, cassandra-auth.data; brokers.data is one of the three.
data_services() {
  printf 'apiVersion: v1\nkind: Namespace\nmetadata: {name: data}\n'
  local server; for server in "${SERVERS[@]}"; do [[ $server == brokers-* ]] || external_service data "$server" "${PORT[$server]}"; done
  external_service data brokers 9092 "" brokers-1 brokers-2 brokers-3
}

# Pods of the kind cluster reach the servers too: a cable between the two namespaces. Does nothing unless both exist. (Docker's own
# rules masquerade what leaves its namespace, so the servers see one neighbour.)
KIND_NS=tapeline-kind KIND_IP=10.99.1.2 KIND_LINK=10.99.1.1
link_kind() {
  local kind=(nsenter --net="/run/netns/$KIND_NS")
  [ -e /run/netns/$NS ] && [ -e /run/netns/$KIND_NS ] || return 0
  "${kind[@]}" ip link show servers >/dev/null 2>&1 || ip link add servers netns $KIND_NS type veth peer name kind netns $NS
  "${IN_NS[@]}" ip addr replace $KIND_LINK/30 dev kind; "${IN_NS[@]}" ip link set kind up
  "${kind[@]}" ip addr replace $KIND_IP/30 dev servers; "${kind[@]}" ip link set servers up
  "${kind[@]}" ip route replace $IP via $KIND_LINK
}

# step NAME[=INPUTS] USUALLY COMMAND...: one step of an installation, once for each INPUTS. COMMAND may be interrupted at any moment: it builds beside its
# result and renames, and the mark that it is done ($MARKS/.done-NAME, which holds INPUTS) goes first and comes last. What it prints goes to a log, whose end
# is shown when it fails.
MARKS=$CACHE
inputs_of() { case $1 in *=*) printf '%s' "${1#*=}" ;; esac; }              # NAME[=INPUTS]
is_done() { local made_of; made_of=$(cat "$MARKS/.done-${1%%=*}" 2>/dev/null) && [ "$made_of" = "$(inputs_of "$1")" ]; }
step() {
  local name=${1%%=*} inputs usually=$2 start
  ! is_done "$1" || return 0
  inputs=$(inputs_of "$1"); shift 2
  start=$(now) STEP=$name STEP_LOG=$MARKS/log/$name.log
  mkdir -p "$MARKS/log"
  say "== $name (usually $usually)"
  rm -f "$MARKS/.done-$name" "$MARKS/.done-$name"-*                         # also those that adopt() knows
  exec 8>&2                                                                # the trap runs while the command's output still goes to the log
  trap step_failed EXIT; trap 'exit 130' INT TERM
  "$@" >"$STEP_LOG" 2>&1
  printf '%s' "$inputs" >"$MARKS/.mark"; mv "$MARKS/.mark" "$MARKS/.done-$name"
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

# part NAME USUALLY INPUTS COMMAND...: a step that is taken again when what it makes would be another: when INPUTS (versions, sums of files, other parts),
# COMMAND or, of a function, its text has changed.
part() {
  local name=$1 usually=$2 inputs=$3; shift 3
  inputs=$({ printf '%s\n' "$inputs" "$*"; declare -f "$1" || true; } | sha256sum | cut -c1-12)
  step "$name=$inputs" "$usually" "$@"
}
sums() { sha256sum "$@" | sed 's| .*/| |' | sort; }                         # FILE..: contents and names, wherever the repository is
made() { local marks=$1 name; shift; for name; do cat "$marks/.done-$name" 2>/dev/null || true; echo; done; }    # MARKS PART..: what they are made of

# packages USUALLY PACKAGE..: Debian packages, when any is missing. Without a mark, since a cache may outlive the machine that it was made on.
packages() {
  local usually=$1 states; shift
  states=$(dpkg-query -W -f '${db:Status-Status}\n' "$@" 2>/dev/null) || states=missing
  if grep -qvx installed <<<"$states"; then step "packages=$(now)" "$usually" apt_install "$@"; fi
}

# Which of the parts in steps() are to be built. It is asked without root and without a compiler.
todo() (
  # shellcheck disable=SC2317,SC2329    # by part and packages
  step() { is_done "$1" || echo "${1%%=*}"; }
  steps
)
# adopt OLD NAME INPUTS: the mark OLD is of the time when marks were empty (until November 2026), and NAME was made of INPUTS then. So nobody builds
# Kubernetes again for the marks' sake. May go, with all calls, when nobody has such a cache any more.
adopt() {
  if [ -e "$MARKS/.done-$1" ] && [ ! -s "$MARKS/.done-$1" ] && [ ! -s "$MARKS/.done-$2" ]; then
    { printf '%s' "$3" >"$MARKS/.done-$2"; } 2>/dev/null || true
  fi
}

# Removes a tree that may still have something mounted in it: an interrupted debootstrap leaves /proc and /sys behind.
remove_tree() {
  { grep -oE " $1/[^ ]*" /proc/mounts || true; } | sort -r | while read -r mount; do umount -l "$mount"; done
  rm -rf --one-file-system "$1"
}
# debian_tree SUITE FOLDER PACKAGES: a minimal Debian in FOLDER.new, from the mirror that apt uses here, or debootstrap's own (apt knows none before its first
# update); replace FOLDER puts it in its place.
debian_mirror() { apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | sed -n 1p; }
debian_tree() {
  local mirror; mirror=$(debian_mirror)
  remove_tree "$2.new"
  debootstrap --variant=minbase --include="$3" "$1" "$2.new" ${mirror:+"$mirror"}
}
replace() { remove_tree "$1"; mv "$1.new" "$1"; }

apt_install() {
  dpkg --configure -a                                                      # an interrupted installation ends here
  apt-get update -o DPkg::Lock::Timeout=300
  # Nothing is removed for it: Debian's containerd would replace that of a Docker from docker.com, and Docker with it.
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-remove -o DPkg::Lock::Timeout=300 --no-install-recommends "$@"
}
# go_install PACKAGE@VERSION: into $BIN, as a whole or not at all.
go_install() { GOBIN=$BIN/.new go install -ldflags '-s -w' "$1"; mv "$BIN"/.new/* "$BIN/"; }
