//! The processes of a pod, seen from the host on whose kernel they run: they are killed, frozen and continued as an out-of-memory killer or a stalled host would.
//! Only processes whose control group names the pod's uid are touched. What a process has used can be asked of any.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

/// A process of a pod's container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pod: String,
    uid: String,
    pid: u32,
}

/// The Tapeline process of `pod`; nothing while its container is not running.
#[must_use]
pub fn of(pod: &Pod) -> Option<Process> {
    let uid = pod.uid()?;
    let pids = fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    // The other process is the sandbox's pause.
    let pid = pids.into_iter().find(|&pid| belongs(pid, &uid) && read(pid, "comm").starts_with("tapeline-"))?;
    Some(Process { pod: pod.name_any(), uid, pid })
}

/// What a process has used until now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// The program's name, as far as the kernel keeps it (15 letters).
    pub name: String,
    /// Time on processors, in user and kernel mode.
    pub cpu: Duration,
    /// Bytes in memory.
    pub resident: u64,
    /// The most bytes that it had in memory.
    pub most_resident: u64,
}

/// What the process `pid` has used.
///
/// # Errors
/// There is no such process.
pub fn usage(pid: u32) -> Result<Usage> {
    let gone = || format!("there is no process {pid}");
    let (stat, status) = (read(pid, "stat"), read(pid, "status"));
    // Behind the name, which may have any characters, the third field is the first.
    let fields: Vec<&str> = stat.rsplit_once(')').with_context(gone)?.1.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3).and_then(|ticks| ticks.parse::<u64>().ok()).with_context(gone);
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).with_context(gone);
    let bytes = |name: &str| anyhow::Ok(line(name)?.trim_end_matches(" kB").parse::<u64>()? * 1024);
    Ok(Usage {
        name: line("Name:")?.to_owned(),
        // A tick is a hundredth of a second for all that Linux tells programs.
        cpu: Duration::from_millis((ticks(14)? + ticks(15)?) * 10),
        resident: bytes("VmRSS:")?,
        most_resident: bytes("VmHWM:")?,
    })
}

impl Process {
    /// What it has used.
    ///
    /// # Errors
    /// It is gone.
    pub fn usage(&self) -> Result<Usage> {
        ensure!(belongs(self.pid, &self.uid), "process {} of pod {} is gone", self.pid, self.pod);
        usage(self.pid)
    }

    /// SIGKILL: it ends without a word.
    ///
    /// # Errors
    /// It is gone already.
    pub fn kill(&self) -> Result<()> {
        self.signal("KILL")
    }

    /// SIGSTOP: it stands still, with its connections open.
    ///
    /// # Errors
    /// It is gone.
    pub fn freeze(&self) -> Result<()> {
        self.signal("STOP")
    }

    /// SIGCONT: it goes on where it stood.
    ///
    /// # Errors
    /// It is gone.
    pub fn thaw(&self) -> Result<()> {
        self.signal("CONT")
    }

    fn signal(&self, signal: &str) -> Result<()> {
        ensure!(belongs(self.pid, &self.uid), "process {} of pod {} is gone", self.pid, self.pod);
        let status = Command::new("kill").arg(format!("-{signal}")).arg(self.pid.to_string()).status()?;
        ensure!(status.success(), "kill -{signal} {} ended with {status}", self.pid);
        Ok(())
    }
}

/// Whether the process is in a control group of the pod. (The systemd driver writes a uid with underscores.)
fn belongs(pid: u32, uid: &str) -> bool {
    let groups = read(pid, "cgroup");
    groups.contains(uid) || groups.contains(&uid.replace('-', "_"))
}

fn read(pid: u32, file: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_uses_processor_and_memory() {
        let before = usage(std::process::id()).unwrap();
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_millis(200) {}
        let after = usage(std::process::id()).unwrap();
        assert!(after.cpu >= before.cpu + Duration::from_millis(20), "{before:?} {after:?}");
        assert!(after.resident > 1 << 20 && after.resident <= after.most_resident, "{after:?}");
        assert!(usage(u32::MAX).unwrap_err().to_string().contains("there is no process"));
    }
}
