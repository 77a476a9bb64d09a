#!/bin/bash
# Fetches and builds, once, what the test bed runs: upstream Kubernetes with etcd, CoreDNS, Helm, Kafka, Cassandra, MySQL and a MongoDB-compatible
# server, all from package registries. Everything lands in $CACHE, outside the work tree. A second call does nothing, a call after an interruption
# goes on where it stopped. Needs root (apt, debootstrap).
source "$(dirname "$0")/lib.sh"

kubernetes() {                     # all daemons and etcd as one binary that looks at its own name
  local P=k8s.io/component-base/version Q=k8s.io/client-go/pkg/version name
  (cd "$TESTBED/kube" && go build -o "$BIN/kube.new" -ldflags "-s -w -X $P.gitVersion=v$KUBE -X $P.gitMajor=1 -X $P.gitMinor=${KUBE:2:2} -X $P.gitTreeState=clean -X $Q.gitVersion=v$KUBE" .)
  mv "$BIN/kube.new" "$BIN/kube"
  for name in etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl; do ln -sf kube "$BIN/$name"; done
}

mongo() { (cd "$TESTBED/mongo" && go build -ldflags '-s -w' -o "$BIN/mongo.new" .); mv "$BIN/mongo.new" "$BIN/mongo"; }

jars() {                           # a server and all that it depends on
  rm -rf "$CACHE/$1.new" "${CACHE:?}/$1"
  mvn -q -B -f "$TESTBED/jvm/$1.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$CACHE/$1.new"
  mv "$CACHE/$1.new" "$CACHE/$1"
}

mysql() {                          # from Debian's current suite, in a tree of its own: bookworm itself has only MariaDB, which is not MySQL
  debian_tree sid "$CACHE/mysql" mysql-server-core,mysql-client
  mv "$CACHE/mysql.new" "$CACHE/mysql"
}

pause() {                          # the sandbox container of every pod
  mkdir -p pause; rm -f pause.tar
  cat >pause/pause.c <<'C'
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
static void stop(int s) { (void)s; _exit(0); }
static void reap(int s) { (void)s; while (waitpid(-1, 0, WNOHANG) > 0); }
int main(void) { signal(SIGINT, stop); signal(SIGTERM, stop); signal(SIGCHLD, reap); for (;;) pause(); }
C
  gcc -O2 -static -o pause/pause pause/pause.c
  printf 'FROM scratch\nCOPY pause /pause\nUSER 65532:65532\nENTRYPOINT ["/pause"]\n' >pause/Dockerfile
  buildah --storage-driver vfs bud --isolation chroot -q -t localhost/pause:1 pause
  buildah --storage-driver vfs push -q localhost/pause:1 "docker-archive:$CACHE/pause.tar:localhost/pause:1"
}

steps() {
  step packages "1 min" apt_install containerd runc containernetworking-plugins buildah iptables iproute2 openssl util-linux procps curl jq debootstrap cmake perl
  step "kubernetes-$KUBE" "6 min on 2 cores" kubernetes
  step "coredns-$COREDNS" "3 min" go_install "github.com/coredns/coredns@$COREDNS"
  step "helm-$HELM" "2 min" go_install "helm.sh/helm/v4/cmd/helm@$HELM"
  step "mongo-$FERRET" "2 min" mongo
  step kafka "30 s" jars kafka
  step cassandra "30 s" jars cassandra
  step mysql "1 min" mysql
  step pause "5 s" pause
}

# What is done already is seen without asking for anything: no root, no compiler.
todo() { step() { [ -e "$MARKS/.done-$1" ] || echo "$1"; }; steps; }
[ -n "$(todo)" ] || { say "the test bed is built: $CACHE"; exit 0; }

"$TESTBED/../scripts/doctor.sh" testbed || exit 1
mkdir -p "$BIN"; cd "$CACHE"
lock "$CACHE/.lock-install" "install.sh"
export CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false"
begun=$(now)
steps
say "the test bed is built in $(since "$begun"): $CACHE. Start it with $TESTBED/up.sh"
