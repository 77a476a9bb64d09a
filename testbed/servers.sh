# Sourced: how each data server starts, is asked whether it answers, and stops. A server's data is in $RUN/NAME and outlives its process:
# it is formatted only when it is absent.
# shellcheck shell=bash

# kafka_node NAME NODE-ID CONTROLLER-PORT VOTERS REPLICAS SETTINGS JAVA-OPTION..: a broker that is one of the controllers VOTERS, too.
kafka_node() {
  local name=$1 id=$2 controller=$IP:$3 voters=$4 replicas=$5 settings=$6 cluster=$RUN/${1%-?}.cluster; shift 6
  local listener=$IP:${PORT[$name]} majority=$((replicas / 2 + 1))
  cat >"$RUN/$name.properties" <<K
process.roles=broker,controller
node.id=$id
controller.quorum.voters=$voters
listeners=PLAINTEXT://$listener,CONTROLLER://$controller
advertised.listeners=PLAINTEXT://$listener
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs=$RUN/$name
auto.create.topics.enable=false
default.replication.factor=$replicas
min.insync.replicas=$majority
offsets.topic.replication.factor=$replicas
transaction.state.log.replication.factor=$replicas
transaction.state.log.min.isr=$majority
share.coordinator.state.topic.replication.factor=$replicas
share.coordinator.state.topic.min.isr=$majority
group.initial.rebalance.delay.ms=0
$settings
K
  cat >"$RUN/kafka-log4j2.properties" <<K
rootLogger.level=WARN
rootLogger.appenderRef.out.ref=OUT
appender.out.type=Console
appender.out.name=OUT
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d %p %c %m%n
K
  # A cluster id of its own each time it starts empty, as with real clusters: progress and ownership are tied to it.
  [ -e "$cluster" ] || printf 'T%s' "$(head -c16 /dev/urandom | base64 | tr +/ -_ | cut -c2-22)" >"$cluster"
  # What is absent is formatted by the process itself, so that all servers do it at once.
  # shellcheck disable=SC2016    # for the inner shell
  spawn "$name" bash -c '
    data=$1 cluster=$2 settings=$3; shift 3
    [ -e "$data/meta.properties" ] || java -XX:TieredStopAtLevel=1 "$@" kafka.tools.StorageTool format --ignore-formatted -t "$cluster" -c "$settings" || exit
    exec java "$@" kafka.Kafka "$settings"
  ' - "$RUN/$name" "$(cat "$cluster")" "$RUN/$name.properties" "$@" -Dlog4j2.configurationFile="file:$RUN/kafka-log4j2.properties" -cp "$CACHE/kafka/*"
}

start_kafka() { kafka_node kafka 1 9093 "1@$IP:9093" 1 "" -Xms384m -Xmx384m -XX:+UseG1GC; }

# The cluster of three that survives the loss of any one: each is broker and controller, everything is on all three, two have to have it. Few
# partitions for offsets and transactions, since each is a file on each broker and moves when one is killed.
start_broker() {
  kafka_node "$1" "${1#brokers-}" "$((${PORT[$1]} + 3))" "1@$IP:9195,2@$IP:9196,3@$IP:9197" 3 \
    $'offsets.topic.num.partitions=3\ntransaction.state.log.num.partitions=3' -Xms256m -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1
}
start_brokers-1() { start_broker brokers-1; }
start_brokers-2() { start_broker brokers-2; }
start_brokers-3() { start_broker brokers-3; }

# periodic is Cassandra's default: a node that is killed loses what it acknowledged in the last seconds, unless another replica has it. With
# TESTBED_COMMITLOG_SYNC=batch an acknowledged row is on the disk: for tests that kill the only node.
commitlog() {
  case ${TESTBED_COMMITLOG_SYNC:-periodic} in
  periodic) printf 'commitlog_sync: periodic\ncommitlog_sync_period: 10000ms\n' ;;
  batch) printf 'commitlog_sync: batch\n' ;;
  *) die "TESTBED_COMMITLOG_SYNC=$TESTBED_COMMITLOG_SYNC: choose periodic or batch" ;;
  esac
}

# cassandra_node NAME STORAGE-PORT JMX-PORT SETTINGS JAVA-OPTION..: the only node of a cluster.
cassandra_node() {
  local name=$1 storage=$2 jmx=$3 settings=$4; shift 4
  cat >"$RUN/$name.yaml" <<C
cluster_name: $name
num_tokens: 4
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
$(commitlog)
seed_provider: [{class_name: org.apache.cassandra.locator.SimpleSeedProvider, parameters: [{seeds: "$IP:$storage"}]}]
listen_address: $IP
storage_port: $storage
rpc_address: $IP
native_transport_port: ${PORT[$name]}
endpoint_snitch: SimpleSnitch
auto_snapshot: false
$settings
C
  cat >"$RUN/cassandra.logback.xml" <<C
<configuration><appender name="OUT" class="ch.qos.logback.core.ConsoleAppender"><encoder><pattern>%d %p %c %m%n</pattern></encoder></appender>
<root level="WARN"><appender-ref ref="OUT"/></root></configuration>
C
  local options; mapfile -t options <"$TESTBED/jvm/cassandra-17.options"
  spawn "$name" java "${options[@]}" -Xss512k "$@" \
    -javaagent:"$CACHE/cassandra/jamm-0.4.0.jar" -Dcassandra-foreground=yes -Dcassandra.config="file://$RUN/$name.yaml" \
    -Dcassandra.storagedir="$RUN/$name" -Dcassandra.logdir="$RUN/log" -Dlogback.configurationFile="file://$RUN/cassandra.logback.xml" \
    -Dcassandra.jmx.local.port="$jmx" -Dcassandra.skip_wait_for_gossip_to_settle=0 -Dcassandra.ring_delay_ms=2000 \
    -cp "$CACHE/cassandra/*" org.apache.cassandra.service.CassandraDaemon
}

start_cassandra() { cassandra_node cassandra 7000 7199 "" -XX:+UseG1GC -Xms1g -Xmx1g -XX:MaxDirectMemorySize=512m; }

# Who has no password is refused. Cassandra waits 10 s before it makes its superuser, so that other nodes can be seen, and hashes passwords 1,024 times.
start_cassandra-auth() {
  cassandra_node cassandra-auth 7010 7299 $'authenticator: PasswordAuthenticator\nauthorizer: CassandraAuthorizer' \
    -Dcassandra.superuser_setup_delay_ms=0 -Dcassandra.auth_bcrypt_gensalt_log=4 -XX:+UseSerialGC -Xms512m -Xmx512m -XX:MaxDirectMemorySize=256m
}

# The role that clients use, once: it may make keyspaces, and owns what it makes.
prepare_cassandra-auth() {
  [ ! -e "$RUN/cassandra-auth.role" ] || return 0
  timeout 10 "$TESTBED/cql.sh" "$IP" "${PORT[cassandra-auth]}" cassandra cassandra \
    "CREATE ROLE IF NOT EXISTS $USER_NAME WITH PASSWORD = '$USER_PASSWORD' AND LOGIN = true" \
    "GRANT CREATE ON ALL KEYSPACES TO $USER_NAME" && touch "$RUN/cassandra-auth.role"
}

# mysqld lives in a Debian tree of its own; its data is mounted there in a mount namespace of its own, so that nothing is left mounted.
MYSQL_TREE=(unshare --mount --propagation private bash -c 'mount --bind "$1" "$2/data"; root=$2; shift 2; exec chroot "$root" "$@"' - "$RUN/mysql" "$CACHE/mysql")

start_mysql() {
  mkdir -p "$RUN/mysql/run" "$CACHE/mysql/data"
  if [ ! -d "$RUN/mysql/db" ]; then            # root:root from anywhere, as the stock image gives it
    rm -rf "$RUN/mysql/new"
    cat >"$RUN/mysql/init.sql" <<'S'
ALTER USER root@localhost IDENTIFIED BY 'root';
CREATE USER root@'%' IDENTIFIED BY 'root';
GRANT ALL ON *.* TO root@'%' WITH GRANT OPTION;
S
    "${MYSQL_TREE[@]}" mysqld --no-defaults --initialize-insecure --user=root --datadir=/data/new --init-file=/data/init.sql >>"$RUN/log/mysql.log" 2>&1
    mv "$RUN/mysql/new" "$RUN/mysql/db"
  fi
  spawn mysql "${MYSQL_TREE[@]}" mysqld --no-defaults --user=root --datadir=/data/db --secure-file-priv=NULL --mysqlx=OFF \
    --skip-name-resolve --bind-address="$IP" --port=3306 --socket=/data/run/mysqld.sock --pid-file=/data/run/mysqld.pid \
    --log-bin=binlog --server-id=1 --gtid-mode=ON --enforce-gtid-consistency=ON
}

start_mongo() { mkdir -p "$RUN/mongo"; spawn mongo "$BIN/mongo" "$IP:27017" "$RUN/mongo" "$USER_NAME" "$USER_PASSWORD"; }

start_server() { if frozen "$1"; then kill -CONT "$(pid_of "$1")"; else "start_$1"; fi; }
# It takes connections, and has what its clients expect.
answers() { running "$1" && ! frozen "$1" && port_open "$IP" "${PORT[$1]}" && { ! declare -F "prepare_$1" >/dev/null || "prepare_$1" >/dev/null 2>&1; }; }

answers_or_dead() { ! running "$1" || answers "$1"; }
# Waits until the server answers; an end of its process ends the wait.
await_server() {
  await "$1 on $IP:${PORT[$1]}" 120 answers_or_dead "$1"
  running "$1" || { say "$1 ended while it started; the end of $RUN/log/$1.log:" >&2; tail -5 "$RUN/log/$1.log" >&2; return 1; }
}
