#!/bin/bash
# Makes, once, what `kind` needs where no image registry is in reach: a Docker daemon that runs privileged containers without CAP_SYS_RESOURCE, and a node
# image assembled from Debian bookworm, the test bed's Kubernetes and kind's own base files (from its Go module). Calls ../install.sh first. Root.
#   install.sh --missing   builds nothing, prints the parts that would be built, those of the test bed among them
source "$(dirname "$0")/lib.sh"
MARKS=$W

containerd() {                     # 2.x, from Debian's current suite, unpacked: it needs only libc
  rm -rf apt containerd containerd.new containerd_*.deb
  local mirror; mirror=$(debian_mirror)
  mkdir -p apt/lists/partial apt/cache/archives/partial; echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" >apt/sources.list
  local apt=(-qq -o Dir::Etc::sourcelist="$W/apt/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$W/apt/lists" -o Dir::Cache="$W/apt/cache" -o APT::Sandbox::User=root)
  apt-get "${apt[@]}" update; apt-get "${apt[@]}" download containerd
  dpkg -x containerd_*.deb containerd.new; rm -rf apt containerd_*.deb
  mv containerd.new containerd
}

rootfs() {                         # the node's files; bookworm, because its systemd still takes cgroup v1
  debian_tree bookworm "$W/rootfs" systemd,conntrack,iptables,nftables,iproute2,ethtool,util-linux,mount,kmod,libseccomp2,pigz,e2fsprogs,ca-certificates,curl,jq,procps,runc,socat
  local r=$W/rootfs.new base; base=$(go mod download -json "sigs.k8s.io/kind@$KIND" | jq -r .Dir)/images/base/files
  cp -r --no-preserve=mode "$base/." "$r/"; chmod 0755 "$r"/usr/local/bin/* "$r"/kind/bin/*
  cp containerd/usr/bin/{containerd,ctr,containerd-shim-runc-v2} "$r/usr/local/bin/"
  mkdir -p "$r"/opt/cni/bin "$r"/etc/kubernetes/manifests "$r"/kind/manifests "$r"/etc/cni/net.d
  cp /usr/lib/cni/{host-local,loopback,ptp,portmap,bridge} "$r/opt/cni/bin/"
  # As kind's own Dockerfile does: a systemd that starts nothing but what a node needs.
  chroot "$r" sh -c '
    rm -f /lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service /lib/systemd/system/multi-user.target.wants/* /etc/systemd/system/*.wants/* \
      /lib/systemd/system/local-fs.target.wants/* /lib/systemd/system/sockets.target.wants/*udev* /lib/systemd/system/sockets.target.wants/*initctl* /lib/systemd/system/basic.target.wants/*
    echo ReadKMsg=no >>/etc/systemd/journald.conf; ln -sf /lib/systemd/systemd /sbin/init
    systemctl enable kubelet containerd undo-mount-hacks; systemctl mask systemd-binfmt'
  containerd/usr/bin/ctr oci spec | jq '.hooks.createContainer += [{"path":"/kind/bin/mount-product-files.sh"}] | del(.process.rlimits)' >"$r/etc/containerd/cri-base.json"
  sed -i 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/' "$r/etc/containerd/config.toml"
  echo 'KUBELET_EXTRA_ARGS=--runtime-cgroups=/system.slice/containerd.service --fail-cgroupv1=false' >"$r/etc/default/kubelet"
  printf 'v%s' "$KUBE" >"$r/kind/version"
  # One node's network, in place of kindnet's image; kind still wants a manifest to apply.
  cat >"$r/etc/cni/net.d/10-bridge.conflist" <<C
{"cniVersion":"1.0.0","name":"pods","plugins":[
{"type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":true,"hairpinMode":true,
 "ipam":{"type":"host-local","ranges":[[{"subnet":"$POD_CIDR"}]],"routes":[{"dst":"0.0.0.0/0"}]}},
{"type":"portmap","capabilities":{"portMappings":true}}]}
C
  printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cni, namespace: kube-system}\ndata: {plugin: bridge}\n' >"$r/kind/manifests/default-cni.yaml"
  printf 'apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: standard, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}\nprovisioner: kubernetes.io/no-provisioner\n' >"$r/kind/manifests/default-storage.yaml"
  replace "$W/rootfs"
}

# The images of a control plane under the names that kubeadm asks for, each around the one Kubernetes binary, preloaded into the node image.
node_image() {
  local path='ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' images name image daemon=stop
  ! docker_answers || daemon=stays                   # a cluster may run in it
  "$KIND_DIR/daemon.sh" start
  rm -rf ctx; mkdir ctx; cp "$BIN/kube" ctx/one; cp "$BIN/coredns" ctx/; ln -s one ctx/kubeadm; gcc -O2 -static -o ctx/pause "$CACHE/pause/pause.c"
  images=$(ctx/kubeadm config images list --kubernetes-version "v$KUBE" | grep -v /pause:; grep -o '[^"]*/pause:[^"]*' rootfs/etc/containerd/config.toml)
  rm ctx/kubeadm
  tar -C rootfs -c . | docker import - kind-rootfs
  for image in $images; do
    name=$(basename "${image%:*}")
    case $name in
    pause) printf 'FROM scratch\nCOPY pause /pause\nENTRYPOINT ["/pause"]\n' ;;
    coredns) printf 'FROM scratch\nCOPY coredns /coredns\nENTRYPOINT ["/coredns"]\n' ;;
    kube-proxy) printf 'FROM kind-rootfs\nCOPY one /usr/local/bin/kube-proxy\n%s\n' "$path" ;;       # it calls iptables
    *) printf 'FROM scratch\nCOPY one /usr/local/bin/%s\n%s\n' "$name" "$path" ;;
    esac | docker build -q -t "$image" -f - ctx
  done
  printf '%s\n' 'FROM kind-rootfs' 'ENV container=docker' 'STOPSIGNAL SIGRTMIN+3' 'COPY one /usr/bin/kubeadm' 'COPY one /usr/bin/kubelet' 'COPY one /usr/bin/kubectl' \
    'ENTRYPOINT ["/usr/local/bin/entrypoint","/sbin/init"]' | docker build -q -t kind-base -f - ctx
  docker rm -f node-image 2>/dev/null || true
  docker run -d --name node-image --privileged --entrypoint sleep kind-base infinity
  docker exec node-image bash -c '(nohup containerd >/dev/null 2>&1 & echo $! >/run/containerd.pid); for i in $(seq 100); do ctr version >/dev/null 2>&1 && exit; sleep 0.1; done; exit 1'
  # shellcheck disable=SC2086    # one word per image
  docker save $images | docker exec -i node-image ctr -n k8s.io images import --all-platforms --no-unpack --digests -
  # A killed process stays as a zombie there (PID 1 is sleep): it has ended when its command line is empty.
  docker exec node-image bash -c 'pid=$(cat /run/containerd.pid); kill $pid; while grep -q . /proc/$pid/cmdline; do sleep 0.1; done; rm -rf /run/containerd /run/containerd.pid'
  docker commit --change 'ENTRYPOINT ["/usr/local/bin/entrypoint","/sbin/init"]' node-image "$NODE_IMAGE"
  docker rm -f node-image
  rm -rf ctx
  [ $daemon = stays ] || "$KIND_DIR/daemon.sh" stop
}

steps() {
  packages "1 min" docker.io debootstrap jq
  part kind "1 min" "" go_install "sigs.k8s.io/kind@$KIND"
  part containerd "20 s" "" containerd
  part rootfs "1 min" "$KIND $KUBE $POD_CIDR $(made "$W" containerd) $(declare -f debian_tree)" rootfs
  part node-image "1 min" "$NODE_IMAGE $(made "$CACHE" kubernetes coredns pause) $(made "$W" rootfs)" node_image
}

adopt kind kind 8d2dcaedb53f
adopt containerd containerd 3c66d3e71b3c
adopt rootfs rootfs a24a74ab4d93
adopt node-image node-image 0bad4c6725e2

test_bed=$("$TESTBED/install.sh" --missing)
case ${1:-} in
'') ;;
--missing) [ -z "$test_bed" ] || say "$test_bed"; todo; exit ;;
*) sed -n '2,4s/^# //p' "$0" >&2; exit 2 ;;
esac

[ -n "$test_bed$(todo)" ] || { say "kind is built: $W"; exit 0; }
need_root
"$TESTBED/install.sh"
mkdir -p "$W"; cd "$W"
lock "$CACHE/.lock-install" "kind/install.sh"
export CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false"
steps
say "kind is built: $W. Create a cluster with $KIND_DIR/up.sh"
