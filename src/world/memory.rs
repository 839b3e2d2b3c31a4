//! How much memory is left.

use std::fs;

/// What the whole machine has, in kB on the line `MemAvailable:` (proc(5)).
const MACHINE: &str = "/proc/meminfo";
/// What this process' control group may take, and has taken, in bytes; `max`: no limit (cgroup v2).
const GROUP: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"];

/// Bytes that can be allocated before somebody has to give way; `None`: the system does not tell.
pub(super) fn available() -> Option<u64> {
    let machine = fs::read_to_string(MACHINE).ok().and_then(|text| of_machine(&text));
    let [max, current] = GROUP.map(|file| fs::read_to_string(file).ok());
    let group = max.zip(current).and_then(|(max, current)| of_group(&max, &current));
    match (machine, group) {
        (Some(machine), Some(group)) => Some(machine.min(group)),
        (machine, group) => machine.or(group),
    }
}

fn of_machine(text: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes.saturating_mul(1024))
}

fn of_group(max: &str, current: &str) -> Option<u64> {
    let [max, current] = [max, current].map(|text| text.trim().parse::<u64>().ok());
    Some(max?.saturating_sub(current?))
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
        assert_eq!(of_group("1000\n", "300\n"), Some(700));
        assert_eq!(of_group("1000\n", "1300\n"), Some(0));
        assert_eq!(of_group("max\n", "300\n"), None, "no limit");
    }
}
