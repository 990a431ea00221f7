//! Many clients at once, each with one call after another, on one thread.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::Outcome;
use crate::client::{Client, Target};

/// What came of one cell: how long each call took, in microseconds, and how many there were in a second.
pub(crate) struct Measured {
    pub(crate) times: Vec<f64>,
    pub(crate) rate: f64,
}

/// A runtime for clients: one thread, so that the other processor is left to what is measured.
pub(crate) fn runtime() -> Outcome<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Lets one client for each target call for `cell`, after a while that does not count.
pub(crate) async fn drive(targets: &[Target], cell: Duration) -> Outcome<Measured> {
    let mut clients = JoinSet::new();
    let began = Instant::now() + cell / 5;
    for (number, target) in targets.iter().cloned().enumerate() {
        clients.spawn(async move {
            let mut client = Client::connect(&target).await?;
            let mut times = Vec::new();
            let mut now = Instant::now();
            while now < began + cell {
                // Which client and which call it is: an answer that went to another one is seen.
                client.echo(&format!("client {number} call {}", times.len())).await?;
                let done = Instant::now();
                if now >= began {
                    times.push((done - now).as_secs_f64() * 1e6);
                }
                now = done;
            }
            Outcome::Ok(times)
        });
    }
    let mut times = Vec::new();
    while let Some(ended) = clients.join_next().await {
        times.append(&mut ended??);
    }
    let rate = times.len() as f64 / cell.as_secs_f64();
    Ok(Measured { times, rate })
}
