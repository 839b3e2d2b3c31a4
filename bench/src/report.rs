//! What a run found out, as a table and as JSON.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::args::{Settings, Workload};
use crate::process::Usage;
use crate::stats::{Fresh, Measured, Stats};
use crate::verify::Findings;

/// What one process used while operations were answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Served {
    /// `server` or `harness`.
    pub name: String,
    /// Its id.
    pub pid: u32,
    /// CPU over the measured time, memory at its end.
    pub usage: Usage,
    /// Operations answered meanwhile.
    pub ops: u64,
}

impl Served {
    fn cpu_ns_per_op(&self) -> f64 {
        let cpu_ms = self.usage.user_ms + self.usage.system_ms;
        cpu_ms as f64 * 1e6 / self.ops.max(1) as f64
    }
}

/// What a run found out.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was asked for.
    pub settings: Settings,
    /// Counted and measured.
    pub stats: Stats,
    /// Over the whole phase.
    pub totals: Fresh,
    /// Longest time without any answer.
    pub pause_ns_max: u64,
    /// When the load ended, on the run's clock.
    pub load_ended_ns: u64,
    /// CPU and memory.
    pub served: Vec<Served>,
    /// What the verification found.
    pub findings: Findings,
    /// How long it took.
    pub verify_ns: u64,
}

const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

impl Report {
    /// Something was answered, nothing acknowledged is lost, nothing is oversold, no answer was
    /// impossible, and a storm refused nobody.
    pub fn passed(&self) -> bool {
        let idle = self.totals.ops == 0;
        !idle && self.findings.passed() && self.stats.odd_count == 0 && self.refused_wrongly() == 0
    }

    /// Refusals while there was stock, or due stock: in the storm there always is.
    fn refused_wrongly(&self) -> u64 {
        let storm = self.settings.args.workload == Workload::ExpiryStorm;
        if storm { self.totals.refused } else { 0 }
    }

    fn seconds(&self, measured: &Measured) -> f64 {
        let to_ns = measured.window.to_ns.min(self.load_ended_ns);
        to_ns.saturating_sub(measured.window.from_ns).max(1) as f64 / 1e9
    }

    /// How many times longer frames took in the storm than before it, at the 99 % quantile: over
    /// the whole storm and over its first seconds.
    fn storm_ratios(&self) -> Option<(f64, f64)> {
        let [calm, storm, front] = &self.stats.measured[..] else { return None };
        let p99 = |measured: &Measured| measured.latency_us.value_at_quantile(0.99) as f64;
        let calm = p99(calm).max(1.0);
        Some((p99(storm) / calm, p99(front) / calm))
    }

    /// Everything, for scripts.
    pub fn json(&self) -> Value {
        let args = &self.settings.args;
        let stock = u64::from(self.settings.stock) * u64::from(self.settings.cells);
        json!({
            "workload": args.workload.name(),
            "connections": args.connections,
            "depth": args.depth,
            "ops_per_frame": args.ops_per_frame,
            "rate": self.settings.rate,
            "cells": self.settings.cells,
            "stock_per_cell": self.settings.stock,
            "stock": stock,
            "seed": args.seed,
            "windows": self.stats.measured.iter().map(|m| self.window_json(m)).collect::<Vec<_>>(),
            "storm_p99_ratio": self.storm_ratios().map(|(all, front)| json!([all, front])),
            "totals": {
                "ops": self.totals.ops,
                "granted": self.totals.granted,
                "refused": self.totals.refused,
                "confirmed": self.totals.confirmed,
                "released": self.totals.released,
                "came_too_late": self.totals.expired,
            },
            "codes": self.stats.codes().map(|(code, count)| (code.name().to_owned(), count.into()))
                .collect::<Map<String, Value>>(),
            "pause_ms_max": self.pause_ns_max as f64 / 1e6,
            "reconnects": self.stats.reconnects,
            "frames_resent": self.stats.frames_resent,
            "replies_dropped": self.stats.replies_dropped,
            "asked_again": self.stats.asked_again,
            "frames_overdue": self.stats.frames_overdue,
            "processes": self.served.iter().map(served_json).collect::<Vec<_>>(),
            "verification": self.findings_json(),
            "passed": self.passed(),
        })
    }

    fn window_json(&self, measured: &Measured) -> Value {
        let seconds = self.seconds(measured);
        let quantile = |(name, q): &(&str, f64)| {
            ((*name).to_owned(), measured.latency_us.value_at_quantile(*q).into())
        };
        let mut latency: Map<String, Value> = QUANTILES.iter().map(quantile).collect();
        latency.insert("max".into(), measured.latency_us.max().into());
        latency.insert("frames".into(), measured.latency_us.len().into());
        json!({
            "name": measured.window.name,
            "seconds": seconds,
            "ops_per_second": measured.ops as f64 / seconds,
            "granted_per_second": measured.granted as f64 / seconds,
            "latency_us": latency,
        })
    }

    fn findings_json(&self) -> Value {
        let found = &self.findings;
        json!({
            "seconds": self.verify_ns as f64 / 1e9,
            "sample": self.settings.args.verify_sample,
            "reservations": found.ids_checked,
            "cells": found.cells_checked,
            "lost_acknowledgements": found.lost(),
            "not_found": found.ids_not_found,
            "wrong_state": found.ids_wrong_state,
            "wrong_body": found.ids_wrong_body,
            "oversold": found.units_oversold,
            "cells_wrong": found.cells_wrong,
            "impossible_answers": self.stats.odd_count,
            "refused_wrongly": self.refused_wrongly(),
            "unknown": {
                "granted": found.unknown_granted,
                "absent": found.unknown_absent,
                "steps": found.unknown_steps,
            },
            "examples": found.examples.iter().chain(&self.stats.odd_examples).collect::<Vec<_>>(),
        })
    }

    fn write_load(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let args = &self.settings.args;
        let pace = match self.settings.rate {
            Some(rate) => format!("open loop, {} /s", grouped(rate as u64)),
            None => "closed loop".to_owned(),
        };
        row(
            f,
            "workload",
            &format!(
                "{}, {} cells of {} units",
                args.workload.name(),
                grouped(u64::from(self.settings.cells)),
                grouped(u64::from(self.settings.stock))
            ),
        )?;
        let (connections, depth, ops) = (args.connections, args.depth, args.ops_per_frame);
        row(f, "load", &format!("{pace}, {connections} × {depth} frames × {ops} operations"))
    }

    fn write_window(&self, f: &mut fmt::Formatter<'_>, measured: &Measured) -> fmt::Result {
        let seconds = self.seconds(measured);
        let rate = |count: u64| grouped((count as f64 / seconds) as u64);
        row(f, measured.window.name, &format!("{seconds:.1} s"))?;
        row(f, "  operations", &format!("{} /s", rate(measured.ops)))?;
        row(f, "  granted", &format!("{} /s", rate(measured.granted)))?;
        let quantile = |(name, q): &(&str, f64)| {
            format!("{name} {}", ms(measured.latency_us.value_at_quantile(*q)))
        };
        let quantiles: Vec<String> = QUANTILES.iter().map(quantile).collect();
        let max = ms(measured.latency_us.max());
        row(f, "  latency (ms)", &format!("{}  max {max}", quantiles.join("  ")))
    }

    fn write_counts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let totals = &self.totals;
        let codes: Vec<String> = self
            .stats
            .codes()
            .map(|(code, count)| format!("{} {}", code.name(), grouped(count)))
            .collect();
        row(f, "answers", &codes.join("  "))?;
        if matches!(self.settings.args.workload, Workload::Drop | Workload::Hoarder) {
            let stock = u64::from(self.settings.stock) * u64::from(self.settings.cells);
            row(f, "sold", &format!("{} of {}", grouped(totals.confirmed), grouped(stock)))?;
            let expired = totals.granted.saturating_sub(totals.confirmed + totals.released);
            row(f, "released", &grouped(totals.released))?;
            row(f, "left to expire", &grouped(expired))?;
            row(f, "refused", &grouped(totals.refused))?;
        }
        row(f, "longest pause", &format!("{} ms", ms(self.pause_ns_max / 1_000)))?;
        if self.stats.reconnects > 0 || self.stats.frames_resent > 0 {
            let (reconnects, resent) = (self.stats.reconnects, self.stats.frames_resent);
            row(f, "reconnects", &format!("{reconnects}, frames sent again {resent}"))?;
        }
        if self.stats.asked_again > 0 {
            let (dropped, again) = (self.stats.replies_dropped, self.stats.asked_again);
            let text = format!("{dropped} replies thrown away, {again} operations asked once more");
            row(f, "trouble", &text)?;
        }
        if self.stats.frames_overdue > 0 {
            row(f, "never sent", &format!("{} frames that were due", self.stats.frames_overdue))?;
        }
        Ok(())
    }

    fn write_storm(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((all, front)) = self.storm_ratios() else { return Ok(()) };
        row(f, "p99 storm/calm", &format!("{all:.2}, first 2 s {front:.2}"))?;
        let spread = self.stats.deadlines_ms.map_or(0, |(first, last)| last - first);
        row(f, "fell due within", &format!("{spread} ms"))?;
        row(f, "refused wrongly", &grouped(self.refused_wrongly()))
    }

    fn write_served(&self, f: &mut fmt::Formatter<'_>, served: &Served) -> fmt::Result {
        let Usage { user_ms, system_ms, rss_bytes } = served.usage;
        row(
            f,
            &format!("{} {}", served.name, served.pid),
            &format!(
                "{:.0} ns CPU/op (user {:.1} s, system {:.1} s), {} MiB",
                served.cpu_ns_per_op(),
                user_ms as f64 / 1e3,
                system_ms as f64 / 1e3,
                grouped(rss_bytes >> 20)
            ),
        )
    }

    fn write_findings(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = &self.findings;
        let (ids, cells) = (grouped(found.ids_checked), grouped(found.cells_checked));
        let sample = self.settings.args.verify_sample;
        let share = if sample > 1 { format!(" (1 in {sample})") } else { String::new() };
        let seconds = self.verify_ns as f64 / 1e9;
        row(f, "verified", &format!("{ids} reservations{share}, {cells} cells in {seconds:.1} s"))?;
        let unknown = found.unknown_granted + found.unknown_absent + found.unknown_steps;
        if unknown > 0 {
            row(
                f,
                "never answered",
                &format!(
                    "{} reserves took effect, {} did not; {} confirms and releases",
                    found.unknown_granted, found.unknown_absent, found.unknown_steps
                ),
            )?;
        }
        for example in found.examples.iter().chain(&self.stats.odd_examples) {
            row(f, "  contradiction", example)?;
        }
        if found.cells_wrong > 0 || self.stats.odd_count > 0 {
            let (cells, odd) = (found.cells_wrong, self.stats.odd_count);
            row(f, "contradictions", &format!("{cells} cells, {odd} impossible answers"))?;
        }
        if self.totals.ops == 0 {
            row(f, "nothing shown", "not one operation was answered")?;
        }
        writeln!(f, "lost acknowledgements {} · oversold {}", found.lost(), found.units_oversold)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_load(f)?;
        for measured in &self.stats.measured {
            self.write_window(f, measured)?;
        }
        self.write_storm(f)?;
        self.write_counts(f)?;
        for served in &self.served {
            self.write_served(f, served)?;
        }
        self.write_findings(f)
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, value: &str) -> fmt::Result {
    writeln!(f, "{name:<18} {value}")
}

fn ms(us: u64) -> String {
    format!("{:.2}", us as f64 / 1e3)
}

fn served_json(served: &Served) -> Value {
    json!({
        "name": served.name,
        "pid": served.pid,
        "user_ms": served.usage.user_ms,
        "system_ms": served.usage.system_ms,
        "cpu_ns_per_op": served.cpu_ns_per_op(),
        "rss_bytes": served.usage.rss_bytes,
    })
}

/// A number with its thousands apart, as `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_apart() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }
}
