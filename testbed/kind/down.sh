#!/bin/bash
# Deletes every kind cluster of our daemon and stops it. Safe to call when nothing runs.
source "$(dirname "$0")/lib.sh"
need_root
lock "$CACHE/.lock-kind" "kind/down.sh"
if docker_answers; then "$KIND_DIR/bin/kind" delete clusters --all; fi
rm -rf "$W/loaded" "$W/kubeconfig"
"$KIND_DIR/daemon.sh" stop
