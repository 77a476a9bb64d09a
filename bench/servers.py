"""The benchmark's own topic, database and keyspace, all named `bench_*`, in the test bed's servers; and what is in them afterwards."""

import socket
import struct
import subprocess
import time
from collections import Counter
from pathlib import Path

from trades import Trades

DATABASE = "bench_trading"
PARTITIONS = 6

# The tables of R1 and the workers' progress table as the operator creates them (api/src/progress.rs). A worker whose progress table is another one waits and
# says so, and the benchmark fails.
MYSQL = f"""
DROP DATABASE IF EXISTS {DATABASE}; CREATE DATABASE {DATABASE}; USE {DATABASE};
CREATE TABLE aggregated_data (processing_id bigint NOT NULL AUTO_INCREMENT PRIMARY KEY, processed_at timestamp(6) NULL, sector varchar(64),
  total_volume bigint, date date, INDEX (date, sector));
CREATE TABLE tapeline_progress (kafka_cluster varchar(64) COLLATE utf8mb4_0900_bin NOT NULL, query varchar(255) COLLATE utf8mb4_0900_bin NOT NULL,
  topic varchar(249) COLLATE utf8mb4_0900_bin NOT NULL, `partition` int NOT NULL, epoch bigint NOT NULL, next_offset bigint NOT NULL,
  write_time bigint NOT NULL, sink_table varchar(64) NOT NULL, plan_hash varchar(64) NOT NULL, updated_at timestamp(6) NOT NULL,
  PRIMARY KEY (kafka_cluster, query, topic, `partition`));
"""
CASSANDRA = [
    f"DROP KEYSPACE IF EXISTS {DATABASE}",
    f"CREATE KEYSPACE {DATABASE} WITH replication = {{'class': 'SimpleStrategy', 'replication_factor': 1}}",
    f"CREATE TABLE {DATABASE}.real_time_data (id bigint PRIMARY KEY, created_at timestamp, ticker text, sector text, volume bigint, market_cap double, "
    "price double)",
    f"CREATE TABLE {DATABASE}.tapeline_progress (kafka_cluster text, query text, topic text, partition int, epoch bigint, next_offset bigint, "
    "write_time bigint, sink_table text, plan_hash text, updated_at timestamp, PRIMARY KEY ((kafka_cluster, query, topic), partition))",
]


class Wrong(Exception):
    """A store does not hold what was sent."""


class Kafka:
    """Kafka through its own command-line tools."""

    def __init__(self, address: str, jars: Path) -> None:
        self.address, self.jars = address, jars
        self.topic = f"bench_{time.strftime('%Y%m%d%H%M%S')}"  # a deleted topic's name is not free at once

    def _argv(self, tool: str, *arguments: str) -> list[str]:
        return ["java", "-cp", f"{self.jars}/*", f"org.apache.kafka.tools.{tool}", "--bootstrap-server", self.address, *arguments]

    def _tool(self, tool: str, *arguments: str) -> str:
        done = subprocess.run(self._argv(tool, *arguments), check=False, capture_output=True, text=True)  # it warns of much on stderr
        if done.returncode != 0:
            raise RuntimeError(f"{tool} {' '.join(arguments)}: {done.stderr}{done.stdout}")
        return done.stdout

    def delete_topics(self) -> None:
        self._tool("TopicCommand", "--delete", "--if-exists", "--topic", "bench_[0-9]+")

    def feed(self, trades: Trades) -> None:
        """Makes the topic and sends all messages, without keys, as the console producer does by default."""
        self._tool("TopicCommand", "--create", "--topic", self.topic, "--partitions", str(PARTITIONS), "--replication-factor", "1")
        with subprocess.Popen(self._argv("ConsoleProducer", "--topic", self.topic), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as producer:
            assert producer.stdin
            for message in trades.messages():
                producer.stdin.write(message + b"\n")
        # The producer ends well even when a message was not accepted.
        ends = [int(line.rsplit(":", 1)[1]) for line in self._tool("GetOffsetShell", "--topic", self.topic).split()]
        if sum(ends) != trades.messages_total or len(ends) != PARTITIONS or not all(ends):
            raise Wrong(f"the topic's partitions hold {ends} messages, {trades.messages_total} were sent")

    def read_by(self, group: str) -> int:
        """How many messages of the topic the group has committed."""
        lines = self._tool("consumer.group.ConsumerGroupCommand", "--describe", "--group", group).splitlines()
        return sum(int(fields[3]) for fields in map(str.split, lines) if len(fields) > 3 and fields[1] == self.topic and fields[3].isdigit())


class MySql:
    """MySQL through the test bed's client (testbed/bin/mysql)."""

    def query(self, sql: str) -> list[list[str]]:
        output = subprocess.run(["mysql", "--batch", "--skip-column-names"], input=sql, check=True, stdout=subprocess.PIPE, text=True).stdout
        return [line.split("\t") for line in output.splitlines()]

    def make_empty(self) -> None:
        self.query(MYSQL)

    def check(self, trades: Trades) -> str:
        rows = self.query(f"SELECT date, sector, SUM(total_volume) FROM {DATABASE}.aggregated_data GROUP BY date, sector")
        found = Counter({(date, sector): int(volume) for date, sector, volume in rows})
        if found != trades.volumes:
            raise Wrong(f"MySQL has a volume of {found.total():,} in {len(found)} groups, sent were {trades.volume:,} in {len(trades.volumes)}")
        return f"volume {found.total():,} in {len(found)} groups"


class Cassandra:
    """Cassandra by its native protocol, version 4: enough of it to make tables and to count."""

    RANGES = 64  # a count of everything at once would run into the server's timeout

    def __init__(self, address: str) -> None:
        host, port = address.split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=60)
        self._request(0x01, struct.pack(">HH", 1, 11) + b"CQL_VERSION" + struct.pack(">H", 5) + b"3.0.0")

    def _read(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = self.socket.recv(length - len(data))
            if not part:
                raise ConnectionError("Cassandra closed the connection")
            data += part
        return data

    def _request(self, opcode: int, body: bytes) -> bytes:
        self.socket.sendall(struct.pack(">BBhBi", 4, 0, 0, opcode, len(body)) + body)
        _, flags, _, opcode, length = struct.unpack(">BBhBi", self._read(9))
        body = self._read(length)
        if opcode == 0x00:
            raise RuntimeError(f"Cassandra: {body[6:].decode(errors='replace')}")
        if flags & 0x08:  # warnings, a list of strings, come first
            (count,), at = struct.unpack_from(">H", body), 2
            for _ in range(count):
                at += 2 + struct.unpack_from(">H", body, at)[0]
            body = body[at:]
        return body

    def query(self, cql: str) -> bytes:
        text = cql.encode()
        return self._request(0x07, struct.pack(">i", len(text)) + text + struct.pack(">HB", 1, 0))  # consistency ONE

    def make_empty(self) -> None:
        for statement in CASSANDRA:
            self.query(statement)

    def check(self, trades: Trades) -> str:
        rows = volume = 0
        width = 2**64 // self.RANGES
        for number in range(self.RANGES):
            low = -(2**63) + number * width
            result = self.query(f"SELECT count(*), sum(volume) FROM {DATABASE}.real_time_data WHERE token(id) >= {low} AND token(id) <= {low + width - 1}")
            # One row of two bigints, each behind its length, ends the answer.
            _, some_rows, _, some_volume = struct.unpack(">iqiq", result[-24:])
            rows, volume = rows + some_rows, volume + some_volume
        if (rows, volume) != (trades.rows, trades.volume):
            raise Wrong(f"Cassandra has {rows:,} rows with a volume of {volume:,}, sent were {trades.rows:,} with {trades.volume:,}")
        return f"{rows:,} rows, volume {volume:,}"
