"""The benchmark's own topics, databases and keyspace, all named `bench_*`, in the test bed's servers; and what is in them afterwards."""

import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
from cassandra.policies import RoundRobinPolicy
from pymongo import MongoClient
from trades import Candle, Trades

DATABASE = "bench_trading"
PARTITIONS = 6

# The tables of R1, of the other modes, and the workers' progress table as the operator creates them (api/src/progress.rs). A worker whose progress table is another
# one waits and says so, and the benchmark fails.
MYSQL = f"""
DROP DATABASE IF EXISTS {DATABASE}; CREATE DATABASE {DATABASE}; USE {DATABASE};
CREATE TABLE aggregated_data (processing_id bigint NOT NULL AUTO_INCREMENT PRIMARY KEY, processed_at timestamp(6) NULL, sector varchar(64),
  total_volume bigint, date date, INDEX (date, sector));
CREATE TABLE real_time_data (id bigint NOT NULL PRIMARY KEY, created_at timestamp(6) NULL, ticker varchar(16), sector varchar(64), volume bigint,
  market_cap double, price double);
CREATE TABLE candles (ticker varchar(16) COLLATE utf8mb4_0900_bin NOT NULL, hour datetime NOT NULL, open double, high double, low double, close double, volume bigint, trades bigint,
  open_order binary(24), close_order binary(24), PRIMARY KEY (ticker, hour));
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


def _same_rows(store: str, rows: int, volume: int, trades: Trades) -> str:
    if (rows, volume) != (trades.rows, trades.volume):
        raise Wrong(f"{store} has {rows:,} rows with a volume of {volume:,}, sent were {trades.rows:,} with {trades.volume:,}")
    return f"{store}: {rows:,} rows, volume {volume:,}"


class Kafka:
    """Kafka through its own command-line tools."""

    PROGRESS = "tapeline-progress"

    def __init__(self, address: str, jars: Path) -> None:
        self.address, self.jars = address, jars
        self.topic = f"bench_{time.strftime('%Y%m%d%H%M%S')}"  # a deleted topic's name is not free at once
        self.targets = 0

    @property
    def target(self) -> str:
        """The topic of the sink `kafka`: another one for each run."""
        return f"{self.topic}_{self.targets}"

    def _argv(self, tool: str, *arguments: str) -> list[str]:
        return ["java", "-cp", f"{self.jars}/*", f"org.apache.kafka.tools.{tool}", "--bootstrap-server", self.address, *arguments]

    def _tool(self, tool: str, *arguments: str) -> str:
        done = subprocess.run(self._argv(tool, *arguments), check=False, capture_output=True, text=True)  # it warns of much on stderr
        if done.returncode != 0:
            raise RuntimeError(f"{tool} {' '.join(arguments)}: {done.stderr}{done.stdout}")
        return done.stdout

    def delete_topics(self) -> None:
        self._tool("TopicCommand", "--delete", "--if-exists", "--topic", "bench_[0-9_]+")

    def _create(self, topic: str, partitions: int, *more: str) -> None:
        self._tool("TopicCommand", "--create", "--if-not-exists", "--topic", topic, "--partitions", str(partitions), "--replication-factor", "1", *more)

    def feed(self, trades: Trades) -> None:
        """Makes the topic and sends all trades, without keys, as the console producer does by default."""
        self.send(self.topic, PARTITIONS, trades.messages())

    def send(self, topic: str, partitions: int, messages: Iterable[bytes]) -> None:
        """Makes a topic and sends messages to it."""
        self._create(topic, partitions)
        sent = 0
        with subprocess.Popen(self._argv("ConsoleProducer", "--topic", topic), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as producer:
            assert producer.stdin
            for message in messages:
                producer.stdin.write(message + b"\n")
                sent += 1
        # The producer ends well even when a message was not accepted.
        ends = [int(line.rsplit(":", 1)[1]) for line in self._tool("GetOffsetShell", "--topic", topic).split()]
        if sum(ends) != sent or len(ends) != partitions or not all(ends):
            raise Wrong(f"the topic's partitions hold {ends} messages, {sent} were sent")

    def read_by(self, group: str) -> int:
        """How many messages of the topic the group has committed."""
        lines = self._tool("consumer.group.ConsumerGroupCommand", "--describe", "--group", group).splitlines()
        return sum(int(fields[3]) for fields in map(str.split, lines) if len(fields) > 3 and fields[1] == self.topic and fields[3].isdigit())

    def make_empty(self) -> None:
        """The next target, and the topic in which progress is kept beside it."""
        self.targets += 1
        self._create(self.target, PARTITIONS)
        self._create(self.PROGRESS, 1, "--config", "cleanup.policy=compact")

    def check(self, trades: Trades) -> str:
        """Reads the target as somebody who reads committed, until nothing comes for some seconds."""
        argv = self._argv("consumer.ConsoleConsumer", "--topic", self.target, "--from-beginning", "--isolation-level", "read_committed", "--timeout-ms", "15000")
        volumes: dict[int, int] = {}
        messages = 0
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as consumer:
            assert consumer.stdout
            for line in consumer.stdout:
                if not line.startswith(b"{"):
                    continue  # the tool's own log
                row = json.loads(line)
                volumes[row["id"]] = row["volume"]
                messages += 1
        if messages != len(volumes):
            raise Wrong(f"the topic has {messages:,} messages of {len(volumes):,} ids")
        return _same_rows("Kafka", messages, sum(volumes.values()), trades)


class MySql:
    """MySQL through the test bed's client (testbed/bin/mysql)."""

    def query(self, sql: str) -> list[list[str]]:
        output = subprocess.run(["mysql", "--batch", "--skip-column-names"], input=sql, check=True, stdout=subprocess.PIPE, text=True).stdout
        return [line.split("\t") for line in output.splitlines()]

    def make_empty(self) -> None:
        self.query(MYSQL)

    def check_volumes(self, trades: Trades) -> str:
        rows = self.query(f"SELECT date, sector, SUM(total_volume) FROM {DATABASE}.aggregated_data GROUP BY date, sector")
        found = Counter({(date, sector): int(volume) for date, sector, volume in rows})
        if found != trades.volumes:
            raise Wrong(f"MySQL has a volume of {found.total():,} in {len(found)} groups, sent were {trades.volume:,} in {len(trades.volumes)}")
        return f"MySQL: volume {found.total():,} in {len(found)} groups"

    def check_rows(self, trades: Trades) -> str:
        [[rows, volume]] = self.query(f"SELECT COUNT(*), COALESCE(SUM(volume), 0) FROM {DATABASE}.real_time_data")
        return _same_rows("MySQL", int(rows), int(volume), trades)

    def check_candles(self, trades: Trades) -> str:
        found = {}
        for ticker, hour, *prices, volume, count in self.query(f"SELECT ticker, hour, open, high, low, close, volume, trades FROM {DATABASE}.candles"):
            found[ticker, hour] = Candle(*map(float, prices), int(volume), int(count))
        if found != trades.candles:
            wrong = [(key, candle, found.get(key)) for key, candle in trades.candles.items() if found.get(key) != candle]
            raise Wrong(f"MySQL has {len(found):,} candles of {len(trades.candles):,}; {len(wrong):,} differ, such as {wrong[:1]}")
        return f"MySQL: {len(found):,} candles, equal"


class Cassandra:
    """Cassandra through its driver."""

    RANGES = 64  # a count of everything at once would run into the server's timeout

    def __init__(self, address: str) -> None:
        host, port = address.split(":")
        profile = ExecutionProfile(RoundRobinPolicy(), request_timeout=60)
        self.session = Cluster([host], int(port), execution_profiles={EXEC_PROFILE_DEFAULT: profile}, protocol_version=5).connect()

    def make_empty(self) -> None:
        for statement in CASSANDRA:
            self.session.execute(statement)

    def check(self, trades: Trades) -> str:
        rows = volume = 0
        width = 2**64 // self.RANGES
        for number in range(self.RANGES):
            low = -(2**63) + number * width
            cql = f"SELECT count(*), sum(volume) FROM {DATABASE}.real_time_data WHERE token(id) >= {low} AND token(id) <= {low + width - 1}"
            some_rows, some_volume = self.session.execute(cql).one()
            rows, volume = rows + some_rows, volume + some_volume
        return _same_rows("Cassandra", rows, volume, trades)

    def clean_up(self) -> None:
        self.session.execute(f"DROP KEYSPACE IF EXISTS {DATABASE}")


class MongoDb:
    """MongoDB through its driver."""

    def __init__(self, address: str, user: str, password: str) -> None:
        self.client: MongoClient = MongoClient(f"mongodb://{address}", username=user, password=password)

    def make_empty(self) -> None:
        self.create(["real_time_data"])

    def create(self, collections: list[str]) -> None:
        """These, empty, and that of progress."""
        self.clean_up()
        for name in (*collections, "tapeline_progress"):
            self.client[DATABASE].create_collection(name)

    def check(self, trades: Trades) -> str:
        volumes = [document["volume"] for document in self.client[DATABASE].real_time_data.find({}, {"volume": 1})]
        return _same_rows("MongoDB", len(volumes), sum(volumes), trades)

    def clean_up(self) -> None:
        self.client.drop_database(DATABASE)
