#!/bin/bash
# Says what this machine lacks, and how to get it.   doctor.sh PART..
#   rust      the toolchain                          build     what compiling Tapeline needs (of which the test bed brings some)
#   testbed   what building and running the test bed needs                               tests     what all of its servers at once need (make test)
#   kind      what the demo on Docker and kind needs
# Prints nothing but problems; exits with 1 when there are any. Package names are Debian's.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
[ "$(uname -s)" = Linux ] || { echo "missing: Linux: images hold the programs that are compiled here, and the test bed is made of Linux namespaces" >&2; exit 1; }
parts=" ${*:-rust build testbed} " missing=0

problem() { printf 'missing: %s\n         %s\n' "$1" "$2" >&2; missing=1; }
need() { command -v "$1" >/dev/null || problem "$1" "$2"; }                                      # COMMAND REMEDY
version_below() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n1)" != "$2" ]; }           # HAVE WANTED
free_space() {                                                                                    # FOLDER GIGABYTES WHAT
  local dir=$1; while [ ! -d "$dir" ]; do dir=$(dirname "$dir"); done
  local have; have=$(df --output=avail -BG "$dir" | tail -n1 | tr -dc 0-9)
  [ "$have" -ge "$2" ] || problem "disk space: $2 GB in $dir for $3, $have GB are free" "make room, or set XDG_CACHE_HOME to a folder with more"
}
cache=${XDG_CACHE_HOME:-$HOME/.cache}

if [[ $parts == *" rust "* ]]; then
  channel=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
  if ! command -v cargo >/dev/null; then problem "cargo" "install rustup, then: rustup toolchain install $channel"
  elif ! rustc --version >/dev/null 2>&1; then problem "Rust $channel" "rustup toolchain install $channel --component rustfmt --component clippy"; fi
fi

if [[ $parts == *" build "* ]]; then
  need gcc "apt-get install build-essential"
  need make "apt-get install build-essential"
  need g++ "apt-get install build-essential"
  need cmake "apt-get install cmake"
  need perl "apt-get install perl"
  [ -d "$cache/tapeline/target" ] || free_space "$cache" 15 "compiling"
fi

if [[ $parts == *" testbed "* ]]; then
  [ "$(id -u)" = 0 ] || problem "root" "the test bed makes network namespaces, mounts and containers: call it with sudo, or in a virtual machine"
  need apt-get "the test bed installs and unpacks Debian packages: use Debian 12, or a container or virtual machine of it"
  need gcc "apt-get install build-essential"
  need mvn "apt-get install maven"
  if ! command -v go >/dev/null; then problem "go 1.21 or later" "from go.dev, or Debian's backports (golang-1.22-go, and /usr/lib/go-1.22/bin into the PATH)"
  else
    have=$(go env GOVERSION); version_below "${have#go}" 1.21 && problem "go 1.21 or later, this is $have" "a later Go; from 1.21 on it fetches the exact version by itself"
  fi
  have=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p')
  [ "$have" = 17 ] || problem "java 17${have:+, this is $have}" "apt-get install openjdk-17-jre-headless (Cassandra 5.0 runs on 17, and not on later ones)"
  memory=$(awk '/MemTotal/ {print int($2 / 1048576)}' /proc/meminfo)
  [ "$memory" -ge 5 ] || problem "memory: 6 GB, this machine has $memory" "a larger machine"
  [ -e "${TESTBED_CACHE:-$cache/tapeline/testbed}/.done-pause" ] || free_space "$cache" 15 "the test bed (2 GB) and Go's build cache"
fi

if [[ $parts == *" tests "* ]]; then
  memory=$(awk '/MemTotal/ {print int($2 / 1048576)}' /proc/meminfo)
  [ "$memory" -ge 7 ] || problem "memory: 8 GB for the servers of all tests, this machine has $memory" "a larger machine (the demo needs 6 GB)"
fi

if [[ $parts == *" kind "* ]]; then
  for tool in docker kind kubectl jq curl; do need $tool "install $tool, or use the test bed: make demo CLUSTER=testbed"; done
  have=$(helm version --template '{{.Version}}' 2>/dev/null || true)
  if [ -z "$have" ]; then problem "helm" "install Helm 3.17 or later, or use the test bed: make demo CLUSTER=testbed"
  else version_below "${have#v}" 3.17 && problem "helm 3.17 or later, this is $have" "a later Helm"; fi
fi
exit $missing
