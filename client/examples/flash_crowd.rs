//! A flash sale in one process: many buyers, few units, one connection.
//!
//! ```text
//! cargo run --release -p stockd-client --example flash_crowd -- 127.0.0.1:7400 [stock] [buyers]
//! ```
//!
//! Buyers come by the thousand; of those who get a unit, every tenth gives it back and the rest
//! confirm. At the end, what buyers hold must be what the counters say.

use std::sync::Arc;
use std::time::Duration;

use stockd_client::{CellRef, Client, Consistency, Error, Reserve};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Buyers who are in the shop at the same time.
const CROWD: usize = 1_000;

/// What became of some buyers.
#[derive(Clone, Copy, Default, Debug)]
struct Tally {
    confirmed: u64,
    released: u64,
    sold_out: u64,
    undecided: u64,
}

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:7400".to_owned());
    let mut number = |default: u64| match arguments.next() {
        Some(text) => text.parse().expect("stock and buyers are numbers"),
        None => default,
    };
    let (stock, buyers) = (number(1_000), number(100_000));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("the operating system has sockets").block_on(sale(address, stock, buyers))
}

async fn sale(address: String, stock: u64, buyers: u64) -> Result<(), Error> {
    let client = Arc::new(Client::connect(address).await?);
    // A drop of its own for every run.
    let sku = format!("drop-{}", client.new_op_id());
    let cell = CellRef::name("BER", &sku);
    let stock = u32::try_from(stock).expect("a receive takes a u32");
    client.receive(client.new_op_id(), cell, stock).await?;

    let start = Instant::now();
    let mut crowd = JoinSet::new();
    for first in 0..CROWD as u64 {
        let (client, sku) = (client.clone(), sku.clone());
        crowd.spawn(async move {
            let mut tally = Tally::default();
            for buyer in (first..buyers).step_by(CROWD) {
                buy(&client, &sku, buyer, &mut tally).await;
            }
            tally
        });
    }
    let mut sum = Tally::default();
    while let Some(tally) = crowd.join_next().await {
        let tally = tally.expect("buyers do not panic");
        sum.confirmed += tally.confirmed;
        sum.released += tally.released;
        sum.sold_out += tally.sold_out;
        sum.undecided += tally.undecided;
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{buyers} buyers in {seconds:.2} s: {sum:?}");

    let read = client.read_cell(cell, Consistency::Linearizable).await?;
    let counters = read.value.expect("stock was received into it").counters;
    println!("{counters:?}");
    if sum.undecided == 0 {
        assert_eq!(counters.committed, sum.confirmed as i64, "every confirmed unit is committed");
    }
    assert!(counters.available >= 0 && counters.on_hand == i64::from(stock), "no oversell");
    Ok(())
}

/// One buyer's visit.
async fn buy(client: &Client, sku: &str, buyer: u64, tally: &mut Tally) {
    let id = client.new_id();
    let one = Reserve::new(id).line("BER", sku, 1).ttl(Duration::from_secs(60));
    let result = match client.reserve(&one).await {
        Ok(_) if buyer % 10 == 9 => client.release(id).await.map(|_| &mut tally.released),
        Ok(_) => client.confirm(id).await.map(|_| &mut tally.confirmed),
        Err(Error::Refused(_)) => Ok(&mut tally.sold_out),
        Err(error) => Err(error),
    };
    match result {
        Ok(count) => *count += 1,
        Err(error) => {
            eprintln!("{id}: {error}");
            tally.undecided += 1;
        }
    }
}
