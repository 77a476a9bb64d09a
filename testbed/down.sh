#!/bin/bash
# Stops the test bed and removes its state. Safe to call when nothing runs.
source "$(dirname "$0")/lib.sh"
need_root
lock "$CACHE/.lock-up" "down.sh"
set +e                                          # whatever is in whichever state: go on to the end

ctr() { timeout 10 ctr -a "$RUN/containerd.sock" -n k8s.io "$@" 2>/dev/null; }
terminate() { local pid; for name; do pid=$(pid_of "$name") && kill -TERM "$pid" && kill -CONT "$pid"; done; }
empty() { [ -z "$(ip netns pids $NS 2>/dev/null)" ]; }

terminate proxy kubelet scheduler controller-manager coredns "${SERVERS[@]}"
if running containerd && ! frozen containerd; then     # the pods: their processes are not in our namespace
  for task in $(ctr tasks ls -q); do ctr tasks kill -s KILL "$task"; done
  for _ in $(seq 20); do ctr tasks ls | grep -q RUNNING || break; sleep 0.2; done
  for task in $(ctr tasks ls -q); do ctr tasks rm -f "$task" >/dev/null; done
fi
terminate apiserver etcd containerd
for _ in $(seq 40); do empty && break; sleep 0.25; done
for pid in $(ip netns pids $NS 2>/dev/null); do        # what is left lives in our namespace: shims with their pods, a slow JVM
  # shellcheck disable=SC2046    # one word per pid
  kill -KILL $(cat /proc/"$pid"/task/*/children 2>/dev/null) "$pid" 2>/dev/null
done
grep -oE " ${RUN}[^ ]*" /proc/mounts | sort -r | while read -r mount; do umount -l "$mount"; done
for cgroup in /sys/fs/cgroup/*/kubepods /sys/fs/cgroup/kubepods; do [ -d "$cgroup" ] && find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null; done
ip link del $NS-up 2>/dev/null
ip netns del $NS 2>/dev/null
# A killed process can still hold a file or a mount for a moment.
for _ in $(seq 20); do rm -rf --one-file-system "$RUN" 2>/dev/null; [ -e "$RUN" ] || exit 0; sleep 0.25; done
die "could not remove $RUN"
