#!/bin/bash
# daemon.sh start|stop: a Docker daemon in a network namespace of its own (kind's clusters live in there), at $CACHE/kind/docker.sock.
source "$(dirname "$0")/lib.sh"
need_root
case ${1:-} in
start)
  ! docker_answers || exit 0
  command -v dockerd >/dev/null || die "no Docker daemon is installed: $KIND_DIR/install.sh"
  if [ ! -e /run/netns/$KIND_NS ]; then ip netns add $KIND_NS; "${IN_KIND[@]}" ip link set lo up; fi
  "${IN_KIND[@]}" sysctl -qw net.ipv4.ip_forward=1
  rm -f "$W/docker.pid"                                            # of a daemon that was killed
  setsid nohup "${IN_KIND[@]}" dockerd --add-runtime restricted="$KIND_DIR/runc-without-sys-resource" --default-runtime restricted \
    --data-root "$W/docker" --exec-root "$W/exec" --pidfile "$W/docker.pid" -H "$DOCKER_HOST" </dev/null >"$W/dockerd.log" 2>&1 8>&- 9>&- &
  await "the Docker daemon (log: $W/dockerd.log)" 30 docker_answers ;;
stop)
  [ -e /run/netns/$KIND_NS ] || exit 0
  if pid=$(cat "$W/docker.pid" 2>/dev/null) && [ "/proc/$pid/ns/net" -ef /run/netns/$KIND_NS ]; then
    kill "$pid"; await "the Docker daemon to stop" 20 ended "$pid" || true
  fi
  for pid in $(ip netns pids $KIND_NS); do kill -KILL "$pid" 2>/dev/null || true; done
  ip netns del $KIND_NS ;;
*) die "start or stop?" ;;
esac
