#!/bin/bash
# demo.sh up|down: from nothing to a pipeline on real market data, and away again. A second `up` is quick and changes nothing.
# $CLUSTER says where:
#   kind      a kind cluster from kind-config.yaml; the servers are official images inside of it (examples/servers). Where no Docker daemon answers, the
#             Docker daemon and the servers of testbed/ stand in, the latter outside of the cluster.
#   testbed   the test bed: real servers and a Kubernetes node as plain processes, without Docker and without an image registry. Root.
#   (unset)   kind, if Docker answers, kind is there and images can be pulled; else testbed.
cd "$(dirname "$0")/.." || exit 1
source testbed/lib.sh
source scripts/env.sh

namespace=tapeline pipeline=stock-volume release=tapeline cluster=tapeline
state=$TAPELINE_CACHE/demo                                        # which of the three places the running demo is in

step() { local begun; begun=$(now); say "==> $1"; shift; "$@"; say "    $(since "$begun")"; }

docker_answers() { timeout 10 docker info >/dev/null 2>&1; }
images_can_be_pulled() {
  local image; image=$(sed -n 's/^ *image: //p' examples/servers/*.yaml | head -n1)
  docker image inspect "$image" >/dev/null 2>&1 || timeout 20 docker manifest inspect "$image" >/dev/null 2>&1
}
choose() {                                                        # kind-docker | kind-testbed | testbed
  local begun; begun=$(cat "$state" 2>/dev/null || true)
  case ${CLUSTER:-}:$begun in
  :?* | kind:kind-* | testbed:testbed) echo "$begun"; return ;;     # what was begun goes on, from whichever shell
  ?*:?*) die "a demo was begun in another place ($begun); remove it first: make demo-down" ;;
  esac
  case ${CLUSTER:-} in
  kind) if docker_answers; then echo kind-docker; else echo kind-testbed; fi ;;
  testbed) echo testbed ;;
  '') if command -v kind >/dev/null && docker_answers && images_can_be_pulled; then echo kind-docker; else echo testbed; fi ;;
  *) die "CLUSTER=$CLUSTER: choose kind or testbed, or leave it unset" ;;
  esac
}

# --- the cluster and the servers, in each of the three places; afterwards kubectl and helm talk to the cluster -------------------------------------
start_testbed() {
  step "the test bed: build" testbed/install.sh
  step "the test bed: start" testbed/up.sh --keep kubernetes kafka cassandra mysql
  eval "$(testbed/env)"
}
start_kind_testbed() {
  step "the test bed: build" testbed/install.sh
  step "kind: build" testbed/kind/install.sh
  step "the servers, in the test bed" testbed/up.sh --keep kafka cassandra mysql
  step "kind: start" testbed/kind/up.sh kind-config.yaml
  eval "$(testbed/env --kind)"
}
start_kind_docker() {
  export KUBECONFIG=$TAPELINE_CACHE/kind-kubeconfig
  if ! kind get clusters 2>/dev/null | grep -qx $cluster; then step "kind: create the cluster" kind create cluster --config kind-config.yaml --wait 120s; fi
  kind export kubeconfig --quiet --name $cluster || die "the kind cluster $cluster is not complete; make demo-down removes it"
  await "the kind cluster $cluster to answer (make demo-down removes it)" 60 kubectl get --raw /readyz
  step "the servers, in the cluster: $(sed -n 's/^ *image: //p' examples/servers/*.yaml | paste -sd' ')" servers_in_cluster
}
servers_in_cluster() {
  kubectl apply -f examples/servers >/dev/null
  local server; for server in kafka cassandra mysql; do kubectl -n data rollout status "statefulset/$server" --timeout=10m; done
}
load() {
  case $place in
  testbed) testbed/load-image.sh "$@" ;;
  kind-testbed) testbed/kind/load-image.sh "$@" ;;
  kind-docker) local archive; for archive; do kind load image-archive --name $cluster "$archive"; done ;;
  esac >/dev/null
}

# The test bed's servers outlive a kind cluster. What another cluster's demo left in them belongs to its pipeline, and Tapeline would refuse to touch it.
claim_servers() {
  [ "$place" != kind-docker ] || return 0
  local uid; uid=$(kubectl get namespace kube-system -o 'jsonpath={.metadata.uid}')
  [ "$(cat "$RUN/demo-owner" 2>/dev/null || echo "$uid")" = "$uid" ] || die "the test bed's servers hold the data of another cluster's demo; remove it first: make demo-down"
  echo "$uid" >"$RUN/demo-owner"
}

# --- the release and the pipeline ------------------------------------------------------------------------------------------------------------------
install_chart() {
  local tag values deployed; tag=$(images/build.sh --tag)
  values=(--set "image.tag=$tag")
  # The release says what it was made from, so that an unchanged one is left alone (an upgrade would write a new revision each time).
  local made_from; made_from="demo $({ printf '%s\n' "${values[@]}"; find charts/tapeline crds -type f -print0 | sort -z | xargs -0 sha256sum; } | sha256sum | cut -c1-12)"
  deployed=$(helm status $release -n $namespace -o json 2>/dev/null | jq -r '.info | "\(.status) \(.description)"' || true)
  case $deployed in
  "deployed $made_from") say "    unchanged"; return ;;
  pending-*) helm uninstall $release -n $namespace --wait ;;       # an interrupted call
  esac
  kubectl create namespace $namespace --dry-run=client -o yaml | kubectl apply -f - >/dev/null
  kubectl label namespace $namespace pod-security.kubernetes.io/enforce=restricted --overwrite >/dev/null
  # The definition may be there from `make test` or an earlier release: it is cluster-wide and stays when a release goes, and Helm refuses what it does not own.
  helm upgrade --install $release charts/tapeline -n $namespace "${values[@]}" --description "$made_from" --take-ownership --wait --timeout 3m >/dev/null
}
apply_pipeline() { kubectl apply -n $namespace -f examples/1-$pipeline; }

# Like `kubectl wait --for=condition=Ready tp/stock-volume`, but says what it is waiting for.
await_ready() {
  local shown='' line start; start=$(now)
  while true; do
    line=$(kubectl -n $namespace get tp $pipeline -o 'jsonpath={range .status.conditions[?(@.type=="Ready")]}{.status} {.reason}: {.message}{end}' 2>/dev/null || true)
    [ "$line" = "$shown" ] || { printf '    %6s  Ready %s\n' "$(since "$start")" "${line:-Unknown}"; shown=$line; }
    [[ $line != True\ * ]] || return 0
    (($(now) - start < 300000000)) || { kubectl -n $namespace describe tp $pipeline >&2; die "the pipeline is not Ready after 5 minutes"; }
    sleep 0.5
  done
}

forwards=()                                                      # processes that forward ports
stop_forwards() { kill "${forwards[@]}" 2>/dev/null; }

report() {
  local kafka=$IP:9092 cassandra=$IP:9042 mysql=$IP:3306
  if [ "$place" = kind-docker ]; then                            # Kafka's external listener says localhost:9094
    kafka=localhost:9094 cassandra=localhost:19042 mysql=localhost:13306
    kubectl -n data port-forward service/kafka 9094 >/dev/null & forwards+=($!)
    kubectl -n data port-forward service/cassandra 19042:9042 >/dev/null & forwards+=($!)
    kubectl -n data port-forward service/mysql 13306:3306 >/dev/null & forwards+=($!)
    trap stop_forwards EXIT
    local port; for port in 9094 19042 13306; do await "the servers' ports to be forwarded ($port)" 15 port_open localhost $port; done
  fi
  "$CARGO_TARGET_DIR/release/demo-report" --kafka "$kafka" --cassandra "$cassandra" --mysql "mysql://root:root@$mysql" --keyspace trading --database trading
}

has_rows() { curl -fs --max-time 5 "$1/api/v1/charts/volume/data.json" | grep -q sector; }

# Where the dashboard is: on the test bed the host reaches Services, elsewhere by a port that is forwarded.
dashboard() {
  local address
  case $place in
  testbed)
    address=http://$(kubectl -n $namespace get service $pipeline-dashboard -o 'jsonpath={.spec.clusterIP}')
    await "rows on the dashboard at $address" 60 has_rows "$address"
    say "The dashboard: $address"
    ;;
  *)
    local told forward; told=$(mktemp)                             # the port is whichever is free
    kubectl -n $namespace port-forward service/$pipeline-dashboard :80 >"$told" & forward=$!
    forwards+=("$forward"); trap stop_forwards EXIT
    await "a port to the dashboard" 15 grep -q '^Forwarding from 127' "$told"
    address=http://$(sed -nE 's/^Forwarding from (127[^ ]*) .*/\1/p;q' "$told")
    await "rows on the dashboard" 60 has_rows "$address"
    rm -f "$told"
    say "The dashboard: http://localhost:8080, with  kubectl -n $namespace port-forward service/$pipeline-dashboard 8080:80"
    ;;
  esac
}

what_next() {
  local shell="eval \"\$(testbed/env)\""
  case $place in kind-testbed) shell="eval \"\$(testbed/env --kind)\"" ;; kind-docker) shell="export KUBECONFIG=$KUBECONFIG" ;; esac
  cat <<T

It keeps running. What to try next:
  $shell
  kubectl -n $namespace describe tp $pipeline                       # what every part of it is doing
  kubectl -n $namespace delete pod --all                              # the sums stay right, to the unit
  kubectl -n $namespace edit tp $pipeline                           # misspell a column, read the condition, put it right
  kubectl explain tp.spec.queries
  make demo-down                                                    # removes everything
T
}

up() {
  local begun; begun=$(now)
  place=$(choose)
  case $place in kind-docker) scripts/doctor.sh rust build kind ;; *) scripts/doctor.sh rust testbed ;; esac || die "this machine lacks something (see above)"
  mkdir -p "$TAPELINE_CACHE"; echo "$place" >"$state"
  case $place in testbed) start_testbed ;; kind-testbed) start_kind_testbed ;; kind-docker) start_kind_docker ;; esac
  claim_servers
  scripts/doctor.sh build || die "this machine lacks something (see above)"
  step "compile (15 minutes the first time)" cargo build --release --workspace --locked
  step "images" images/build.sh
  local archives; mapfile -t archives < <(images/build.sh --archives)
  step "load the images into the cluster" load "${archives[@]}"
  step "helm upgrade --install $release charts/tapeline" install_chart
  step "kubectl apply -f examples/1-$pipeline" apply_pipeline
  step "wait for the pipeline to be Ready" await_ready
  step "the replay of 12,154 daily bars, and what arrived" report
  say ""; kubectl -n $namespace get tp
  say ""; dashboard
  say "The demo runs, after $(since "$begun")."
  what_next
}

down() {
  place=$(choose)
  case $place in
  kind-docker) step "delete the kind cluster" kind delete cluster --name $cluster; rm -f "$TAPELINE_CACHE/kind-kubeconfig" ;;
  kind-testbed) step "delete the kind cluster" testbed/kind/down.sh; step "stop the servers" testbed/down.sh ;;
  testbed) step "stop the test bed" testbed/down.sh ;;
  esac
  rm -f "$state"
}

case ${1:-} in up | down) "$1" ;; *) sed -n '2,8s/^# //p' "$0" >&2; exit 2 ;; esac
