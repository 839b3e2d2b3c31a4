//! The shell around a [`Driver`]: reads all there is, lets the driver answer, writes once.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use stockd_protocol::{limits::REPLY_BYTES_MAX, take_frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::{sleep, sleep_until, timeout};

use crate::clock::Clock;
use crate::driver::{Driver, Fault, Next};
use crate::link::{Link, Nodes};

/// When to lose patience.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// With frames in flight and no byte for so long, the connection counts as broken.
    pub reply_ns: u64,
    /// At this time on the run's clock, unanswered frames are given up.
    pub end_ns: u64,
}

const READ_BYTES: usize = 256 << 10;
/// How often a connection looks at the clock when nothing comes.
const TICK_NS: u64 = 50_000_000;
/// Keeps nodes that point at each other from being asked in a tight loop.
const RECONNECT_PAUSE: Duration = Duration::from_millis(5);

/// Why a socket is of no more use.
enum Broke {
    /// Try again, at this address if one was named.
    Away(Option<String>),
    /// The load is done.
    Done,
}

/// Drives one connection to the end of its load, over as many sockets as it takes. In the open loop,
/// `tick` says when to look for frames that are due.
///
/// # Errors
/// The server does not follow the protocol.
pub async fn drive(
    mut driver: Driver,
    mut link: Option<Link>,
    mut nodes: Nodes,
    clock: Clock,
    patience: Patience,
    tick: Arc<Notify>,
) -> Result<Driver, Fault> {
    loop {
        let now = clock.now_ns();
        if now >= patience.end_ns {
            return Ok(driver);
        }
        let Some(open) = link.take() else {
            let left = Duration::from_nanos(patience.end_ns - now);
            match timeout(left, nodes.connect(left)).await {
                Ok(Ok(open)) => link = Some(open),
                Ok(Err(_)) | Err(_) => return Ok(driver),
            }
            continue;
        };
        match pump(&mut driver, open, clock, patience, &tick).await? {
            Broke::Done => return Ok(driver),
            Broke::Away(leader) => {
                driver.lost(clock.now_ns());
                nodes.leads(leader);
                sleep(RECONNECT_PAUSE).await;
            }
        }
    }
}

/// Moves bytes until the load is done or the socket is of no more use.
async fn pump(
    driver: &mut Driver,
    link: Link,
    clock: Clock,
    patience: Patience,
    tick: &Notify,
) -> Result<Broke, Fault> {
    let Link { mut stream, mut input, .. } = link;
    let (mut reader, mut writer) = stream.split();
    let mut out = BytesMut::with_capacity(READ_BYTES);
    let mut now = clock.now_ns();
    let mut heard_ns = now;
    let timer = sleep_until(clock.instant(now + TICK_NS));
    tokio::pin!(timer);
    let mut armed_ns = now + TICK_NS;
    driver.fill(now, &mut out);
    loop {
        if driver.finished(now) {
            return Ok(Broke::Done);
        }
        let wake = driver.wake_ns(now).unwrap_or(u64::MAX).min(now + TICK_NS);
        // Setting a timer costs more than letting one fire in vain now and then.
        if wake < armed_ns || armed_ns <= now {
            armed_ns = wake.max(now);
            timer.as_mut().reset(clock.instant(armed_ns));
        }
        input.reserve(READ_BYTES);
        tokio::select! {
            biased;
            wrote = writer.write_buf(&mut out), if !out.is_empty() => {
                if wrote.is_err() {
                    return Ok(Broke::Away(None));
                }
                continue;
            }
            read = reader.read_buf(&mut input) => {
                if !matches!(read, Ok(1..)) {
                    return Ok(Broke::Away(None));
                }
                now = clock.now_ns();
                heard_ns = now;
                if let Next::Reconnect(leader) = take_all(driver, now, &mut input)? {
                    return Ok(Broke::Away(leader));
                }
            }
            () = tick.notified() => now = clock.now_ns(),
            () = timer.as_mut() => {
                now = clock.now_ns();
                if now >= patience.end_ns {
                    return Ok(Broke::Done);
                }
                if !driver.in_flight() {
                    heard_ns = now;
                }
                if now - heard_ns > patience.reply_ns {
                    return Ok(Broke::Away(None));
                }
            }
        }
        driver.fill(now, &mut out);
    }
}

/// Hands every whole frame to the driver.
fn take_all(driver: &mut Driver, now: u64, input: &mut BytesMut) -> Result<Next, Fault> {
    let mut next = Next::Continue;
    while let Some(frame) =
        take_frame(input, REPLY_BYTES_MAX).map_err(|error| Fault(error.to_string()))?
    {
        // Later frames may still hold answers: take them all before moving on.
        if let reconnect @ Next::Reconnect(_) = driver.handle(now, &frame)? {
            next = reconnect;
        }
    }
    driver.publish(now);
    Ok(next)
}
