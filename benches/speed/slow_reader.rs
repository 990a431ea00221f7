//! Many large results, one after another, for a client that reads slowly; and another client meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::client::{Client, Target};
use crate::load::runtime;
use crate::processes::Running;
use crate::statistics::{Figure, percentile};
use crate::table::{Aim, aimed, heading, row};
use crate::{Outcome, Plan};

const SIZE: usize = 1 << 20;
const RATE: usize = 1 << 20;

pub(crate) fn measure(plan: &Plan) -> Outcome<()> {
    runtime()?.block_on(async {
        let ferry = Running::ready_ferry().await?;
        let (slow, other) = (ferry.target.with_session().await?, ferry.target.with_session().await?);
        let alone = watch_other(&other, &AtomicBool::new(false), Some(Duration::from_secs(2))).await?;
        let done = AtomicBool::new(false);
        let reading = async {
            let mut client = Client::connect_narrow(&slow).await?;
            let mut peaks = Vec::new();
            for _ in 0..plan.slow_results {
                let id = client.ask_large(SIZE).await?;
                let mut peak: f64 = 0.0;
                let reading = client.read_slowly(id, SIZE, RATE);
                let mut reading = std::pin::pin!(reading);
                let mut tick = tokio::time::interval(Duration::from_millis(50));
                loop {
                    tokio::select! {
                        read = &mut reading => break read?,
                        _ = tick.tick() => peak = peak.max(ferry.memory()?),
                    }
                }
                peaks.push(peak / 1024.0);
            }
            done.store(true, Ordering::Relaxed);
            Outcome::Ok(peaks)
        };
        let (peaks, meanwhile) = tokio::try_join!(reading, watch_other(&other, &done, None))?;
        heading(&format!("{} results of 1 MiB for a client that reads 1 MiB/s", plan.slow_results));
        row("resident memory during the first", "MiB", &Figure(vec![peaks[0]]));
        row("resident memory during each", "MiB", &Figure(peaks.clone()));
        let grown = Figure(vec![percentile(&peaks, 1.0) - peaks[0]]);
        aimed("the most above the first", "MiB", &grown, &Aim::AtMost(8.0));
        row("another client's p50 alone", "µs", &Figure(vec![alone]));
        row("another client's p50 meanwhile", "µs", &Figure(vec![meanwhile]));
        aimed("as a multiple", "", &Figure(vec![meanwhile / alone]), &Aim::AtMost(1.5));
        Ok(())
    })
}

/// The p50 of a client that calls now and then.
async fn watch_other(target: &Target, done: &AtomicBool, span: Option<Duration>) -> Outcome<f64> {
    let mut client = Client::connect(target).await?;
    let (began, mut times) = (Instant::now(), Vec::new());
    while !done.load(Ordering::Relaxed) && span.is_none_or(|span| began.elapsed() < span) {
        let called = Instant::now();
        client.echo("meanwhile").await?;
        times.push(called.elapsed().as_secs_f64() * 1e6);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(percentile(&times, 0.5))
}
