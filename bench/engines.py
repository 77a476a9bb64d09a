"""One run of each engine into a sink: what is started, and what the engine itself says of it afterwards."""

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from resources import Command, Failed, Servers, Used, run
from servers import DATABASE, Kafka
from trades import Trades

SINKS = ["blackhole", "mysql", "cassandra", "both"]
_YEAR_MS = 365 * 24 * 3600 * 1000


@dataclass(frozen=True)
class Addresses:
    kafka: str
    cassandra: str
    mysql: str


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

    def __init__(self, worker: Path, work: Path, addresses: Addresses) -> None:
        self.worker, self.work, self.addresses = worker, work, addresses
        self.credentials = work / "credentials"
        (self.credentials / "mysql").mkdir(parents=True, exist_ok=True)
        for file in ("username", "password"):
            (self.credentials / "mysql" / file).write_text("root")

    def drain(self, sink: str, kafka: Kafka, trades: Trades, servers: Servers, limit: float) -> Drain:
        queries = ["mysql", "cassandra"] if sink == "both" else [sink]
        used = run([self._command(query, kafka.topic, trades.rows) for query in queries], servers, limit)
        for query in queries:
            # All there is to check of the blackhole; the stores are looked at besides.
            read = kafka.read_by(_group(query, kafka.topic))
            if read != trades.messages_total:
                log = (self.work / f"{query}.err").read_text()[-1500:]
                raise Failed(f"the worker of {query} ended after {read:,} of {trades.messages_total:,} messages:\n{log}")
        return Drain(sink, self.name, used.seconds, used.cpu, used)

    def _command(self, query: str, topic: str, rows: int) -> Command:
        settings = self.work / f"{query}.json"
        settings.write_text(json.dumps(self._settings(query, topic, rows), indent=1))
        with socket.create_server(("127.0.0.1", 0)) as free:
            listen = f"127.0.0.1:{free.getsockname()[1]}"
        argv = [str(self.worker), "--settings", str(settings), "--credentials", str(self.credentials), "--listen", listen, "--until-caught-up"]
        return Command(argv, {"MIMALLOC_ALLOW_THP": "0"}, self.work / query)  # as in the operator's pods

    def _settings(self, query: str, topic: str, rows: int) -> dict[str, object]:
        """What the operator writes for R1's queries (api/src/settings.rs), but for the trigger: one micro-batch, cut at the last row, as Spark's availableNow.
        With a trigger the end of the process would wait for the clock."""
        columns = "id bigint, created_at timestamp, ticker string, sector string, volume bigint, market_cap double, price double"
        fields: list[dict[str, object]] = [dict(zip(("name", "type"), column.split(), strict=True)) for column in columns.split(", ")]
        fields[0]["required"] = True
        raw = "SELECT * FROM ticks"
        volume = "SELECT CAST(created_at AS DATE) AS date, sector, SUM(volume) AS total_volume, now() AS processed_at FROM ticks GROUP BY 1, 2"
        mysql_host, mysql_port = self.addresses.mysql.split(":")
        cassandra = {"contactPoints": [self.addresses.cassandra], "keyspace": DATABASE, "replication": "SimpleStrategy"}
        mysql = {"host": mysql_host, "port": int(mysql_port), "database": DATABASE}
        sql, sink = {
            "blackhole": (raw, "blackhole"),
            "cassandra": (raw, {"cassandra": {"connection": cassandra, "table": "real_time_data", "nulls": "Write"}}),
            "mysql": (volume, {"mysql": {"connection": mysql, "table": "aggregated_data", "mode": "Append"}}),
        }[query]
        return {
            "formatVersion": 1, "namespace": "bench", "pipeline": "r1", "query": query, "groupId": _group(query, topic),
            "kafka": {"bootstrapServers": self.addresses.kafka}, "stream": {"name": "ticks", "topic": topic, "fields": fields}, "topicIncarnation": 1,
            "sql": sql, "sink": sink, "triggerIntervalMs": _YEAR_MS, "maxRows": rows, "gracePeriodSeconds": 60,
        }


class Spark:
    """Spark in local mode on two cores, by spark-submit. Its drain begins when the session is there; all of its life is some seconds more."""

    name = "Spark"

    def __init__(self, environment: Path, jars: Path, work: Path, addresses: Addresses) -> None:
        self.environment, self.work, self.addresses = environment, work, addresses
        self.jars = ",".join(str(jar) for jar in sorted(jars.glob("*.jar")))

    def drain(self, sink: str, kafka: Kafka, trades: Trades, servers: Servers, limit: float) -> Drain:
        python = self.environment / "bin" / "python3"
        argv = [
            str(self.environment / "bin" / "spark-submit"), "--driver-memory", "4g", "--jars", self.jars, str(Path(__file__).with_name("spark_job.py")),
            sink, kafka.topic, self.addresses.kafka, self.addresses.cassandra, self.addresses.mysql, DATABASE,
        ]
        env = os.environ | {
            "PATH": f"{python.parent}:{os.environ['PATH']}", "PYSPARK_PYTHON": str(python), "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_LOCAL_DIRS": str(self.work / "spark"), "TZ": "UTC",
        }
        command = Command(argv, env, self.work / "spark-job")
        used = run([command], servers, limit)
        took = json.loads(command.said().splitlines()[-1])
        if any(read != trades.messages_total for read in took["messages"]):
            raise Failed(f"Spark read {took['messages']} of {trades.messages_total:,} messages")
        return Drain(sink, self.name, took["seconds"], took["cpu"], used)


def _group(query: str, topic: str) -> str:
    """Named by the topic, which is another one each time the benchmark runs; a run of it begins at the progress in the store anyway, and there is none."""
    return f"bench.{query}.{topic}"
