# Sourced by the scripts and the Makefile: where build results go, outside the work tree.
# shellcheck shell=bash
TAPELINE_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/tapeline
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$TAPELINE_CACHE/target}
