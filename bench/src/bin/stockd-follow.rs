//! Follows the events of a node with any number of subscribers, for measuring what they cost it.
//!
//! Each takes all events from the moment on, checks every record, and counts them. Those that are stalled grant a
//! byte, and then nothing any more. After the time, or when standard input ends, it says how many events came.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Parser;
use stockd_client::events::Subscription;
use tokio::io::AsyncReadExt;

/// Follow the events of a node with many subscribers
#[derive(Parser)]
struct Args {
    /// Where nodes serve clients
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:7400")]
    addr: Vec<String>,
    /// Subscribers that read all there is
    #[arg(long, default_value_t = 10)]
    subscribers: u32,
    /// Subscribers that read nothing
    #[arg(long, default_value_t = 0)]
    stalled: u32,
    /// How long
    #[arg(long, default_value_t = 3_600)]
    seconds: u64,
}

#[derive(Default)]
struct Seen {
    events: AtomicU64,
    lag_max: AtomicU64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match follow(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stockd-follow: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn follow(args: Args) -> Result<(), stockd_client::events::Error> {
    let seen = Arc::new(Seen::default());
    let mut stalled = Vec::new();
    for _ in 0..args.stalled {
        stalled.push(Subscription::new(args.addr.clone()).now().open().await?);
    }
    for _ in 0..args.subscribers {
        let mut stream = Subscription::new(args.addr.clone()).now().open().await?;
        let seen = seen.clone();
        tokio::spawn(async move {
            while let Ok(batch) = stream.next().await {
                let came = batch.records().map(|record| u64::from(record.header().count)).sum();
                seen.events.fetch_add(came, Ordering::Relaxed);
                seen.lag_max.fetch_max(batch.lag(), Ordering::Relaxed);
            }
        });
    }
    println!("following");
    let mut input = tokio::io::stdin();
    let mut rest = [0; 64];
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs(args.seconds)) => {}
        () = async { while input.read(&mut rest).await.is_ok_and(|count| count > 0) {} } => {}
    }
    let (events, lag_max) = (&seen.events, &seen.lag_max);
    let (events, lag_max) = (events.load(Ordering::Relaxed), lag_max.load(Ordering::Relaxed));
    println!("{events} events in all, {lag_max} behind at most");
    Ok(())
}
