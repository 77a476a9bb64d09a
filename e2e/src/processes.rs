//! The processes of a pod, seen from the host on whose kernel they run: they are killed, frozen and continued as an out-of-memory killer or a stalled host would.
//! Only processes whose control group names the pod's uid are touched.

use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};
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

impl Process {
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
