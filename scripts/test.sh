#!/bin/bash
# All checks and tests, against real servers; the last line is the sum, the ones before it name what failed or was skipped.
#                                                                         test.sh         what `make test` runs
#                                                                         test.sh faults  fault runs, once per seed in $FAULT_SEEDS; their report becomes
#                                                                                         docs/faults.md (faults long: all faults over several rounds)
#                                                                         test.sh screenshots  pictures of the dashboard's pages, into docs/dashboard
# It sets up what is missing: the test bed (built, running) and the images.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
source scripts/env.sh
log=$(mktemp) report=$(mktemp) reasons=$(mktemp); trap 'rm -f "$log" "$report" "$reasons"' EXIT
failed=0 skipped=() seeds=${FAULT_SEEDS:-1}

section() { printf '\n== %s\n' "$*"; }
check() { section "$1"; shift; "$@" || { failed=$((failed + 1)); echo "FAILED: $*"; }; }               # one of the checks: counts as one when it fails
skip() { section "$1"; echo "SKIPPED: $2"; skipped+=("SKIPPED $1: $2"); }                               # WHAT REASON
must() { section "$1"; shift; "$@" || { echo "FAILED: $*"; echo "0 passed, 1 failed"; exit 1; }; }     # without it no test can run

# cargo's own summaries are summed; a run that fails without any failed test (it does not compile) counts as one failure.
tests() {
  section "$*"; "$@" 2>&1 | tee "$log"; local status=${PIPESTATUS[0]} p f
  p=$(awk '/^test result:/ {n += $4} END {print n + 0}' "$log") f=$(awk '/^test result:/ {n += $6} END {print n + 0}' "$log")
  [ "$status" = 0 ] || [ "$f" != 0 ] || f=1
  passed=$((${passed:-0} + p)) failed=$((failed + f))
  failed_tests "$log" >>"$reasons"
}

# Which tests failed, and the first lines of what each said when it did: told again at the end, since what a failed story shows of its pods is long.
failed_tests() {
  awk '/^---- .* stdout ----$/ {name = $2}
       /panicked at / && name != "" {left = 8; printf "FAILED %s\n", name; name = ""}
       /^(--- |note: |error: )/ {left = 0}
       left > 0 {print "  " substr($0, 1, 600); left--}' "$1"
  grep -E '^error(\[|:)' "$1" | sed 's/^/  /' || true
}

# Every tracked file that is called so or says so in its first line.
shell_scripts() {
  local file first
  git ls-files -z | while IFS= read -r -d '' file; do
    { [ -f "$file" ] && [ ! -L "$file" ]; } || continue
    first=''; IFS= read -r -n 64 first <"$file"
    if [[ $file == *.sh || $first =~ ^'#!'.*[/\ ](ba|da)?sh($|\ ) ]]; then printf '%s\0' "$file"; fi
  done
}
check_scripts() {
  local scripts; mapfile -d '' -t scripts < <(shell_scripts)
  if ! command -v shellcheck >/dev/null; then skip "shellcheck" "it is not installed (apt-get install shellcheck)"
  elif [ ${#scripts[@]} = 0 ]; then skip "shellcheck" "git knows no scripts here: not a clone of the repository"
  else check "shellcheck: ${#scripts[@]} scripts" shellcheck "${scripts[@]}"; fi
}
check_licences() {
  if command -v cargo-deny >/dev/null; then check "licences and advisories" cargo deny --locked check
  else skip "licences and advisories" "cargo-deny is not installed (cargo install --locked cargo-deny)"; fi
}

set_up() {
  must "what this machine needs" scripts/doctor.sh rust testbed tests
  must "the test bed: built" testbed/install.sh
  must "what compiling needs" scripts/doctor.sh build
  must "compile" cargo build --release --workspace --locked
  must "images" images/build.sh
  must "the test bed: running" testbed/up.sh --keep kubernetes kafka cassandra mysql mongo brokers-1 brokers-2 brokers-3 cassandra-auth
  local archives; mapfile -t archives < <(images/build.sh --archives)
  must "the test bed: images" testbed/load-image.sh "${archives[@]}"
  eval "$(testbed/env)"
  TAPELINE_IMAGE_TAG=$(images/build.sh --tag); export TAPELINE_IMAGE_TAG
}

# For the report.
what_is_tested() {
  git rev-parse --short=12 HEAD
  [ -z "$(git status --porcelain --untracked-files=no -- . ':!docs/faults.md')" ] || echo "and changes that are not committed"
}

fault_report() {                       # BEGUN TESTED: docs/faults.md, of what the tests themselves wrote
  cat <<MD
# The last fault runs

Written by \`make faults\`; nothing here is by hand. Each test lets one recording flow into six sinks at once and does what the lines say, at the second at which they
say it. Then it reads the topic of trades from the first message to the last, recomputes from it what each store must hold (\`e2e/src/recompute.rs\`), and compares that
with what each store does hold, key by key.

| begun | $1 |
| --- | --- |
| ended | $(date -u '+%F %R') UTC |
| commit | $2 |
| seeds | $seeds |
| tests | ${passed:-0} passed, $failed failed |

MD
  cat "$report"
}

case ${1:-} in
'')
  check "format" cargo fmt --all --check
  set_up
  must "the browser of the tests" testbed/install.sh browser
  check "clippy" cargo clippy --release --workspace --all-targets --locked -- -D warnings
  check "crds/ is what the types say" scripts/crds.sh --check
  check "chart" helm lint --strict --quiet charts/tapeline
  check_scripts
  check_licences
  # End-to-end tests mostly wait: more of them at once than there are processors.
  RUST_TEST_THREADS=${RUST_TEST_THREADS:-4} tests cargo test --release --workspace --locked --no-fail-fast
  ;;
faults)
  set_up
  # They share the servers: nothing else may run meanwhile. With commitlog_sync: batch what the only Cassandra node has acknowledged survives its end.
  export TESTBED_COMMITLOG_SYNC=batch FAULT_REPORT=$report
  begun="$(date -u '+%F %R') UTC" tested=$(what_is_tested | paste -sd ' ')
  must "Cassandra with commitlog_sync: batch" testbed/server.sh restart cassandra
  case ${2:-} in
  long)
    export FAULT_SEED=${seeds%% *}
    tests cargo test --release --workspace --locked --test faults --no-fail-fast -- --ignored --test-threads=1
    ;;
  *)
    for FAULT_SEED in $seeds; do
      export FAULT_SEED
      # Two at a time: those that stop servers wait until they are alone.
      tests cargo test --release --workspace --locked --test faults --no-fail-fast -- --test-threads=2
    done
    tests cargo test --release --workspace --locked --test stories --no-fail-fast -- producer::
    printf '## the producers\n\n```text\n%s\n```\n\n' "$(grep -E '^test .* \.\.\. ' "$log")" >>"$report"
    fault_report "$begun" "$tested" >docs/faults.md
    ;;
  esac
  unset TESTBED_COMMITLOG_SYNC FAULT_REPORT
  must "Cassandra as it was" testbed/server.sh restart cassandra
  ;;
screenshots)
  set_up
  must "the browser of the tests" testbed/install.sh browser
  DASHBOARD_SCREENSHOTS=$PWD/docs/dashboard tests cargo test --release --workspace --locked --test stories -- every_page_is_for_everybody
  ;;
*) sed -n '2,7s/^# //p' "$0" >&2; exit 2 ;;
esac

echo; cat "$reasons"; for each in "${skipped[@]}"; do echo "$each"; done
printf '%d passed, %d failed\n' "${passed:-0}" "$failed"
[ "$failed" = 0 ]
