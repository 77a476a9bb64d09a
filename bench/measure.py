"""Measures the drain of R1's topic by Tapeline's worker and by Spark, in turns, and prints a table. Called by `run`, which has everything in place."""

import argparse
import json
import os
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path

import report
from engines import SINKS, Addresses, Drain, Spark, Tapeline, add_given
from resources import Failed, Servers
from servers import DATABASE, Cassandra, Kafka, MongoDb, MySql, Wrong
from trades import ROWS_PER_MESSAGE, Trades

FULL = 1_000_000
HERE = Path(__file__).resolve().parent


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run", description=__doc__)
    parser.add_argument("--rows", type=int, default=FULL, help="a multiple of ten; a full run (%(default)s) is also written to bench/results/latest.md")
    parser.add_argument("--rounds", type=int, default=3, help="how often each engine drains into each sink; the table has the medians")
    parser.add_argument("--sinks", default=",".join(SINKS), help="%(default)s")
    parser.add_argument("--limit", type=float, default=600, help="seconds that a single run may take")
    add_given(parser)
    chosen = parser.parse_args()
    chosen.sinks = chosen.sinks.split(",")
    if unknown := set(chosen.sinks) - set(SINKS):
        parser.error(f"there is no sink {', '.join(unknown)}; choose of {', '.join(SINKS)}")
    if chosen.rows < ROWS_PER_MESSAGE or chosen.rows % ROWS_PER_MESSAGE or chosen.rounds < 1:
        parser.error("rows must be a multiple of ten, rounds at least 1")
    return chosen


class Bench:
    """The servers, the engines, and the runs so far."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        addresses = Addresses.given()
        shutil.rmtree(chosen.work, ignore_errors=True)
        chosen.work.mkdir(parents=True)
        self.limit = chosen.limit
        self.engines: list[Tapeline | Spark] = [Tapeline(chosen.worker, chosen.work, addresses), Spark(chosen.spark, chosen.jars, chosen.work, addresses)]
        self.kafka, self.mysql, self.cassandra = Kafka(addresses.kafka, chosen.kafka_jars), MySql(), Cassandra(addresses.cassandra)
        self.mongodb = MongoDb(addresses.mongo, addresses.user, addresses.password)
        self.servers = Servers(chosen.pids, ["kafka", "cassandra", "mysql", "mongo"])
        self.trades = Trades(chosen.rows)
        self.runs: list[Drain] = []

    def feed(self) -> None:
        self.kafka.delete_topics()
        self.kafka.feed(self.trades)
        say(f"{self.trades.messages_total:,} messages are in {self.kafka.topic}, a volume of {self.trades.volume:,}")

    def drain(self, engine: Tapeline | Spark, sink: str, counts: bool = True) -> None:
        """One run, from empty tables to checked ones."""
        for store in (self.mysql, self.cassandra, self.mongodb, self.kafka):
            store.make_empty()
        self.servers.await_quiet()
        run = engine.drain(sink, self.kafka, self.trades, self.servers, self.limit)
        checks = {
            "blackhole": [], "mysql": [self.mysql.check_volumes], "cassandra": [self.cassandra.check], "both": [self.mysql.check_volumes, self.cassandra.check],
            "kafka": [self.kafka.check], "upsert": [self.mysql.check_rows], "merge": [self.mysql.check_candles], "mongodb": [self.mongodb.check],
        }
        found = [check(self.trades) for check in checks[sink]]
        if counts:
            self.runs.append(run)
        label, used = engine.name if counts else f"{engine.name} (warm-up)", run.process
        servers = ", ".join(f"{name} {seconds:.1f}" for name, seconds in used.servers.items())
        say(f"{label:19} {sink:9} {run.seconds:6.2f} s, {run.cpu:6.2f} s of CPU ({servers}), {used.peak_mb:5.0f} MB  {'; '.join(found)}")

    def clean_up(self) -> None:
        self.kafka.delete_topics()
        self.mysql.query(f"DROP DATABASE IF EXISTS {DATABASE}")
        self.cassandra.clean_up()
        self.mongodb.clean_up()


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


def main() -> int:
    chosen = options()
    load = os.getloadavg()[0]
    bench = Bench(chosen)
    try:
        bench.feed()
        if {"cassandra", "both"} & set(chosen.sinks):
            # Cassandra's JVM compiles for minutes after its start: into a cold one Spark took 59 to 94 s, into a warm one 56.
            for engine in bench.engines:
                bench.drain(engine, "cassandra", counts=False)
        for _ in range(chosen.rounds):
            for sink in chosen.sinks:
                for engine in bench.engines:
                    if sink in engine.sinks:
                        bench.drain(engine, sink)
    except (Failed, Wrong) as error:
        say(f"FAILED: {error}")
        return 1
    finally:
        bench.clean_up()
    (chosen.work / "runs.json").write_text(json.dumps([asdict(run) for run in bench.runs], indent=1))
    table = report.markdown(bench.runs, bench.trades, chosen.rounds, report.machine(report.commit_of(HERE.parent), load))
    print(table)
    if chosen.rows == FULL and chosen.sinks == SINKS:
        (HERE / "results").mkdir(exist_ok=True)
        (HERE / "results" / "latest.md").write_text(f"# Tapeline and Spark\n\n{table}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
