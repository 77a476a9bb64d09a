#!/bin/bash
# load-image.sh ARCHIVE.tar...: `kind load image-archive` into the clusters of our daemon. An archive that is there already, unchanged, is skipped.
source "$(dirname "$0")/lib.sh"
need_root
load() {
  local cluster clusters; clusters=$("$KIND_DIR/bin/kind" get clusters)
  [ -n "$clusters" ] || die "no kind cluster runs: $KIND_DIR/up.sh"
  for cluster in $clusters; do "$KIND_DIR/bin/kind" load image-archive "$1" --name "$cluster"; done
}
load_archives "$W/loaded" load "$@"
