#!/bin/bash
# Writes crds/ from the Rust types.   crds.sh --check    changes nothing, fails when crds/ is not what would be written
set -euo pipefail
case ${1:-} in '' | --check) ;; *) sed -n '2s/^# //p' "$0" >&2; exit 2 ;; esac
cd "$(dirname "$0")/.."
source scripts/env.sh
generated=$(mktemp); trap 'rm -f "$generated"' EXIT
# All programs, as everywhere: one alone would be compiled with other features of its dependencies, and those once more.
cargo build --release --workspace --locked --quiet
mkdir -p crds
while read -r file command; do
  "$CARGO_TARGET_DIR/release/tapeline-operator" "$command" >"$generated"
  if [ "${1:-}" = --check ]; then
    diff -u "$file" "$generated" || { echo "$file is not what the types say: make crds" >&2; exit 1; }
  else
    cp "$generated" "$file"; echo "wrote $file"
  fi
done <<'T'
crds/tradingpipelines.yaml crd
crds/kustomize-openapi.json kustomize-openapi
T
