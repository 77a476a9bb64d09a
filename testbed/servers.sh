# Sourced: how each data server starts, is asked whether it answers, and stops. A server's data is in $RUN/NAME and outlives its process:
# it is formatted only when it is absent.
# shellcheck shell=bash

start_kafka() {
  cat >"$RUN/kafka.properties" <<K
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@$IP:9093
listeners=PLAINTEXT://$IP:9092,CONTROLLER://$IP:9093
advertised.listeners=PLAINTEXT://$IP:9092
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs=$RUN/kafka
auto.create.topics.enable=false
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
K
  cat >"$RUN/kafka.log4j2" <<K
rootLogger.level=WARN
rootLogger.appenderRef.out.ref=OUT
appender.out.type=Console
appender.out.name=OUT
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d %p %c %m%n
K
  # A cluster id of its own each time it starts empty, as with real clusters: progress and ownership are tied to it.
  [ -e "$RUN/kafka/meta.properties" ] ||
    java -cp "$CACHE/kafka/*" kafka.tools.StorageTool format -t "T$(head -c16 /dev/urandom | base64 | tr +/ -_ | cut -c2-22)" \
      -c "$RUN/kafka.properties" >>"$RUN/log/kafka.log" 2>&1
  spawn kafka java -Xms384m -Xmx384m -XX:+UseG1GC -Dlog4j2.configurationFile="file:$RUN/kafka.log4j2" \
    -cp "$CACHE/kafka/*" kafka.Kafka "$RUN/kafka.properties"
}

# periodic is Cassandra's default: a node that is killed loses what it acknowledged in the last seconds, unless another replica has it. With
# TESTBED_COMMITLOG_SYNC=batch an acknowledged row is on the disk: for tests that kill the only node.
commitlog() {
  case ${TESTBED_COMMITLOG_SYNC:-periodic} in
  periodic) printf 'commitlog_sync: periodic\ncommitlog_sync_period: 10000ms\n' ;;
  batch) printf 'commitlog_sync: batch\n' ;;
  *) die "TESTBED_COMMITLOG_SYNC=$TESTBED_COMMITLOG_SYNC: choose periodic or batch" ;;
  esac
}

start_cassandra() {
  cat >"$RUN/cassandra.yaml" <<C
cluster_name: testbed
num_tokens: 4
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
$(commitlog)
seed_provider: [{class_name: org.apache.cassandra.locator.SimpleSeedProvider, parameters: [{seeds: "$IP:7000"}]}]
listen_address: $IP
rpc_address: $IP
endpoint_snitch: SimpleSnitch
auto_snapshot: false
C
  cat >"$RUN/cassandra.logback.xml" <<C
<configuration><appender name="OUT" class="ch.qos.logback.core.ConsoleAppender"><encoder><pattern>%d %p %c %m%n</pattern></encoder></appender>
<root level="WARN"><appender-ref ref="OUT"/></root></configuration>
C
  local options; mapfile -t options <"$TESTBED/jvm/cassandra-17.options"
  spawn cassandra java "${options[@]}" -XX:+UseG1GC -Xms1g -Xmx1g -XX:MaxDirectMemorySize=512m -Xss512k \
    -javaagent:"$CACHE/cassandra/jamm-0.4.0.jar" -Dcassandra-foreground=yes -Dcassandra.config="file://$RUN/cassandra.yaml" \
    -Dcassandra.storagedir="$RUN/cassandra" -Dcassandra.logdir="$RUN/log" -Dlogback.configurationFile="file://$RUN/cassandra.logback.xml" \
    -Dcassandra.jmx.local.port=7199 -Dcassandra.skip_wait_for_gossip_to_settle=0 -Dcassandra.ring_delay_ms=2000 \
    -cp "$CACHE/cassandra/*" org.apache.cassandra.service.CassandraDaemon
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
    --skip-name-resolve --bind-address=$IP --port=3306 --socket=/data/run/mysqld.sock --pid-file=/data/run/mysqld.pid \
    --log-bin=binlog --server-id=1 --gtid-mode=ON --enforce-gtid-consistency=ON
}

start_mongo() { mkdir -p "$RUN/mongo"; spawn mongo "$BIN/mongo" $IP:27017 "$RUN/mongo"; }

start_server() { if frozen "$1"; then kill -CONT "$(pid_of "$1")"; else "start_$1"; fi; }
answers() { running "$1" && ! frozen "$1" && port_open $IP "${PORT[$1]}"; }

# Waits until the server takes connections; an end of its process ends the wait.
await_server() {
  answers_or_dead() { ! running "$1" || answers "$1"; }
  await "$1 on $IP:${PORT[$1]}" 120 answers_or_dead "$1"
  running "$1" || { say "$1 ended while it started; the end of $RUN/log/$1.log:" >&2; tail -5 "$RUN/log/$1.log" >&2; return 1; }
}
