"""Runs processes to their end and says what they took: wall time, CPU, memory; and the CPU that servers and everybody else used meanwhile.

CPU of a process is the kernel's own account, handed over by wait4 at its end, with all descendants that were waited for. Peak memory is its VmHWM as it was last seen:
ru_maxrss begins with what the process had before exec, which is this program. Resident memory counts the pages of the binary that were touched, which copies of
the program share.
"""

import os
import select
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

SAMPLE_MS = 50
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Command:
    """A program to run. What it prints goes to `<log>.out` and `<log>.err`."""

    argv: list[str]
    env: dict[str, str]
    log: Path

    def said(self) -> str:
        return Path(f"{self.log}.out").read_text()

    def last_words(self) -> str:
        return "".join(Path(f"{self.log}{end}").read_text(errors="replace")[-1500:] for end in (".out", ".err"))


@dataclass(frozen=True)
class Used:
    """What one or more processes took together. Seconds, megabytes (10^6)."""

    seconds: float
    cpu: float
    peak_mb: float
    """Sum of the processes' peaks."""
    anonymous_mb: float
    """Likewise, without pages of files, from a look every 50 ms: heap, stacks."""
    servers: dict[str, float]
    """CPU seconds of each server."""
    others_cpu: float
    """CPU seconds of the machine that belong to none of these: above a few per cent the run was disturbed."""


class Failed(Exception):
    """A process failed, or did not end in time."""


class Servers:
    """The servers' processes, by the files in which the test bed keeps their ids."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.pids = {name: int((folder / name).read_text()) for name in names}

    def cpu(self) -> dict[str, float]:
        return {name: cpu_of(pid) for name, pid in self.pids.items()}

    def await_quiet(self, busy: float = 0.1, limit: float = 120) -> None:
        """Until what earlier runs left to do (flushes, compactions) is done: less than a tenth of a core in a second, or it would count for the next run."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            before = sum(self.cpu().values())
            time.sleep(1)  # the length of the measurement
            if sum(self.cpu().values()) - before < busy:
                return
        raise Failed(f"waited {limit:.0f} s in vain for {', '.join(self.pids)} to become idle: does somebody else use them?")


def run(commands: list[Command], servers: Servers, limit: float) -> Used:
    """Runs `commands` at the same time until all have ended."""
    servers_before, machine_before, begun = servers.cpu(), _machine_cpu(), time.monotonic()
    running: dict[int, tuple[Command, subprocess.Popen[bytes]]] = {}
    peaks: dict[int, int] = {}
    anonymous: dict[int, int] = {}
    cpu = 0.0
    ended_at = begun
    poll = select.poll()
    try:
        for command in commands:
            with open(f"{command.log}.out", "wb") as out, open(f"{command.log}.err", "wb") as err:
                process = subprocess.Popen(command.argv, env=command.env, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True)
            pidfd = os.pidfd_open(process.pid)
            running[pidfd] = command, process
            poll.register(pidfd, select.POLLIN)
        while running:
            for pidfd, _ in poll.poll(SAMPLE_MS):
                ended_at = time.monotonic()
                command, process = running[pidfd]
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
                poll.unregister(pidfd)
                os.close(pidfd)
                del running[pidfd]
                if process.returncode != 0:
                    raise Failed(f"{command.argv[0]} ended with {process.returncode}:\n{command.last_words()}")
                cpu += usage.ru_utime + usage.ru_stime
            for _, process in running.values():
                if memory := _memory_kib(process.pid):
                    peaks[process.pid] = memory["VmHWM"]
                    anonymous[process.pid] = max(anonymous.get(process.pid, 0), memory["RssAnon"])
            if running and time.monotonic() - begun > limit:
                command, _ = next(iter(running.values()))
                raise Failed(f"{command.argv[0]} did not end within {limit:.0f} s:\n{command.last_words()}")
    finally:
        for pidfd, (_, process) in running.items():
            os.killpg(process.pid, signal.SIGKILL)  # its own session, so nobody else's
            process.wait()
            os.close(pidfd)
    of_servers = {name: after - servers_before[name] for name, after in servers.cpu().items()}
    others = _machine_cpu() - machine_before - cpu - sum(of_servers.values())
    return Used(ended_at - begun, cpu, _mb(sum(peaks.values())), _mb(sum(anonymous.values())), of_servers, max(others, 0.0))


def _mb(kib: int) -> float:
    return kib * 1024 / 1e6


def cpu_of(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS  # utime, stime: of all its threads, also ended ones


def _machine_cpu() -> float:
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICKS


def _memory_kib(pid: int) -> dict[str, int] | None:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if name in ("VmHWM", "RssAnon")}
    return found or None  # it is just ending
