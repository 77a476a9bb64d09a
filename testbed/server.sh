#!/bin/bash
# server.sh ACTION SERVER: handles one server of a running test bed while the others go on. Its data is kept.
#   ACTION  start | stop | restart | kill (SIGKILL) | freeze (SIGSTOP) | continue | status
#   SERVER  kafka | cassandra | mysql | mongo | brokers-1 | brokers-2 | brokers-3 | cassandra-auth
# start and restart return when it takes connections, stop and kill when its process is gone. status says running, frozen or stopped.
source "$(dirname "$0")/lib.sh"
source "$TESTBED/servers.sh"
action=${1:-} server=${2:-}
[ -n "${PORT[${server:-none}]:-}" ] || { sed -n '2,5s/^# //p' "$0" >&2; exit 2; }
need_root
{ [ -d "$RUN/pid" ] && [ -e /run/netns/$NS ]; } || die "the test bed does not run: $TESTBED/up.sh"

signal() { local pid; pid=$(pid_of "$server") || die "$server does not run"; kill "-$1" "$pid"; }
case $action in
start) start_server "$server"; await_server "$server" ;;
stop) stop_process "$server" ;;
restart) stop_process "$server"; start_server "$server"; await_server "$server" ;;
kill) stop_process "$server" KILL ;;
freeze) signal STOP; await "$server to stand still" 5 frozen "$server" ;;
continue) signal CONT ;;
status) if frozen "$server"; then echo frozen; elif running "$server"; then echo running; else echo stopped; fi ;;
*) sed -n '2,5s/^# //p' "$0" >&2; exit 2 ;;
esac
