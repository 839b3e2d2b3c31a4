//! The harness against a server that keeps its promises, and against one that breaks them one by
//! one: the verification must tell them apart.

use super::fake::{Lie, serve, serve_all};
use clap::Parser;
use stockd_bench::args::{Args, Settings};
use stockd_bench::report::Report;
use stockd_bench::run::run;
use stockd_protocol::Code;

/// Runs the harness with these arguments against a server with this lie.
async fn bench(lie: Lie, line: &str) -> Report {
    bench_at(&serve(lie).await, line).await
}

async fn bench_at(addresses: &str, line: &str) -> Report {
    let words = ["stockd-bench", "--no-progress", "--addr", addresses, "--grace-ms", "500"];
    let words = words.into_iter().chain(line.split_whitespace());
    let settings = Settings::new(Args::try_parse_from(words).unwrap()).unwrap();
    run(&settings).await.unwrap()
}

const UNIFORM: &str = "uniform --cells 50 --connections 3 --depth 2 --ops-per-frame 20 \
     --confirm-percent 60 --release-percent 20 --warmup 0 --seconds 1";
const SOLDOUT: &str = "soldout --stock 40 --warmup 0 --seconds 1 --connections 2 --depth 1";
const DROP: &str = "drop --stock 40 --demand-factor 20 --connections 3 --depth 2 --seconds 30";

#[tokio::test]
async fn a_right_server_passes() {
    let report = bench(Lie::None, UNIFORM).await;
    assert!(report.passed(), "{report}");
    let totals = &report.totals;
    assert!(totals.granted > 100, "{report}");
    assert_eq!(report.findings.ids_checked, totals.granted, "all are read: {report}");
    assert_eq!(report.findings.cells_checked, 50);
    assert!(totals.confirmed > 0 && totals.released > 0);
    assert_eq!(report.json()["passed"], true);
}

#[tokio::test]
async fn a_right_server_sells_the_drop_out() {
    let report = bench(Lie::None, DROP).await;
    assert!(report.passed(), "{report}");
    assert_eq!(report.totals.confirmed, 40, "{report}");
    assert!(report.totals.refused >= 40 * 20 - report.totals.granted, "{report}");
    let text = report.to_string();
    assert!(text.contains("40 of 40"), "{text}");
    assert!(text.ends_with("lost acknowledgements 0 · oversold 0\n"), "{text}");
}

#[tokio::test]
async fn carts_and_zipf_and_refusals_pass() {
    for workload in ["cart", "zipf --ops-per-frame 10", "soldout --ops-per-frame 10"] {
        let line = format!("{workload} --warmup 0 --seconds 1 --connections 2 --depth 2");
        let cells = if workload.starts_with("soldout") { "1" } else { "100" };
        let report = bench(Lie::None, &format!("{line} --cells {cells}")).await;
        assert!(report.passed(), "{workload}: {report}");
        assert!(report.totals.granted > 0, "{workload}: {report}");
        assert_eq!(report.totals.refused > 0, workload.starts_with("soldout"), "{report}");
    }
}

const FEEDS: &str = "feeds --cells 20 --connections 2 --depth 4 --warmup 0 --seconds 1";

#[tokio::test]
async fn feeds_beside_sales_pass() {
    let report = bench(Lie::None, FEEDS).await;
    assert!(report.passed(), "{report}");
    let codes: Vec<_> = report.stats.codes().map(|(code, _)| code).collect();
    assert!(codes.contains(&Code::STALE_FEED), "{report}");
}

#[tokio::test]
async fn a_blind_set_is_found() {
    let report = bench(Lie::BlindSet, FEEDS).await;
    assert!(!report.passed(), "{report}");
    assert_eq!(report.findings.cells_wrong, 1, "{report}");
}

const RETRIES: &str =
    "retries --cells 20 --connections 2 --depth 4 --ops-per-frame 5 --warmup 0 --seconds 1";

#[tokio::test]
async fn retries_are_done_once() {
    let report = bench(Lie::None, RETRIES).await;
    assert!(report.passed(), "{report}");
    let stats = &report.stats;
    assert!(stats.replies_dropped > 0 && stats.asked_again > 0, "{report}");
    let replays = report.json()["codes"]["REPLAY"].as_u64().unwrap();
    assert!(replays >= stats.asked_again, "{report}");
    assert!(report.totals.confirmed > 0 && report.totals.released > 0, "{report}");
}

#[tokio::test]
async fn a_retry_that_is_done_twice_is_found() {
    let report = bench(Lie::DoubleRetry, RETRIES).await;
    assert!(!report.passed(), "{report}");
    assert_eq!((report.findings.cells_wrong, report.findings.lost()), (1, 0), "{report}");
}

#[tokio::test]
async fn hoarders_take_what_nobody_limits() {
    let line = "hoarder --stock 100 --connections 2 --depth 2 --warmup 0 --seconds 1";
    let report = bench(Lie::None, line).await;
    assert!(report.passed(), "{report}");
    let (granted, sold) = (report.totals.granted, report.totals.confirmed);
    assert!(granted > sold && sold > 0, "{report}");
    assert!(report.to_string().contains(" of 100"), "{report}");
}

#[tokio::test]
async fn an_oversell_is_found_in_the_counters() {
    let report = bench(Lie::OversellCounters, SOLDOUT).await;
    assert!(!report.passed(), "{report}");
    assert_eq!(report.findings.units_oversold, 1, "{report}");
}

#[tokio::test]
async fn an_oversell_that_the_counters_hide_is_found_by_ids() {
    let report = bench(Lie::OversellIds, SOLDOUT).await;
    assert!(!report.passed(), "{report}");
    assert_eq!(report.findings.units_oversold, 1, "{report}");
}

#[tokio::test]
async fn a_lost_reservation_is_found() {
    let line = "uniform --cells 5 --connections 2 --depth 1 --warmup 0 --seconds 1";
    let report = bench(Lie::ForgetId, line).await;
    assert!(!report.passed(), "{report}");
    assert_eq!(report.findings.ids_not_found, 1, "{report}");
    assert!(report.to_string().contains("NOT_FOUND"), "{report}");
}

#[tokio::test]
async fn a_lost_confirm_is_found() {
    let report = bench(Lie::ForgetConfirm, UNIFORM).await;
    assert!(!report.passed(), "{report}");
    assert_eq!(report.findings.ids_wrong_state, 1, "{report}");
    assert_eq!(report.findings.cells_wrong, 1, "its cell lacks a committed unit: {report}");
}

#[tokio::test]
async fn a_lost_cell_is_found() {
    let report = bench(Lie::ForgetCell, UNIFORM).await;
    assert!(!report.passed(), "{report}");
    assert_eq!((report.findings.cells_wrong, report.findings.lost()), (1, 0), "{report}");
}

#[tokio::test]
async fn an_early_expiry_is_found() {
    let line = "uniform --cells 5 --connections 2 --depth 1 --warmup 0 --seconds 1";
    let report = bench(Lie::ExpireEarly, line).await;
    assert!(!report.passed(), "{report}");
    assert_eq!(report.findings.ids_wrong_state, 1, "{report}");
}

#[tokio::test]
async fn a_replay_of_a_new_id_is_impossible() {
    let report = bench(Lie::ReplayFirst, UNIFORM).await;
    assert!(!report.passed(), "{report}");
    assert_eq!(report.stats.odd_count, 1, "{report}");
}

#[tokio::test]
async fn lost_connections_lose_nothing() {
    let report = bench(Lie::DropConnections, UNIFORM).await;
    assert!(report.passed(), "{report}");
    assert!(report.stats.reconnects > 0 && report.stats.frames_resent > 0, "{report}");
    assert_eq!(report.findings.unknown_granted + report.findings.unknown_absent, 0, "{report}");
}

#[tokio::test]
async fn the_leader_is_found_and_followed() {
    let mut addresses = serve_all(Lie::MoveLeader, 3).await;
    addresses.rotate_left(1);
    let report = bench_at(&addresses.join(","), UNIFORM).await;
    assert!(report.passed(), "{report}");
    assert_eq!(report.stats.reconnects, 3, "each connection moved once: {report}");
    assert!(report.totals.granted > 200, "and went on there: {report}");
    let not_leader = report.json()["codes"]["NOT_LEADER"].as_u64().unwrap();
    assert!(not_leader >= 3, "{report}");
}

#[tokio::test]
async fn busy_frames_are_sent_again() {
    let line = "uniform --cells 5 --connections 2 --depth 4 --warmup 0 --seconds 1";
    let report = bench(Lie::Busy, line).await;
    assert!(report.passed(), "{report}");
    let busy = report.json()["codes"]["BUSY"].as_u64().unwrap();
    assert_eq!(report.stats.frames_resent, busy, "{report}");
}

const STORM: &str = "expiry-storm --advance 2000 --advance-seconds 2 --rate 2000 --cells 20 \
     --connections 2 --warmup 0.1 --seconds 0.5";

#[tokio::test]
async fn a_storm_refuses_nobody() {
    let report = bench(Lie::None, STORM).await;
    assert!(report.passed(), "{report}");
    let names: Vec<_> = report.stats.measured.iter().map(|m| m.window.name).collect();
    assert_eq!(names, ["calm", "storm", "storm, first 2 s"]);
    assert!(report.stats.measured.iter().all(|m| m.latency_us.len() > 100), "{report}");
    assert!(report.totals.granted > 2_000, "the due units were sold again: {report}");
}

#[tokio::test]
async fn a_refusal_in_a_storm_is_found() {
    let report = bench(Lie::RefuseOnce, STORM.replace("2000 --adv", "80 --adv").as_str()).await;
    assert!(!report.passed(), "{report}");
    assert_eq!(report.totals.refused, 1, "{report}");
    assert_eq!(report.findings.lost(), 0, "{report}");
}
