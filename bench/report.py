"""The tables: medians of the runs of each engine and sink, and how many times less Tapeline needs."""

import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from engines import SINKS, Drain
from servers import PARTITIONS
from trades import ROWS_PER_MESSAGE, Trades

Runs = list[Drain]
Column = tuple[str, Callable[[Drain], float | None]]


# The servers that a sink writes to.
_STORES = {
    "blackhole": [], "mysql": ["mysql"], "cassandra": ["cassandra"], "both": ["cassandra", "mysql"], "kafka": ["kafka"], "upsert": ["mysql"], "merge": ["mysql"],
    "mongodb": ["mongo"],
}


def _stores(run: Drain) -> float | None:
    return sum(run.process.servers[store] for store in _STORES[run.sink]) if _STORES[run.sink] else None


_RATIOS: list[Column] = [
    ("drain s", lambda run: run.seconds),
    ("drain CPU s", lambda run: run.cpu),
    ("process s", lambda run: run.process.seconds),
    ("process CPU s", lambda run: run.process.cpu),
    ("the stores' CPU s", _stores),
    ("peak memory MB", lambda run: run.process.peak_mb),
    ("of it anonymous MB", lambda run: run.process.anonymous_mb),
]


def machine(commit: str, begun_load: float) -> str:
    models = (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    cpu = next(models, platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}; load {begun_load:.2f} before; Tapeline {commit}; {date}"


def markdown(runs: Runs, trades: Trades, rounds: int, where: str) -> str:
    sinks = [sink for sink in SINKS if any(run.sink == sink for run in runs)]
    engines = list(dict.fromkeys(run.engine for run in runs))
    of = {(sink, engine): [run for run in runs if (run.sink, run.engine) == (sink, engine)] for sink in sinks for engine in engines}
    speed: Column = ("rows/s", lambda run: trades.rows / run.seconds)
    speed_of_cpu: Column = ("rows per CPU s", lambda run: trades.rows / run.cpu)
    columns = [speed, *_RATIOS[:2], speed_of_cpu, *_RATIOS[2:]]
    table = [["sink", "engine", *(name for name, _ in columns)]]
    for sink in sinks:
        table += [[sink, engine, *(_cell(of[sink, engine], value) for _, value in columns)] for engine in engines if of[sink, engine]]
    ratios = [["sink", *(name.removesuffix(" s").removesuffix(" MB") for name, _ in _RATIOS)]]
    for sink in (sink for sink in sinks if all(of.get((sink, engine)) for engine in ("Spark", "Tapeline"))):
        ratios.append([sink, *(_ratio(of[sink, "Spark"], of[sink, "Tapeline"], value) for _, value in _RATIOS)])
    busiest = max(runs, key=_disturbance)
    return "\n".join([
        f"Drain of {trades.rows:,} rows of R1: {trades.messages_total:,} messages of {ROWS_PER_MESSAGE}, {trades.bytes_total / 1e6:.0f} MB, "
        f"{PARTITIONS} partitions.",
        f"Median of {rounds} (least to most where they are more than a tenth apart). {where}.",
        "",
        *_lines(table),
        "",
        "Spark divided by Tapeline: how many times less Tapeline needs.",
        "",
        *_lines(ratios),
        "",
        "Every run was checked: the volume of each day and sector, each candle, the number of rows, messages or documents and their volume, the messages read.",
        f"Other processes took at most {_disturbance(busiest):.0%} of the machine during a run ({busiest.engine}, {busiest.sink}).",
    ])


def commit_of(repository: Path) -> str:
    return subprocess.run(["git", "describe", "--always", "--dirty"], cwd=repository, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def _disturbance(run: Drain) -> float:
    return run.process.others_cpu / run.process.seconds / (os.cpu_count() or 1)


def _values(runs: Runs, value: Callable[[Drain], float | None]) -> list[float]:
    return [number for run in runs if (number := value(run)) is not None]


def _cell(runs: Runs, value: Callable[[Drain], float | None]) -> str:
    numbers = _values(runs, value)
    if not numbers:
        return ""
    middle = _number(median(numbers))
    return middle if max(numbers) - min(numbers) <= median(numbers) / 10 else f"{middle} ({_number(min(numbers))} to {_number(max(numbers))})"


def _ratio(more: Runs, less: Runs, value: Callable[[Drain], float | None]) -> str:
    of_spark, of_tapeline = _values(more, value), _values(less, value)
    return f"{median(of_spark) / median(of_tapeline):.1f}" if of_spark and of_tapeline and median(of_tapeline) > 0 else ""


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _lines(table: list[list[str]]) -> list[str]:
    header, *rows = table
    rule = ["---" if column < 2 and header[column] in ("sink", "engine") else "---:" for column in range(len(header))]
    return ["| " + " | ".join(row) + " |" for row in [header, rule, *rows]]
