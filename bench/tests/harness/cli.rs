//! The binary's exit codes.

use std::process::{Output, Stdio};

use super::fake::{Lie, serve};

/// Runs the binary to its end, while this thread's runtime serves.
async fn bench(address: &str, line: &str) -> Output {
    let (words, address) = (line.to_owned(), address.to_owned());
    let child = tokio::process::Command::new(env!("CARGO_BIN_EXE_stockd-bench"))
        .args(words.split_whitespace())
        .args(["--addr", &address])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    child.await.unwrap()
}

const LINE: &str = "uniform --cells 5 --connections 2 --warmup 0 --seconds 1 --json -";

#[tokio::test]
async fn a_right_server_is_0_with_json_on_standard_output() {
    let output = bench(&serve(Lie::None).await, LINE).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["verification"]["lost_acknowledgements"], 0);
    let table = String::from_utf8(output.stderr).unwrap();
    assert!(table.contains("lost acknowledgements 0 · oversold 0"), "{table}");
}

#[tokio::test]
async fn a_lost_acknowledgement_is_1() {
    let output = bench(&serve(Lie::ForgetId).await, LINE).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let table = String::from_utf8(output.stderr).unwrap();
    assert!(table.contains("lost acknowledgements 1"), "{table}");
}

#[tokio::test]
async fn wrong_arguments_are_2() {
    let address = serve(Lie::None).await;
    let line = "uniform --confirm-percent 60 --release-percent 60";
    assert_eq!(bench(&address, line).await.status.code(), Some(2));
    let output = bench(&address, "uniform --cells 5 --depth 65536 --seconds 0.1").await;
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("1024 frames in flight"));
    assert_eq!(bench(&address, "no-such-workload").await.status.code(), Some(2));
}
