# Sourced: one Kubernetes node, every part a plain process in the namespace. Each function can be called again: it starts what is missing.
# shellcheck shell=bash

kubectl() { "$BIN/kubectl" --kubeconfig="$RUN/kc/admin" "$@"; }

certificate() {                                # NAME SUBJECT [SAN]: a key, a certificate and a kubeconfig
  (
    cd "$RUN/pki" || exit
    openssl req -newkey rsa:2048 -nodes -keyout "$1.key" -out "$1.csr" -subj "$2"
    printf 'keyUsage=digitalSignature,keyEncipherment\nextendedKeyUsage=clientAuth,serverAuth\n%s\n' "${3:+subjectAltName=$3}" >"$1.ext"
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -extfile "$1.ext" -out "$1.crt"
    cat >../kc/"$1" <<K
{"apiVersion":"v1","kind":"Config","current-context":"testbed","contexts":[{"name":"testbed","context":{"cluster":"testbed","user":"$1"}}],
"clusters":[{"name":"testbed","cluster":{"server":"https://$IP:6443","certificate-authority-data":"$(base64 -w0 ca.crt)"}}],
"users":[{"name":"$1","user":{"client-certificate-data":"$(base64 -w0 "$1.crt")","client-key-data":"$(base64 -w0 "$1.key")"}}]}
K
  ) 2>>"$RUN/log/pki.log"
}

certificates() {
  [ ! -e "$RUN/pki/complete" ] || return 0
  openssl req -x509 -newkey rsa:2048 -nodes -keyout "$RUN/pki/ca.key" -out "$RUN/pki/ca.crt" -days 365 -subj /CN=testbed 2>>"$RUN/log/pki.log"
  certificate apiserver /CN=kube-apiserver "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:localhost,IP:127.0.0.1,IP:10.96.0.1,IP:$IP"
  certificate admin /O=system:masters/CN=admin
  certificate kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client
  certificate controller-manager /CN=system:kube-controller-manager
  certificate scheduler /CN=system:kube-scheduler
  certificate proxy /CN=system:kube-proxy
  certificate node "/O=system:nodes/CN=system:node:$NODE" "DNS:$NODE,IP:$IP"
  openssl genrsa -out "$RUN/pki/sa.key" 2048 2>>"$RUN/log/pki.log"
  openssl rsa -in "$RUN/pki/sa.key" -pubout -out "$RUN/pki/sa.pub" 2>>"$RUN/log/pki.log"
  touch "$RUN/pki/complete"
}

kubernetes_config() {
  cat >"$RUN/containerd.toml" <<C
version = 2
root = "$RUN/containerd"
state = "$RUN/containerd-state"
[grpc]
  address = "$RUN/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true                # without CAP_SYS_RESOURCE a negative score is refused
  netns_mounts_under_state_dir = true          # so that down.sh finds them, and never another containerd's
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$RUN/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
C
  cat >"$RUN/cni/10-pods.conflist" <<C
{"cniVersion":"1.0.0","name":"pods","plugins":[
{"type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":true,"hairpinMode":true,
 "ipam":{"type":"host-local","dataDir":"$RUN/ipam","ranges":[[{"subnet":"$POD_CIDR"}]],"routes":[{"dst":"0.0.0.0/0"}]}},
{"type":"portmap","capabilities":{"portMappings":true}}]}
C
  # failCgroupV1: since 1.35 the kubelet refuses cgroup v1 unless told otherwise. crashLoopBackOff: tests kill the same container several times; by default it is
  # started again after 10 s the first time, and after five minutes at last.
  cat >"$RUN/kubelet.yaml" <<C
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
failSwapOn: false
oomScoreAdj: 0
maxOpenFiles: 20000
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $RUN/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $RUN/pki/node.crt
tlsPrivateKeyFile: $RUN/pki/node.key
containerRuntimeEndpoint: unix://$RUN/containerd.sock
clusterDNS: [$CLUSTER_DNS]
clusterDomain: cluster.local
resolvConf: ""
crashLoopBackOff: {maxContainerRestartPeriod: 5s}
podLogsDir: $RUN/pods
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: "100Mi", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%"}
C
  cat >"$RUN/proxy.yaml" <<C
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $RUN/kc/proxy}
mode: iptables
iptables: {minSyncPeriod: 100ms}
clusterCIDR: $POD_CIDR
hostnameOverride: $NODE
oomScoreAdj: 0
conntrack: {maxPerCore: 0}
C
  cat >"$RUN/Corefile" <<C
.:53 {
  bind $IP
  errors
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $RUN/kc/admin testbed
    pods insecure
  }
  cache 5
}
C
}

control_plane() {
  spawn etcd "$BIN/etcd" --data-dir "$RUN/etcd" --unsafe-no-fsync --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 --initial-cluster default=http://127.0.0.1:2380
  spawn apiserver "$BIN/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --advertise-address="$IP" --service-cluster-ip-range="$SERVICE_CIDR" \
    --tls-cert-file="$RUN/pki/apiserver.crt" --tls-private-key-file="$RUN/pki/apiserver.key" --client-ca-file="$RUN/pki/ca.crt" \
    --kubelet-client-certificate="$RUN/pki/kubelet-client.crt" --kubelet-client-key="$RUN/pki/kubelet-client.key" \
    --kubelet-certificate-authority="$RUN/pki/ca.crt" --kubelet-preferred-address-types=InternalIP \
    --service-account-key-file="$RUN/pki/sa.pub" --service-account-signing-key-file="$RUN/pki/sa.key" --service-account-issuer=https://kubernetes.default.svc \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true --cert-dir="$RUN/apiserver" \
    --audit-policy-file="$TESTBED/audit.yaml" --audit-log-path="$RUN/log/audit.json"
  await "the API server" 90 kubectl get --raw /readyz
  spawn controller-manager "$BIN/kube-controller-manager" --kubeconfig="$RUN/kc/controller-manager" --authentication-kubeconfig="$RUN/kc/controller-manager" \
    --authorization-kubeconfig="$RUN/kc/controller-manager" --root-ca-file="$RUN/pki/ca.crt" --service-account-private-key-file="$RUN/pki/sa.key" \
    --use-service-account-credentials=true --cluster-signing-cert-file="$RUN/pki/ca.crt" --cluster-signing-key-file="$RUN/pki/ca.key" \
    --leader-elect=false --cert-dir="$RUN/kcm"
  spawn scheduler "$BIN/kube-scheduler" --kubeconfig="$RUN/kc/scheduler" --authentication-kubeconfig="$RUN/kc/scheduler" \
    --authorization-kubeconfig="$RUN/kc/scheduler" --leader-elect=false
}

start_kubernetes() {
  mkdir -p "$RUN"/{pki,kc,cni}
  certificates; kubernetes_config
  spawn containerd containerd -c "$RUN/containerd.toml"
  control_plane
  "$TESTBED/load-image.sh" "$CACHE/pause.tar" >/dev/null
  spawn kubelet "$BIN/kubelet" --config="$RUN/kubelet.yaml" --kubeconfig="$RUN/kc/node" --root-dir="$RUN/kubelet" --cert-dir="$RUN/kubelet/pki" \
    --node-ip="$IP" --hostname-override="$NODE"
  spawn proxy "$BIN/kube-proxy" --config="$RUN/proxy.yaml"
  spawn coredns "$BIN/coredns" -conf "$RUN/Corefile"
  { external_service kube-system kube-dns 53 "clusterIP: $CLUSTER_DNS,"; echo ---; data_services; } | kubectl apply -f - >/dev/null
}

# Ready is more than the node: a pod is refused while its namespace has no service account yet, and Services do not answer before kube-proxy's first rules.
await_kubernetes() {
  await "node $NODE to be Ready" 60 kubectl wait --for=condition=Ready "node/$NODE" --timeout=5s
  await "the default service accounts" 30 kubectl -n default get serviceaccount default
  await "the default service accounts" 30 kubectl -n data get serviceaccount default
  await "the Service kubernetes.default (kube-proxy)" 30 port_open 10.96.0.1 443
  await "the Service kube-dns (CoreDNS)" 30 port_open "$CLUSTER_DNS" 53
}

KUBERNETES=(etcd apiserver controller-manager scheduler containerd kubelet proxy coredns)
kubernetes_answers() {
  local part; for part in "${KUBERNETES[@]}"; do running "$part" && ! frozen "$part" || return 1; done
  [ "$(kubectl get node "$NODE" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' --request-timeout=2s 2>/dev/null)" = True ]
}
