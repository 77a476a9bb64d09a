#!/bin/bash
# load-image.sh ARCHIVE.tar...: `kind load image-archive` into the clusters of our daemon. An archive that is there already, unchanged, is skipped.
source "$(dirname "$0")/lib.sh"
need_root
load() {
  local cluster; for cluster in $("$KIND_DIR/bin/kind" get clusters); do "$KIND_DIR/bin/kind" load image-archive "$1" --name "$cluster"; done
}
load_archives "$W/loaded" load "$@"
