//! The identity of a process beyond its number, and the question if one that is named so is gone.
//!
//! A number of a process means something in one namespace of processes during one boot of one
//! machine, and there until it is given again: so the namespace, the boot and the time of its start
//! go with it. Only these are asked; no clock, and nobody on the network.
//!
//! A machine is its machine id with its name. Machines that were copied with both and run at once
//! take each other for one that was started anew: a session that is ended by such an error hears so
//! ([`crate::BackupError::Fenced`]), and nothing is lost.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The field of `/proc/PID/stat` with the time of the process's start in ticks since boot, counted
/// from the one behind the name (the third of all).
const START_FIELD: usize = 19;

/// A process, told from all others of all machines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessMark {
    /// The machine, beyond boots: its machine id and its name; none if it has no id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// The boot of the machine.
    pub boot: String,
    /// The namespace in which the number counts.
    pub namespace: String,
    /// The number.
    pub pid: u32,
    /// The time when it started, in ticks since the boot.
    pub started: u64,
}

impl ProcessMark {
    /// The mark of this process; none if the system does not tell enough.
    #[must_use]
    pub fn own() -> Option<Self> {
        let text = |path: &str| Some(fs::read_to_string(path).ok()?.trim().to_owned());
        let pid = std::process::id();
        let machine = text("/etc/machine-id")
            .filter(|id| !id.is_empty() && id != "uninitialized")
            .zip(text("/proc/sys/kernel/hostname"))
            .map(|(id, name)| format!("{id} {name}"));
        Some(Self {
            machine,
            boot: text("/proc/sys/kernel/random/boot_id")?,
            namespace: fs::read_link("/proc/self/ns/pid")
                .ok()?
                .to_string_lossy()
                .into_owned(),
            pid,
            started: started(pid)?,
        })
    }

    /// True if the process is gone for certain, as seen by a process `here`: it ran in an earlier
    /// boot of this machine, or would have to be seen here and is not.
    #[must_use]
    pub fn is_gone(&self, here: &Self) -> bool {
        if self.boot != here.boot {
            return self.machine.is_some() && self.machine == here.machine;
        }
        self.namespace == here.namespace
            && is_readable_here(here)
            && started(self.pid) != Some(self.started)
    }
}

/// True if this process sees itself as it must, and the first process, which is another user's:
/// then the absence of others means something.
fn is_readable_here(here: &ProcessMark) -> bool {
    started(here.pid) == Some(here.started) && started(1).is_some()
}

/// The time of the start of the process with this number; none if there is none. One that is dead
/// and was not waited for yet does nothing any more, either.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    // The name may have brackets and blanks in it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let is_dead = matches!(fields.clone().next()?, "Z" | "X");
    let started = fields.nth(START_FIELD)?.parse().ok()?;
    (!is_dead).then_some(started)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn mark_of(pid: u32) -> ProcessMark {
        ProcessMark {
            pid,
            started: started(pid).expect("it runs"),
            ..ProcessMark::own().expect("this system tells enough")
        }
    }

    #[test]
    fn a_process_is_gone_when_it_ended_and_not_before() {
        let here = ProcessMark::own().expect("this system tells enough");
        assert!(!here.is_gone(&here));
        let mut child = Command::new("sleep").arg("60").spawn().expect("a process");
        let other = mark_of(child.id());
        assert!(!other.is_gone(&here), "it sleeps");
        child.kill().expect("it is ours");
        child.wait().expect("it ends");
        assert!(other.is_gone(&here), "it was killed");
        let again = ProcessMark {
            started: here.started + 1,
            ..here.clone()
        };
        assert!(again.is_gone(&here), "its number is another's now");
    }

    #[test]
    fn what_cannot_be_seen_from_here_is_not_gone() {
        let here = ProcessMark::own().expect("this system tells enough");
        let here = ProcessMark {
            machine: Some("1 one".to_owned()),
            ..here
        };
        let dead = ProcessMark {
            started: here.started + 1,
            ..here.clone()
        };
        let earlier = |machine: Option<&str>| ProcessMark {
            machine: machine.map(str::to_owned),
            boot: "another".to_owned(),
            ..dead.clone()
        };
        assert!(earlier(Some("1 one")).is_gone(&here), "an earlier boot");
        assert!(!earlier(Some("1 two")).is_gone(&here), "another machine");
        assert!(!earlier(None).is_gone(&here), "some machine");
        let contained = ProcessMark {
            namespace: "another".to_owned(),
            ..dead
        };
        assert!(!contained.is_gone(&here), "another container");
    }
}
