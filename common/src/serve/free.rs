//! How much memory this process may still take.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Free memory, and what bounds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Free {
    pub(super) bytes: u64,
    pub(super) bound: &'static str,
}

/// The least of what the system has, what the control groups of this process may still take, and
/// what its own limits allow; `None` where the system does not tell.
pub(super) fn free_memory() -> Option<Free> {
    System::new(Path::new("/")).free()
}

/// A system by its `proc` and `sys` folders.
struct System {
    process: PathBuf,
    meminfo: PathBuf,
    groups: PathBuf,
}

impl System {
    fn new(root: &Path) -> Self {
        Self {
            process: root.join("proc/self"),
            meminfo: root.join("proc/meminfo"),
            groups: root.join("sys/fs/cgroup"),
        }
    }

    fn free(&self) -> Option<Free> {
        let available = entry(&read(&self.meminfo)?, "MemAvailable:")? * 1024;
        let available = Free {
            bytes: available,
            bound: "the machine",
        };
        [self.group_free(), self.limit_free()]
            .into_iter()
            .flatten()
            .chain([available])
            .min_by_key(|free| free.bytes)
    }

    /// The least that any group around this process may still take. Inside a container the groups
    /// of the host are not to be seen, and the folder is that of its own group.
    fn group_free(&self) -> Option<Free> {
        let groups = read(&self.process.join("cgroup"))?;
        let free = groups.lines().filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let (folder, files) = match controllers {
                "" => (self.groups.clone(), &V2),
                _ if controllers.split(',').any(|name| name == "memory") => {
                    (self.groups.join("memory"), &V1)
                }
                _ => return None,
            };
            let own = Path::new(path.trim_start_matches('/'));
            let around = own
                .ancestors()
                .filter_map(|group| files.free(&folder.join(group)));
            around.min()
        });
        let bytes = free.min()?;
        Some(Free {
            bytes,
            bound: "the control group",
        })
    }

    /// What `ulimit -v` and `ulimit -d` leave.
    fn limit_free(&self) -> Option<Free> {
        let limits = read(&self.process.join("limits"))?;
        let status = read(&self.process.join("status"))?;
        let left = |limit: &str, used: &str| {
            let used = entry(&status, used)? * 1024;
            Some(entry(&limits, limit)?.saturating_sub(used))
        };
        let address_space = left("Max address space", "VmSize:");
        let data = left("Max data size", "VmData:");
        let bytes = address_space.into_iter().chain(data).min()?;
        Some(Free {
            bytes,
            bound: "a limit of this process (ulimit)",
        })
    }
}

/// Names of a control group's files.
struct GroupFiles {
    limit: &'static str,
    used: &'static str,
    /// What of the used memory is file cache that the system takes back when it needs to.
    cache: &'static str,
}

const V2: GroupFiles = GroupFiles {
    limit: "memory.max",
    used: "memory.current",
    cache: "inactive_file",
};
const V1: GroupFiles = GroupFiles {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    cache: "total_inactive_file",
};

impl GroupFiles {
    /// `None` for a group without a limit, which version 2 says by the word `max`.
    fn free(&self, group: &Path) -> Option<u64> {
        let number = |file: &str| -> Option<u64> { read(&group.join(file))?.trim().parse().ok() };
        let limit = number(self.limit)?;
        let cache = read(&group.join("memory.stat")).and_then(|stat| entry(&stat, self.cache));
        let used = number(self.used).unwrap_or(0);
        Some(limit.saturating_sub(used.saturating_sub(cache.unwrap_or(0))))
    }
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// The number behind a key at the beginning of a line.
fn entry(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: &str = "Limit                     Soft Limit           Hard Limit           Units
Max data size             unlimited            unlimited            bytes
Max address space         SOFT            unlimited            bytes
";

    fn system(files: &[(&str, &str)]) -> Option<Free> {
        let root = tempfile::TempDir::new().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        System::new(root.path()).free()
    }

    fn bytes(files: &[(&str, &str)]) -> u64 {
        let mut all = vec![
            (
                "proc/meminfo",
                "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n",
            ),
            ("proc/self/status", "VmSize:\t 1000 kB\nVmData:\t 500 kB\n"),
        ];
        all.extend(files);
        system(&all).unwrap().bytes
    }

    #[test]
    fn the_tightest_bound_counts() {
        assert_eq!(system(&[]), None);
        assert_eq!(bytes(&[]), 8000 << 10);
        let group = ("proc/self/cgroup", "0::/outer/inner\n");
        let inner = "sys/fs/cgroup/outer/inner/memory.max";
        assert_eq!(bytes(&[group, (inner, "max\n")]), 8000 << 10);
        assert_eq!(bytes(&[group, (inner, "5000\n")]), 5000);
        let outer = "sys/fs/cgroup/outer/memory.max";
        let used = ("sys/fs/cgroup/outer/memory.current", "900\n");
        let cache = (
            "sys/fs/cgroup/outer/memory.stat",
            "anon 1\ninactive_file 700\n",
        );
        let both = [group, (inner, "5000\n"), (outer, "4000\n"), used, cache];
        assert_eq!(bytes(&both), 3800);
        // A container sees the files of its own group at the top.
        assert_eq!(bytes(&[group, ("sys/fs/cgroup/memory.max", "300\n")]), 300);
        let old = ("proc/self/cgroup", "4:memory:/a\n3:cpu,cpuacct:/b\n");
        let limit = ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "600\n");
        assert_eq!(bytes(&[old, limit]), 600);
    }

    #[test]
    fn limits_of_the_process_count_beside_what_it_has() {
        let limits = |soft: &str| {
            let text = LIMITS.replace("SOFT", soft);
            bytes(&[("proc/self/limits", &text)])
        };
        assert_eq!(limits("unlimited"), 8000 << 10);
        assert_eq!(limits(&(1500u64 << 10).to_string()), 500 << 10);
        assert_eq!(limits("1"), 0);
    }
}
