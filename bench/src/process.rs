//! CPU time and memory of processes, from `/proc` (Linux; elsewhere nothing is reported).

use std::fs;

/// What a process has used so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// CPU time in user mode, in milliseconds.
    pub user_ms: u64,
    /// CPU time in the kernel, in milliseconds.
    pub system_ms: u64,
    /// Resident memory in bytes.
    pub rss_bytes: u64,
}

/// `/proc` counts CPU time in ticks of 10 ms on every Linux that stockd runs on (USER_HZ).
const TICK_MS: u64 = 10;

impl Usage {
    /// What process `pid` has used; `None`: it is gone, or there is no `/proc`.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything; the fields after it are numbers. See proc(5):
        // utime is field 14 and stime field 15, counted from 1; the state, field 3, comes first here.
        let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace().skip(11);
        let user_ms = fields.next()?.parse::<u64>().ok()? * TICK_MS;
        let system_ms = fields.next()?.parse::<u64>().ok()? * TICK_MS;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let rss_bytes = rss.split_whitespace().next()?.parse::<u64>().ok()? << 10;
        Some(Self { user_ms, system_ms, rss_bytes })
    }

    /// What was used since `earlier`; memory is as it is now.
    #[must_use]
    pub const fn since(&self, earlier: &Self) -> Self {
        Self {
            user_ms: self.user_ms.saturating_sub(earlier.user_ms),
            system_ms: self.system_ms.saturating_sub(earlier.system_ms),
            rss_bytes: self.rss_bytes,
        }
    }
}

/// The process that listens on a TCP port of this machine, if this user may see it.
pub fn listener(port: u16) -> Option<u32> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .collect();
    let links: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let pids = fs::read_dir("/proc").ok()?.flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).find(|pid| {
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        let mut targets = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
        targets.any(|target| links.iter().any(|link| target.as_os_str() == link.as_str()))
    })
}

fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let suffix = format!(":{port:04X}");
    let rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.len() > 9 && row[1].ends_with(&suffix) && row[3] == LISTEN)
        .map(|row| row[9].to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_rows_are_told_from_connected_ones() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1CE8 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1
   1: 0100007F:1CE8 0100007F:A000 01 00000000:00000000 00:00000000 00000000  1000        0 4712 1
   2: 0100007F:1CE9 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4713 1";
        assert_eq!(listening_inodes(table, 7400), ["4711"]);
    }
}
