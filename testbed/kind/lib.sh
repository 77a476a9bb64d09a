# Sourced by the scripts in this folder, in addition to ../lib.sh.
# shellcheck shell=bash disable=SC2034
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
KIND_DIR=$TESTBED/kind
W=$CACHE/kind                                                      # what kind needs and what it writes
NODE_IMAGE=localhost/kind-node:v$KUBE
IN_KIND=(nsenter --net="/run/netns/$KIND_NS")                        # clusters publish their API server on 127.0.0.1 of this namespace
export DOCKER_HOST=unix://$W/docker.sock
docker_answers() { timeout 10 docker info >/dev/null 2>&1; }
