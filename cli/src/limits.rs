//! Limits of this process: the memory and descriptors that the system lets it have, and how much of
//! each a server's clients may take. The store knows its own use.

use std::env;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const MIB: u64 = 1 << 20;
/// Memory for the requests of all NBD clients: enough for a hundred that copy disks.
const REQUESTS_LEN_MAX: u64 = 256 * MIB;
const REQUESTS_LEN_MIN: u64 = 4 * MIB;
/// The divisor of all memory that gives the share of requests: half of memory may be a store's, and
/// each client has buffers and a stack beside.
const REQUESTS_SHARE: u64 = 8;
/// The greatest number of sockets: more than any server has clients.
const SOCKETS_MAX: u64 = 4096;

/// The memory below which a process has one heap for all of its threads, in bytes.
const SEVERAL_HEAPS_LEN: u64 = 1 << 30;
/// The variable by which the C library is told so; it is read when a program begins.
const HEAPS_VARIABLE: &str = "MALLOC_ARENA_MAX";

/// Begins this program anew with one heap, if memory is scarce. Each of several keeps what it has
/// freed to itself: 200 clients in 256 MiB took 283 MiB in sixteen heaps, and 181 in one, no
/// slower.
pub(crate) fn begin_with_one_heap() {
    let is_scarce = memory_len().is_some_and(|len| len < SEVERAL_HEAPS_LEN);
    if !is_scarce || env::var_os(HEAPS_VARIABLE).is_some() {
        return;
    }
    let mut words = env::args_os();
    if let (Ok(program), Some(name)) = (env::current_exe(), words.next()) {
        // It returns only if the system refuses: then this one goes on.
        let mut anew = Command::new(program);
        let _ = anew.arg0(name).args(words).env(HEAPS_VARIABLE, "1").exec();
    }
}

/// Raises the soft limit of descriptors to the hard one: a large store has thousands of tables, a
/// server as many clients, and nothing here uses `select`, for which the soft limit is kept low.
pub(crate) fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // With what there is it works too, only for fewer.
    let _ = setrlimit(Resource::Nofile, raised);
}

/// Sockets of clients that a server may have, whose store is open.
pub(crate) fn client_sockets() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let open_count = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    sockets_of(limit, open_count as u64)
}

/// A store that cannot open its files stops for every guest. So most descriptors are its own, and
/// those of the commands that it does for others; and of what is free now, half is left for it to
/// grow.
fn sockets_of(limit: u64, open_count: u64) -> usize {
    let free = limit.saturating_sub(open_count);
    (limit / 8 * 3).min(free / 2).clamp(1, SOCKETS_MAX) as usize
}

/// Memory for the requests of all NBD clients.
pub(crate) fn requests_len() -> u64 {
    let len = memory_len().unwrap_or(u64::MAX);
    (len / REQUESTS_SHARE).clamp(REQUESTS_LEN_MIN, REQUESTS_LEN_MAX)
}

/// Memory that this process may use, as far as the system tells.
fn memory_len() -> Option<u64> {
    let read = |path: &Path| fs::read_to_string(path).ok();
    // Half of the addresses go to stacks, code, and what the allocator reserves.
    let addresses = getrlimit(Resource::As).current.map(|limit| limit / 2);
    let limits = [addresses, group_limit(read), machine_len(read)];
    limits.into_iter().flatten().min()
}

/// The memory of the machine.
fn machine_len(read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let text = read(Path::new("/proc/meminfo"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

/// The least of what the control groups allow that this process is in, and those above them.
fn group_limit(read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let groups = read(Path::new("/proc/self/cgroup"))?;
    let mounts = read(Path::new("/proc/self/mountinfo"))?;
    groups
        .lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            let has_memory = controllers.split(',').any(|one| one == "memory");
            match (controllers, has_memory) {
                ("", _) => limit_of(&mounts, "cgroup2", "", path, "memory.max", &read),
                (_, true) => {
                    let file = "memory.limit_in_bytes";
                    limit_of(&mounts, "cgroup", "memory", path, file, &read)
                }
                _ => None,
            }
        })
        .min()
}

/// The least limit that `file` tells of the group `path` and those above it, where the hierarchy of
/// this kind is mounted.
fn limit_of(
    mounts: &str,
    kind: &str,
    controller: &str,
    path: &str,
    file: &str,
    read: impl Fn(&Path) -> Option<String>,
) -> Option<u64> {
    let (root, place) = mounts
        .lines()
        .find_map(|line| parse_cgroup_mount(line, kind, controller))?;
    // In a container the mount may begin below the group that the kernel names.
    let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
    let folder = PathBuf::from(place).join(below);
    folder
        .ancestors()
        .take_while(|folder| folder.starts_with(place))
        .filter_map(|folder| read(&folder.join(file))?.trim().parse().ok())
        .min()
}

/// Root and place of a mount of this kind that has this controller.
fn parse_cgroup_mount<'a>(
    line: &'a str,
    kind: &str,
    controller: &str,
) -> Option<(&'a str, &'a str)> {
    let (mount, system) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(3);
    let mut system = system.split(' ');
    let fits = system.next() == Some(kind)
        && (controller.is_empty() || system.nth(1)?.split(',').any(|one| one == controller));
    fits.then_some((mount.next()?, mount.next()?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const MOUNTS: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    fn limit(groups: &str, mounts: &str, files: &[(&str, &str)]) -> Option<u64> {
        let mut all = BTreeMap::from([
            ("/proc/self/cgroup", groups),
            ("/proc/self/mountinfo", mounts),
        ]);
        all.extend(files.iter().copied());
        group_limit(|path| all.get(path.to_str()?).map(|text| (*text).to_owned()))
    }

    #[test]
    fn the_least_limit_of_all_groups_counts() {
        let first = "/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes";
        let above = "/sys/fs/cgroup/memory/a/memory.limit_in_bytes";
        let second = "/sys/fs/cgroup/unified/vm/memory.max";
        let groups = "8:pids:/x\n4:cpu,memory:/a/b\n0::/vm\n";
        for (files, found) in [
            (&[][..], None),
            (&[(first, "300\n")], Some(300)),
            (&[(first, "300\n"), (above, "200\n")], Some(200)),
            (&[(first, "300\n"), (second, "100\n")], Some(100)),
            (&[(second, "max\n")], None),
            (
                &[("/sys/fs/cgroup/memory/x/memory.limit_in_bytes", "1")],
                None,
            ),
        ] {
            assert_eq!(limit(groups, MOUNTS, files), found, "{files:?}");
        }
    }

    #[test]
    fn in_a_container_the_mount_stands_for_the_group() {
        let mounts = "9 8 0:3 /pod/one /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        let files = [("/sys/fs/cgroup/memory.max", "500\n")];
        for groups in ["0::/pod/one\n", "0::/\n", "0::/../elsewhere\n"] {
            assert_eq!(limit(groups, mounts, &files), Some(500), "{groups}");
        }
        assert_eq!(limit("nonsense", "nonsense", &[]), None);
    }

    #[test]
    fn clients_leave_descriptors_for_the_store_to_grow() {
        for (limit, open_count, sockets) in [
            (0, 0, 1),
            (1024, 60, 384),
            (1024, 500, 262),
            (1024, 1023, 1),
            (65536, 100, 4096),
            (u64::MAX, 0, 4096),
        ] {
            assert_eq!(
                sockets_of(limit, open_count),
                sockets,
                "{limit} {open_count}"
            );
        }
    }

    #[test]
    fn the_machine_tells_its_memory() {
        let read = |path: &Path| fs::read_to_string(path).ok();
        assert!(machine_len(read).is_some_and(|len| len > 64 << 20));
    }
}
