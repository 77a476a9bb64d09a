"""One run of each engine into a sink: what is started, and what the engine itself says of it afterwards."""

import argparse
import json
import os
import socket
from dataclasses import dataclass, fields
from pathlib import Path

from resources import Command, Failed, Servers, Used, run
from servers import DATABASE, Kafka
from trades import Trades

COMPARED = ["blackhole", "mysql", "cassandra", "both", "kafka"]
SINKS = [*COMPARED, "upsert", "merge", "mongodb"]
# What a worker takes as one micro-batch, however large. That of the sink `kafka` has to fit into memory, and is cut when 8 MiB are there.
_AT_ONCE = ["blackhole", "mysql", "cassandra"]
_YEAR_MS = 365 * 24 * 3600 * 1000


@dataclass(frozen=True)
class Addresses:
    kafka: str
    cassandra: str
    mysql: str
    mongo: str
    user: str
    """Whom MongoDB knows."""
    password: str

    @classmethod
    def given(cls) -> "Addresses":
        """As bench/run has them from the test bed."""
        return cls(**{field.name: os.environ[f"TESTBED_{field.name.upper()}"] for field in fields(cls)})


def add_given(parser: argparse.ArgumentParser) -> None:
    """What bench/run tells its programs."""
    for given in ("worker", "spark", "jars", "kafka-jars", "pids", "work"):
        parser.add_argument(f"--{given}", type=Path, required=True, help="given by bench/run")


@dataclass(frozen=True)
class Drain:
    """A run. `seconds` and `cpu` are of the drain, `process` of the whole life of the processes."""

    sink: str
    engine: str
    seconds: float
    cpu: float
    process: Used


class Tapeline:
    """A worker for each query. It has next to no start, so that all of its life counts as the drain."""

    name = "Tapeline"
    sinks = SINKS
    environ = {"MIMALLOC_ALLOW_THP": "0"}  # as in the operator's pods

    def __init__(self, worker: Path, work: Path, addresses: Addresses) -> None:
        self.worker, self.work, self.addresses, self.runs = worker, work, addresses, 0
        self.credentials = work / "credentials"
        for system, username, password in (("mysql", "root", "root"), ("mongodb", addresses.user, addresses.password)):
            folder = self.credentials / system
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "username").write_text(username)
            (folder / "password").write_text(password)

    def drain(self, sink: str, kafka: Kafka, trades: Trades, servers: Servers, limit: float) -> Drain:
        queries = ["mysql", "cassandra"] if sink == "both" else [sink]
        self.runs += 1
        used = run([self._command(query, kafka, trades.rows) for query in queries], servers, limit)
        for query in queries:
            # All there is to check of the blackhole; the stores are looked at besides.
            read = kafka.read_by(self._group(query, kafka.topic))
            if read != trades.messages_total:
                log = (self.work / f"{query}.err").read_text()[-1500:]
                raise Failed(f"the worker of {query} ended after {read:,} of {trades.messages_total:,} messages:\n{log}")
        return Drain(sink, self.name, used.seconds, used.cpu, used)

    def _group(self, query: str, topic: str) -> str:
        """Nobody has used it: topics are other ones each time the benchmark runs, and it counts its runs."""
        return f"bench.{query}.{topic}.{self.runs}"

    def _command(self, query: str, kafka: Kafka, rows: int) -> Command:
        settings = self.work / f"{query}.json"
        settings.write_text(json.dumps(self._settings(query, kafka, rows), indent=1))
        argv, _ = self.start(settings)
        return Command([*argv, "--until-caught-up"], self.environ, self.work / query)

    def start(self, settings: Path) -> tuple[list[str], str]:
        """The command of a worker, and the address at which it listens."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            listen = f"127.0.0.1:{free.getsockname()[1]}"
        return [str(self.worker), "--settings", str(settings), "--credentials", str(self.credentials), "--listen", listen], listen

    def _settings(self, query: str, kafka: Kafka, rows: int) -> dict[str, object]:
        """What the operator writes for a query (api/src/settings.rs), but for the trigger: one micro-batch, cut at the last row, as Spark's availableNow. With a
        trigger the end of the process would wait for the clock. Into the other sinks it does: each second, or when a tenth of the rows is there."""
        columns = "id bigint, created_at timestamp, ticker string, sector string, volume bigint, market_cap double, price double"
        fields: list[dict[str, object]] = [dict(zip(("name", "type"), column.split(), strict=True)) for column in columns.split(", ")]
        for field in fields:
            # Merging wants groups that are never null.
            field["required"] = field["name"] == "id" or (query == "merge" and field["name"] in ("created_at", "ticker"))
        raw = "SELECT * FROM ticks"
        volume = "SELECT CAST(created_at AS DATE) AS date, sector, SUM(volume) AS total_volume, now() AS processed_at FROM ticks GROUP BY 1, 2"
        candles = (
            "SELECT ticker, date_bin(INTERVAL '1 hour', created_at) AS hour, first_value(price ORDER BY created_at) AS open, MAX(price) AS high, "
            "MIN(price) AS low, last_value(price ORDER BY created_at) AS close, SUM(volume) AS volume, COUNT(*) AS trades FROM ticks GROUP BY 1, 2"
        )
        mysql_host, mysql_port = self.addresses.mysql.split(":")
        cassandra = {"contactPoints": [self.addresses.cassandra], "keyspace": DATABASE, "replication": "SimpleStrategy"}
        mysql = {"host": mysql_host, "port": int(mysql_port), "database": DATABASE}
        mongodb = {"hosts": [self.addresses.mongo], "authSource": "admin", "database": DATABASE}
        sql, sink = {
            "blackhole": (raw, "blackhole"),
            "cassandra": (raw, {"cassandra": {"connection": cassandra, "table": "real_time_data", "nulls": "Write"}}),
            "mysql": (volume, {"mysql": {"connection": mysql, "table": "aggregated_data", "mode": "Append"}}),
            "kafka": (raw, {"kafka": {"topic": kafka.target, "key": ["ticker"]}}),
            "upsert": (raw, {"mysql": {"connection": mysql, "table": "real_time_data", "mode": "Upsert"}}),
            "merge": (candles, {"mysql": {"connection": mysql, "table": "candles", "mode": "Merge"}}),
            "mongodb": (raw, {"mongodb": {"connection": mongodb, "collection": "real_time_data", "id": ["id"]}}),
        }[query]
        return {
            "formatVersion": 1, "namespace": "bench", "pipeline": f"r1-{self.runs}", "query": query, "groupId": self._group(query, kafka.topic),
            "kafka": {"bootstrapServers": self.addresses.kafka}, "stream": {"name": "ticks", "topic": kafka.topic, "fields": fields}, "topicIncarnation": 1,
            "sql": sql, "sink": sink, "triggerIntervalMs": _YEAR_MS if query in _AT_ONCE else 1000, "maxRows": rows if query in _AT_ONCE else rows // 10,
            "gracePeriodSeconds": 60,
        }


class Spark:
    """Spark in local mode on two cores, by spark-submit. Its drain begins when the session is there; all of its life is some seconds more."""

    name = "Spark"
    sinks = COMPARED

    def __init__(self, environment: Path, jars: Path, work: Path, addresses: Addresses) -> None:
        self.environment, self.work, self.addresses = environment, work, addresses
        self.jars = ",".join(str(jar) for jar in sorted(jars.glob("*.jar")))

    def drain(self, sink: str, kafka: Kafka, trades: Trades, servers: Servers, limit: float) -> Drain:
        argv = self.submit([
            "spark_job.py", sink, kafka.topic, kafka.target, self.addresses.kafka, self.addresses.cassandra, self.addresses.mysql, DATABASE,
        ])
        command = Command(argv, self.environ(), self.work / "spark-job")
        used = run([command], servers, limit)
        took = json.loads(command.said().splitlines()[-1])
        if any(read != trades.messages_total for read in took["messages"]):
            raise Failed(f"Spark read {took['messages']} of {trades.messages_total:,} messages")
        return Drain(sink, self.name, took["seconds"], took["cpu"], used)

    def submit(self, job: list[str]) -> list[str]:
        """The command that runs a job of this folder; its first word is the file."""
        file, *arguments = job
        return [
            str(self.environment / "bin" / "spark-submit"), "--driver-memory", "4g", "--jars", self.jars, str(Path(__file__).with_name(file)), *arguments,
        ]

    def environ(self) -> dict[str, str]:
        python = self.environment / "bin" / "python3"
        return os.environ | {
            "PATH": f"{python.parent}:{os.environ['PATH']}", "PYSPARK_PYTHON": str(python), "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_LOCAL_DIRS": str(self.work / "spark"), "TZ": "UTC",
        }
