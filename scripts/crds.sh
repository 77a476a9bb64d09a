#!/bin/bash
# Writes crds/ from the Rust types.   crds.sh --check    changes nothing, fails when crds/ is not what would be written
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/env.sh
file=crds/tradingpipelines.yaml
generated=$(mktemp); trap 'rm -f "$generated"' EXIT
cargo run --release --locked --quiet -p tapeline-operator -- crd >"$generated"
if [ "${1:-}" = --check ]; then
  diff -u "$file" "$generated" || { echo "$file is not what the types say: make crds" >&2; exit 1; }
else
  mkdir -p crds; cp "$generated" "$file"; echo "wrote $file"
fi
