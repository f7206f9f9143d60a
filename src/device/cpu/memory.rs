//! How much memory this process can still take: what the system has left, or less where a control group limits the
//! process, as batch systems and containers do.

use std::fs;
use std::path::Path;

/// Bytes that new memory can be had for without swapping and without being killed; `None` where the system does not
/// say.
pub fn available() -> Option<usize> {
    available_under(Path::new("/"))
}

/// The same with another root of the file system.
fn available_under(root: &Path) -> Option<usize> {
    let of_groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let of_groups = of_groups.lines().filter_map(|line| left_in_groups(root, line));
    of_groups.chain(left_in_system(root)).min()
}

/// Bytes of memory that this process has had at most at one time.
pub(crate) fn peak_resident() -> usize {
    // SAFETY: rusage is plain data that the call fills.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    usage.ru_maxrss as usize * 1024
}

fn left_in_system(root: &Path) -> Option<usize> {
    let info = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = info.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok().map(|kib| kib * 1024)
}

/// Files of a control group that limits memory.
struct Files {
    limit: &'static str,
    usage: &'static str,
    /// Numbers of `memory.stat` whose pages the system takes back when the group needs memory.
    reclaimable: [&'static str; 2],
}

const V2: Files =
    Files { limit: "memory.max", usage: "memory.current", reclaimable: ["inactive_file ", "active_file "] };
const V1: Files = Files {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    reclaimable: ["total_inactive_file ", "total_active_file "],
};

/// The least that the group of a line of `/proc/self/cgroup`, `id:controllers:path`, and those around it have left.
fn left_in_groups(root: &Path, line: &str) -> Option<usize> {
    let (_, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    let (base, files) = match controllers {
        "" => (root.join("sys/fs/cgroup"), V2),
        _ if controllers.split(',').any(|c| c == "memory") => (root.join("sys/fs/cgroup/memory"), V1),
        _ => return None,
    };
    // In a container the path may be the host's, which is not there; the container's own group is the base.
    let inside = base.join(path.trim_start_matches('/'));
    inside.ancestors().take_while(|group| group.starts_with(&base)).filter_map(|group| left_in(group, &files)).min()
}

/// What a group has left under its limit, if it has one.
fn left_in(group: &Path, files: &Files) -> Option<usize> {
    let number = |name: &str| fs::read_to_string(group.join(name)).ok()?.trim().parse::<usize>().ok();
    let (limit, usage) = (number(files.limit)?, number(files.usage)?);
    let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let of = |key: &str| stat.lines().find_map(|l| l.strip_prefix(key)?.trim().parse::<usize>().ok());
    let reclaimable: usize = files.reclaimable.into_iter().filter_map(of).sum();
    Some(limit.saturating_sub(usage.saturating_sub(reclaimable)))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const MIB: usize = 1 << 20;

    /// A root with these files, each with its text.
    fn root(files: &[(&str, String)]) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    fn system(mib: usize) -> (&'static str, String) {
        ("proc/meminfo", format!("MemTotal: 99999999 kB\nMemFree: 1 kB\nMemAvailable:   {} kB\n", mib * 1024))
    }

    fn bytes(mib: usize) -> String {
        format!("{}\n", mib * MIB)
    }

    #[test]
    fn without_groups_it_is_what_the_system_has() {
        assert_eq!(available_under(root(&[system(700)]).path()), Some(700 * MIB));
        assert_eq!(available_under(root(&[]).path()), None);
    }

    /// As under SLURM: the job has a limit, the step in it none of its own, files of the job can be given back.
    #[test]
    fn a_limit_around_the_own_group_counts() {
        let mut files = vec![
            system(90_000),
            ("proc/self/cgroup", "0::/slurm/job_7/step_0\n".to_owned()),
            ("sys/fs/cgroup/slurm/job_7/step_0/memory.max", "max\n".to_owned()),
            ("sys/fs/cgroup/slurm/job_7/step_0/memory.current", bytes(500)),
            ("sys/fs/cgroup/slurm/job_7/memory.max", bytes(1000)),
            ("sys/fs/cgroup/slurm/job_7/memory.current", bytes(800)),
        ];
        assert_eq!(available_under(root(&files).path()), Some(200 * MIB));
        let stat = format!("anon 5\ninactive_file {}\nactive_file {}\n", 100 * MIB, 50 * MIB);
        files.push(("sys/fs/cgroup/slurm/job_7/memory.stat", stat));
        assert_eq!(available_under(root(&files).path()), Some(350 * MIB));
        files[0] = system(300);
        assert_eq!(available_under(root(&files).path()), Some(300 * MIB), "the system has less");
        files[5].1 = bytes(2000);
        assert_eq!(available_under(root(&files).path()), Some(0), "more in use than allowed");
    }

    #[test]
    fn version_1_and_a_containers_own_group() {
        let stat = format!("inactive_file 7\ntotal_inactive_file {}\ntotal_active_file 0\n", 10 * MIB);
        let files = [
            system(90_000),
            ("proc/self/cgroup", "5:cpu,cpuacct:/docker/a\n4:memory:/docker/a\n0::/docker/a\n".to_owned()),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", bytes(64)),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", bytes(30)),
            ("sys/fs/cgroup/memory/memory.stat", stat),
            ("sys/fs/cgroup/cpu/memory.limit_in_bytes", bytes(1)),
        ];
        assert_eq!(available_under(root(&files).path()), Some(44 * MIB));
    }

    /// This machine says something plausible.
    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_has_memory() {
        assert!(available().is_some_and(|bytes| bytes > MIB));
    }
}
