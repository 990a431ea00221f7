//! Results of 8 MiB.

use std::time::Instant;

use crate::client::Client;
use crate::load::runtime;
use crate::processes::Running;
use crate::statistics::{Figure, percentile};
use crate::table::{Aim, aimed, heading, row};
use crate::{Outcome, Plan};

const SIZE: usize = 8 << 20;

pub(crate) fn measure(plan: &Plan) -> Outcome<()> {
    let runtime = runtime()?;
    let (ferry, floor) = (runtime.block_on(Running::ready_ferry())?, Running::floor()?);
    let (mut over_ferry, mut over_floor) = (Figure::default(), Figure::default());
    runtime.block_on(async {
        let session = ferry.target.with_session().await?;
        let (mut through, mut bare) = (Client::connect(&session).await?, Client::connect(&floor.target).await?);
        for _ in 0..plan.rounds {
            let (mut ferry_times, mut floor_times) = (Vec::new(), Vec::new());
            for turn in 0..=plan.large_results {
                let (ferry, floor) = (timed(&mut through).await?, timed(&mut bare).await?);
                // The first of each round warms up.
                if turn > 0 {
                    ferry_times.push(ferry);
                    floor_times.push(floor);
                }
            }
            over_ferry.add(percentile(&ferry_times, 0.5));
            over_floor.add(percentile(&floor_times, 0.5));
        }
        Outcome::Ok(())
    })?;
    heading("a result of 8 MiB");
    row("bare HTTP", "ms", &over_floor);
    row("ferry", "ms", &over_ferry);
    let times = over_ferry.with(&over_floor, |ferry, floor| ferry / floor);
    aimed("ferry's time as a multiple", "", &times, &Aim::AtMost(1.6));
    row("ferry's resident memory after it", "MiB", &Figure(vec![ferry.memory()? / 1024.0]));
    Ok(())
}

async fn timed(client: &mut Client) -> Outcome<f64> {
    let began = Instant::now();
    client.large(SIZE).await?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}
