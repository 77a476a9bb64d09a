#!/bin/bash
# up.sh [CONFIG]: `kind create cluster --config CONFIG` (default: the repository's kind-config.yaml) with the local node image. A cluster that runs
# already stays. The servers stay outside of it, in the test bed (../up.sh kafka cassandra mysql); the cluster sees them as Services of `data`.
# A shell on it:  eval "$(testbed/env --kind)"
source "$(dirname "$0")/lib.sh"
need_root
unbuilt=$("$KIND_DIR/install.sh" --missing | paste -sd ' ')
[ -z "$unbuilt" ] || die "kind is not built yet, or something of it has changed ($unbuilt): $KIND_DIR/install.sh"
config=$(realpath "${1:-$TESTBED/../kind-config.yaml}")
name=$(sed -n 's/^name: *//p' "$config"); name=${name:-kind}
lock "$CACHE/.lock-kind" "kind/up.sh"
export PATH=$KIND_DIR/bin:$PATH KUBECONFIG=$W/kubeconfig

begun=$(now)
"$KIND_DIR/daemon.sh" start
if ! kind get clusters 2>/dev/null | grep -qx "$name" || ! kubectl get --raw /readyz --request-timeout=5s >/dev/null 2>&1; then
  say "creating the kind cluster $name (usually 1 min)"
  kind delete cluster --name "$name" >/dev/null 2>&1 || true       # one that did not survive a reboot or an interruption
  rm -rf "$W/loaded"
  kind create cluster --image "$NODE_IMAGE" --config "$config" --wait 60s
fi
link_kind
data_services | kubectl apply -f - >/dev/null
kubectl -n kube-system rollout status deployment/coredns --timeout=90s >/dev/null      # no names before it is ready
await "the default service account" 30 kubectl -n default get serviceaccount default
say "the kind cluster $name runs ($(since "$begun")); for a shell on it:  eval \"\$($TESTBED/env --kind)\""
