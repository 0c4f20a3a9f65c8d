//! System limits of this process and of the disk under a folder: asked once, when a store is
//! opened. Their meaning for a store is decided in `sizes`.

use std::fs;
use std::path::Path;

use rustix::fs::{StatVfs, statvfs};
use rustix::process::{Resource, getrlimit};
use vellum_core::device::ExportSpace;

use crate::error::StoreError;
use crate::sizes::SystemLimits;

/// Divisor of a limit on addresses for the memory that is used: threads' stacks and allocators
/// claim addresses that they never touch.
const ADDRESSES_PER_MEMORY: u64 = 4;
/// Addresses without which the database's libraries end the process instead of saying that they
/// lack some: its code, threads and allocators.
const ADDRESSES_LEN_MIN: u64 = 384 << 20;
/// Memory that is assumed, in bytes, where the system does not say how much there is.
const MEMORY_LEN_UNKNOWN: u64 = 4 << 30;

/// The limits of a store in `dir`, which need not be there yet.
pub(crate) fn read_system_limits(dir: &Path) -> SystemLimits {
    let limit = |resource| getrlimit(resource).current.unwrap_or(u64::MAX);
    let addresses = limit(Resource::As) / ADDRESSES_PER_MEMORY;
    SystemLimits {
        // A store that is not there yet will be on the disk of the folder that it is made in.
        disk_len: dir
            .ancestors()
            .find_map(|dir| statvfs(dir).ok())
            .map_or(u64::MAX, |space| total_len(&space)),
        memory_len: memory_len().min(addresses),
        file_len_max: limit(Resource::Fsize),
        descriptors: limit(Resource::Nofile),
        tables: table_count(&dir.join("database")),
    }
}

/// Fails if this process may have so few addresses (`ulimit -v`) that a store cannot be opened.
pub(crate) fn check_addresses() -> Result<(), StoreError> {
    match getrlimit(Resource::As).current {
        Some(len) if len < ADDRESSES_LEN_MIN => Err(StoreError::Parameter(format!(
            "this process may use {} MiB of addresses (`ulimit -v`), and a store needs {}",
            len >> 20,
            ADDRESSES_LEN_MIN >> 20
        ))),
        _ => Ok(()),
    }
}

fn table_count(dir: &Path) -> u64 {
    let is_table = |name: &std::ffi::OsStr| name.as_encoded_bytes().ends_with(b".sst");
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| is_table(&entry.file_name())).count() as u64
}

/// The room of the file system that `dir` is in.
pub(crate) fn file_system_space(dir: &Path) -> rustix::io::Result<ExportSpace> {
    let space = statvfs(dir)?;
    let len = |blocks: u64| blocks.saturating_mul(space.f_frsize);
    Ok(ExportSpace {
        len: total_len(&space),
        free_len: len(space.f_bfree),
        usable_len: len(space.f_bavail),
    })
}

fn total_len(space: &StatVfs) -> u64 {
    space.f_blocks.saturating_mul(space.f_frsize)
}

/// The machine's memory, or what the control groups of this process allow of it.
fn memory_len() -> u64 {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let machine = total_of(&read("/proc/meminfo")).unwrap_or(MEMORY_LEN_UNKNOWN);
    limit_files(&read("/proc/self/cgroup"))
        .iter()
        .filter_map(|path| read(path).trim().parse().ok())
        .fold(machine, u64::min)
}

/// Total memory according to `/proc/meminfo`, in bytes.
fn total_of(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The files that hold the limits of the groups that `/proc/self/cgroup` lists, and of those above
/// them: "max", a number, or nothing that can be read, as in a container that sees its own only.
fn limit_files(groups: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (root, name) = if controllers.is_empty() {
            ("/sys/fs/cgroup", "memory.max")
        } else if controllers
            .split(',')
            .any(|controller| controller == "memory")
        {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            continue;
        };
        let ancestors = Path::new(path).ancestors();
        files.extend(ancestors.map(|group| {
            let group = group.to_string_lossy();
            format!("{root}{}/{name}", group.trim_end_matches('/'))
        }));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_of_all_groups_above_count() {
        assert_eq!(
            limit_files("0::/system.slice/vellum.service\n"),
            [
                "/sys/fs/cgroup/system.slice/vellum.service/memory.max",
                "/sys/fs/cgroup/system.slice/memory.max",
                "/sys/fs/cgroup/memory.max"
            ]
        );
        assert_eq!(
            limit_files("7:cpu,memory:/a\n6:cpuset:/b\n"),
            [
                "/sys/fs/cgroup/memory/a/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes"
            ]
        );
        assert_eq!(limit_files("nonsense\n1:\n"), [""; 0]);
    }

    #[test]
    fn memory_is_told_in_kibibytes() {
        let text = "MemFree:  5 kB\nMemTotal:       24000 kB\n";
        assert_eq!(total_of(text), Some(24000 * 1024));
        assert_eq!(total_of("MemTotal: lots"), None);
        let here = read_system_limits(Path::new("/"));
        assert!(here.memory_len > 0 && here.disk_len > 0 && here.descriptors > 0);
    }
}
