#!/bin/bash
# load-image.sh ARCHIVE.tar...: makes container images known to the test bed's node, as `kind load image-archive` does for kind.
# An archive that the node has already, unchanged, is skipped.
source "$(dirname "$0")/lib.sh"
need_root
await "containerd" 15 test -S "$RUN/containerd.sock"
load() { ctr -a "$RUN/containerd.sock" -n k8s.io images import "$1"; }
load_archives "$RUN/loaded" load "$@"
