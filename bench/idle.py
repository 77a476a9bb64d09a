"""What R3 takes at rest: six workers, each with a topic and a collection of its own, and Spark's driver with the same six queries, one after the other in one run.
Called by `run --idle`, which has everything in place."""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import report
from engines import Addresses, Spark, Tapeline, add_given
from resources import cpu_of
from servers import DATABASE, Kafka, MongoDb

HERE = Path(__file__).resolve().parent
QUERIES = 6
MESSAGES = 3000
REST_SECONDS = 30.0
READY_SECONDS = 120.0


@dataclass(frozen=True)
class Memory:
    """Megabytes (10^6), by /proc/PID/smaps_rollup, of several processes together; and their CPU while nothing arrived."""

    name: str
    processes: int
    resident: float
    """Each page as often as there are processes that have it."""
    proportional: float
    """Each page once: PSS."""
    anonymous: float
    cpu_percent: float
    """Of one core."""


def measure(name: str, pids: list[int]) -> Memory:
    """Looks at processes that are at rest, for half a minute."""
    before, begun = sum(map(cpu_of, pids)), time.monotonic()
    time.sleep(REST_SECONDS)  # the length of the measurement
    cpu = (sum(map(cpu_of, pids)) - before) / (time.monotonic() - begun)
    sums = {"Rss": 0, "Pss": 0, "Anonymous": 0}
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            field, kib, *_ = line.split()
            if field.rstrip(":") in sums:
                sums[field.rstrip(":")] += int(kib)
    resident, proportional, anonymous = (kib * 1024 / 1e6 for kib in sums.values())
    return Memory(name, len(pids), resident, proportional, anonymous, 100 * cpu)


def users() -> list[bytes]:
    """In the shape of the random-user API. The same each time."""
    of = random.Random(3)
    def user(number: int) -> bytes:
        return json.dumps({
            "gender": of.choice(["female", "male"]), "name": {"title": "Ms", "first": f"First{number}", "last": f"Last{of.randrange(10**6)}"},
            "location": {"street": {"number": of.randrange(9999), "name": "Main St"}, "city": f"City{of.randrange(500)}", "country": f"Country{of.randrange(80)}"},
            "email": f"user{number}@example.com", "login": {"uuid": f"{of.getrandbits(128):032x}", "username": f"user{number}"},
            "dob": {"date": "1980-01-01T00:00:00.000Z", "age": of.randrange(18, 90)}, "phone": "0123", "nat": "DE",
        }).encode()
    return [user(number) for number in range(MESSAGES)]


class Workers:
    """Six workers of R3, as the operator would start them."""

    def __init__(self, engine: Tapeline, kafka: str, mongo: str, topics: list[str]) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self.addresses: list[str] = []
        for number, topic in enumerate(topics, 1):
            settings = engine.work / f"users-{number}.json"
            settings.write_text(json.dumps(self._settings(kafka, mongo, topic, number), indent=1))
            argv, address = engine.start(settings)
            self.addresses.append(address)
            with (engine.work / f"users-{number}.log").open("wb") as log:
                self.processes.append(subprocess.Popen(argv, env=engine.environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    def _settings(self, kafka: str, mongo: str, topic: str, number: int) -> dict[str, object]:
        paths = {
            "id": "login.uuid", "first_name": "name.first", "last_name": "name.last", "gender": None, "email": None, "city": "location.city",
            "country": "location.country", "age": "dob.age",
        }
        fields = [{"name": name, "type": "int" if name == "age" else "string"} | ({"path": path} if path else {}) for name, path in paths.items()]
        sink = {"mongodb": {"connection": {"hosts": [mongo], "authSource": "admin", "database": DATABASE}, "collection": f"users_{number}", "id": ["id"]}}
        return {
            "formatVersion": 1, "namespace": "bench", "pipeline": "r3", "query": f"users-{number}", "groupId": f"bench.{topic}",
            "kafka": {"bootstrapServers": kafka}, "stream": {"name": "users", "topic": topic, "fields": fields}, "topicIncarnation": 1,
            "sql": "SELECT * FROM users", "sink": sink, "triggerIntervalMs": 2000, "maxRows": 100_000, "gracePeriodSeconds": 60,
        }

    def await_read(self) -> None:
        """Until each has stored what its topic holds, as its /status says."""
        end = time.monotonic() + READY_SECONDS
        for process, address in zip(self.processes, self.addresses, strict=True):
            while (stored := self._stored(address)) < MESSAGES:
                if process.poll() is not None or time.monotonic() > end:
                    raise SystemExit(f"{process.args} has stored {stored} of {MESSAGES} messages")
                time.sleep(0.2)

    def _stored(self, address: str) -> int:
        try:
            with urllib.request.urlopen(f"http://{address}/status", timeout=5) as answer:
                return sum(partition["nextOffset"] for partition in json.load(answer)["partitions"])
        except OSError:
            return 0  # it does not listen yet

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(60)


def spark(engine: Spark, kafka: str, topics: list[str]) -> list[Memory]:
    """The driver without queries, and with one for each topic."""
    argv = engine.submit(["spark_idle.py", kafka, str(MESSAGES), str(engine.work), *topics])
    found = []
    with (engine.work / "spark-idle.err").open("wb") as log:
        process = subprocess.Popen(argv, env=engine.environ(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout
        for name in ("Spark's driver, no query", f"Spark's driver, {QUERIES} queries"):
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"Spark ended: {(engine.work / 'spark-idle.err').read_text()[-1500:]}")
            said = json.loads(line)
            found.append(measure(name, [said["pid"]]))
            (engine.work / said["at"]).touch()
        if process.wait(READY_SECONDS) != 0:
            raise SystemExit(f"Spark ended with {process.returncode}")
    return found


def table(all_: list[Memory], where: str) -> str:
    lines = ["| | processes | resident MB | proportional MB | anonymous MB | CPU at rest, of a core |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for one in all_:
        lines.append(f"| {one.name} | {one.processes} | {one.resident:.0f} | {one.proportional:.0f} | {one.anonymous:.0f} | {one.cpu_percent:.1f} % |")
    text = (
        f"{QUERIES} topics of three partitions with {MESSAGES:,} users each, which every query has read and stored (Spark: into `noop`); then nothing arrives. {where}.\n\n"
    )
    return text + "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench/run --idle", description=__doc__)
    add_given(parser)
    chosen = parser.parse_args()
    addresses, load = Addresses.given(), os.getloadavg()[0]
    shutil.rmtree(chosen.work, ignore_errors=True)
    chosen.work.mkdir(parents=True)
    kafka, mongodb = Kafka(addresses.kafka, chosen.kafka_jars), MongoDb(addresses.mongo, addresses.user, addresses.password)
    topics = [f"{kafka.topic}_{number}" for number in range(1, QUERIES + 1)]
    try:
        kafka.delete_topics()
        mongodb.create([f"users_{number}" for number in range(1, QUERIES + 1)])
        for topic in topics:
            kafka.send(topic, 3, users())
        workers = Workers(Tapeline(chosen.worker, chosen.work, addresses), addresses.kafka, addresses.mongo, topics)
        try:
            workers.await_read()
            found = [measure(f"Tapeline's workers, {QUERIES} queries", [process.pid for process in workers.processes])]
        finally:
            workers.stop()
        found += spark(Spark(chosen.spark, chosen.jars, chosen.work, addresses), addresses.kafka, topics)
    finally:
        kafka.delete_topics()
        mongodb.clean_up()
    text = table(found, report.machine(report.commit_of(HERE.parent), load))
    print(text)
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "idle.md").write_text(f"# Six queries at rest\n\n{text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
