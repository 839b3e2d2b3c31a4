//! How much memory is left.

use std::fs;
use std::path::Path;

/// The memory door.
pub trait Memory: Send + Sync {
    /// Bytes that can be taken before somebody has to give way; `None`: nobody tells. No decision about stock may depend
    /// on it.
    fn available(&self) -> Option<u64>;
}

/// What Linux tells: of the machine (proc(5)), and of the control groups that this process is in (cgroup v2).
pub struct RealMemory;

/// For simulations: there is always enough.
pub struct EnoughMemory;

const MACHINE: &str = "/proc/meminfo";
const MEMBER: &str = "/proc/self/cgroup";
const GROUPS: &str = "/sys/fs/cgroup";

impl Memory for EnoughMemory {
    fn available(&self) -> Option<u64> {
        None
    }
}

impl Memory for RealMemory {
    fn available(&self) -> Option<u64> {
        let read = |file: &Path| fs::read_to_string(file).ok();
        let machine = read(Path::new(MACHINE)).and_then(|text| of_machine(&text));
        let groups = read(Path::new(MEMBER));
        let groups = groups.as_deref().and_then(group_of).unwrap_or_default();
        // Each group up to the root may have a limit of its own.
        let groups = Path::new(groups).ancestors().filter_map(|group| {
            let directory = Path::new(GROUPS).join(group);
            let text = |file: &str| read(&directory.join(file));
            of_group(&text("memory.max")?, &text("memory.current")?, &text("memory.stat")?)
        });
        groups.chain(machine).min()
    }
}

/// `MemAvailable:`, in kB.
fn of_machine(text: &str) -> Option<u64> {
    let kilobytes = field(text, "MemAvailable:")?;
    Some(kilobytes.saturating_mul(1024))
}

/// The path of the group, below the directory of all groups.
fn group_of(member: &str) -> Option<&str> {
    let path = member.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(path)
}

/// The limit, `max` for none, less what is taken; cached files count as taken, and give way.
fn of_group(max: &str, current: &str, stat: &str) -> Option<u64> {
    let [max, current] = [max, current].map(|text| text.trim().parse::<u64>().ok());
    let files = ["inactive_file", "active_file"].map(|name| field(stat, name).unwrap_or(0));
    let taken = current?.saturating_sub(files.iter().sum());
    Some(max?.saturating_sub(taken))
}

/// The number after a name, on its line.
fn field(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().map(str::split_ascii_whitespace);
    lines.find_map(|mut words| (words.next()? == name).then(|| words.next()?.parse().ok())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_tells_is_read() {
        let text = "MemTotal:       24689136 kB\nMemFree:  1 kB\nMemAvailable:   23456 kB\n";
        assert_eq!(of_machine(text), Some(23_456 * 1024));
        assert_eq!(of_machine("MemTotal: 7 kB\n"), None);
        assert_eq!(of_machine("MemAvailable: many kB\n"), None);
        assert_eq!(
            group_of("1:cpu:/x\n0::/system.slice/stockd.service\n"),
            Some("system.slice/stockd.service")
        );
        assert_eq!(group_of("0::/\n"), Some(""));
        assert_eq!(group_of("1:cpu:/x\n"), None);
    }

    #[test]
    fn cached_files_of_a_group_give_way() {
        let stat = "anon 250\ninactive_file 40\nactive_file 10\nfile 50\n";
        assert_eq!(of_group("1000\n", "300\n", stat), Some(750));
        assert_eq!(of_group("1000\n", "1300\n", "anon 1300\n"), Some(0));
        assert_eq!(of_group("max\n", "300\n", stat), None, "no limit");
    }
}
