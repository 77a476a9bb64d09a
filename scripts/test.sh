#!/bin/bash
# All checks and tests, against real servers; the last line is the sum.   test.sh         what `make test` runs
#                                                                         test.sh faults  all fault runs, the long ones too, once per seed in $FAULT_SEEDS
# It sets up what is missing: the test bed (built, running) and the images.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
source scripts/env.sh
log=$(mktemp); trap 'rm -f "$log"' EXIT
failed=0

section() { printf '\n== %s\n' "$*"; }
check() { section "$1"; shift; "$@" || { failed=$((failed + 1)); echo "FAILED: $*"; }; }               # one of the checks: counts as one when it fails
must() { section "$1"; shift; "$@" || { echo "FAILED: $*"; echo "0 passed, 1 failed"; exit 1; }; }     # without it no test can run

# cargo's own summaries are summed; a run that fails without any failed test (it does not compile) counts as one failure.
tests() {
  section "$*"; "$@" 2>&1 | tee "$log"; local status=${PIPESTATUS[0]} p f
  p=$(awk '/^test result:/ {n += $4} END {print n + 0}' "$log") f=$(awk '/^test result:/ {n += $6} END {print n + 0}' "$log")
  [ "$status" = 0 ] || [ "$f" != 0 ] || f=1
  passed=$((${passed:-0} + p)) failed=$((failed + f))
}

set_up() {
  must "what this machine needs" scripts/doctor.sh rust testbed
  must "the test bed: built" testbed/install.sh
  must "what compiling needs" scripts/doctor.sh build
  must "compile" cargo build --release --workspace --locked
  must "images" images/build.sh
  must "the test bed: running" testbed/up.sh --keep kubernetes kafka cassandra mysql
  local archives; mapfile -t archives < <(images/build.sh --archives)
  must "the test bed: images" testbed/load-image.sh "${archives[@]}"
  eval "$(testbed/env)"
  TAPELINE_IMAGE_TAG=$(images/build.sh --tag); export TAPELINE_IMAGE_TAG
}

case ${1:-} in
'')
  check "format" cargo fmt --all --check
  set_up
  check "clippy" cargo clippy --release --workspace --all-targets --locked -- -D warnings
  check "crds/ is what the types say" scripts/crds.sh --check
  check "chart" helm lint --strict --quiet charts/tapeline
  if command -v shellcheck >/dev/null; then check "shellcheck" shellcheck testbed/*.sh testbed/kind/*.sh scripts/*.sh images/*.sh bench/run; fi
  if command -v cargo-deny >/dev/null; then check "licences and advisories" cargo deny --locked check; fi
  # End-to-end tests mostly wait: more of them at once than there are processors.
  RUST_TEST_THREADS=${RUST_TEST_THREADS:-4} tests cargo test --release --workspace --locked --no-fail-fast
  ;;
faults)
  set_up
  # They kill the only Cassandra node, too: what it has acknowledged has to be on its disk. One at a time, since they share the servers.
  export TESTBED_COMMITLOG_SYNC=batch
  must "Cassandra with commitlog_sync: batch" testbed/server.sh restart cassandra
  for seed in ${FAULT_SEEDS:-1}; do
    export FAULT_SEED=$seed
    tests cargo test --release --workspace --locked --test faults --no-fail-fast -- --include-ignored --test-threads=1
    tests cargo test --release --workspace --locked --test stories --no-fail-fast -- producer::
  done
  unset TESTBED_COMMITLOG_SYNC
  must "Cassandra as it was" testbed/server.sh restart cassandra
  ;;
*) sed -n '2,4s/^# //p' "$0" >&2; exit 2 ;;
esac

printf '\n%d passed, %d failed\n' "${passed:-0}" "$failed"
[ "$failed" = 0 ]
