#!/bin/bash
# Fetches and builds, once, what the test bed runs: upstream Kubernetes with etcd, CoreDNS, Helm, Kafka, Cassandra, MySQL and a MongoDB-compatible
# server, all from package registries. Everything lands in $CACHE, outside the work tree. A second call does nothing, a call after an interruption
# goes on where it stopped, a call after a change of versions, patches or the recipes below builds what they change. Needs root (apt, debootstrap).
#   install.sh browser     instead of all that, what only the tests of web pages need: Chromium with its driver
#   install.sh --missing   builds nothing, prints the parts that would be built
source "$(dirname "$0")/lib.sh"

kubernetes() {                     # all daemons and etcd as one binary that looks at its own name
  local P=k8s.io/component-base/version Q=k8s.io/client-go/pkg/version name
  (cd "$TESTBED/kube" && go build -o "$BIN/kube.new" -ldflags "-s -w -X $P.gitVersion=v$KUBE -X $P.gitMajor=1 -X $P.gitMinor=${KUBE:2:2} -X $P.gitTreeState=clean -X $Q.gitVersion=v$KUBE" .)
  mv "$BIN/kube.new" "$BIN/kube"
  for name in etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl; do ln -sf kube "$BIN/$name"; done
}

mongo() {                          # FerretDB, patched
  local source=$CACHE/mongo
  rm -rf "$source"; cp -r "$TESTBED/mongo" "$source"
  (
    cd "$source"
    go mod vendor
    local each; for each in *.patch; do patch -d vendor/github.com/FerretDB/FerretDB -p1 <"$each"; done
    go build -mod=vendor -ldflags '-s -w' -o "$BIN/mongo.new" .
  )
  rm -rf "$source"; mv "$BIN/mongo.new" "$BIN/mongo"
}

jars() {                           # a server and all that it depends on; -C: what has not its checksum is refused
  rm -rf "$CACHE/$1.new"
  mvn -q -B -C -f "$TESTBED/jvm/$1.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$CACHE/$1.new"
  replace "$CACHE/$1"
}

mysql() {                          # from Debian's current suite, in a tree of its own: bookworm itself has only MariaDB, which is not MySQL
  local have
  debian_tree sid "$CACHE/mysql" mysql-server-core,mysql-client
  have=$(dpkg-query --admindir="$CACHE/mysql.new/var/lib/dpkg" -W -f '${Version}' mysql-server-core)
  say "   Debian's current suite (sid) has MySQL $have" >&8               # to the terminal, see step
  [[ $have == "$MYSQL".* ]] ||
    die "the test bed wants MySQL $MYSQL, and Debian's current suite has $have by now. To go on with that, change MYSQL in $TESTBED/lib.sh; the tests say whether it serves"
  replace "$CACHE/mysql"
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
  packages "1 min" containerd runc containernetworking-plugins buildah iptables iproute2 openssl util-linux procps curl jq debootstrap cmake perl patch
  part kubernetes "6 min on 2 cores" "$(sums "$TESTBED"/kube/*)" kubernetes
  part coredns "3 min" "" go_install "github.com/coredns/coredns@$COREDNS"
  part helm "2 min" "" go_install "helm.sh/helm/v4/cmd/helm@$HELM"
  part mongo "2 min" "$(sums "$TESTBED"/mongo/*)" mongo
  part kafka "30 s" "$(sums "$TESTBED/jvm/kafka.xml")" jars kafka
  part cassandra "30 s" "$(sums "$TESTBED/jvm/cassandra.xml")" jars cassandra
  part mysql "1 min" "$MYSQL $(declare -f debian_tree)" mysql
  part pause "5 s" "" pause         # the last: bench/run and doctor.sh look for its mark
}
servers_of() { case $1 in kafka) echo kafka brokers-1 brokers-2 brokers-3 ;; cassandra) echo cassandra cassandra-auth ;; mysql) echo mysql ;; esac; }

adopt kubernetes-1.36.4 kubernetes 9093b4d4c1c9
adopt coredns-v1.14.2 coredns 6e564a1e85b1
adopt helm-v4.3.1 helm 273676c788ca
adopt mongo-v1.24.2-f5a2f320 mongo c9d0428e09c3
adopt kafka kafka ebb955fcc743
adopt cassandra cassandra f687663333a4
adopt mysql mysql cdc80d99821d
adopt pause pause 867fdd4c0319

built="the test bed is built: $CACHE" next="Start it with $TESTBED/up.sh"
case ${1:-} in
'') ;;
browser)
  # The fonts are what most people see where a page asks for Arial, Helvetica or sans-serif.
  steps() { packages "1 min" chromium chromium-driver fonts-liberation; }
  built="the browser of the tests is installed" next="cargo test finds it"
  ;;
--missing) todo; exit ;;
*) sed -n '2,6s/^# //p' "$0" >&2; exit 2 ;;
esac
[ -n "$(todo)" ] || { say "$built"; exit 0; }

"$TESTBED/../scripts/doctor.sh" testbed || exit 1
mkdir -p "$BIN"; cd "$CACHE"
lock "$CACHE/.lock-install" "install.sh"
for name in $(todo); do
  for server in $(servers_of "$name"); do ! running "$server" || die "$server runs from the files that are to be replaced; stop it first: $TESTBED/down.sh"; done
done
export CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false"
begun=$(now)
steps
say "$built (it took $(since "$begun")). $next"
