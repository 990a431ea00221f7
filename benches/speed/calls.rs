//! Small calls by 1, 16 and 64 clients.

use crate::client::Target;
use crate::load::{Measured, drive, runtime};
use crate::processes::Running;
use crate::statistics::{Figure, percentile};
use crate::table::{Aim, aimed, heading, row};
use crate::{Outcome, Plan, pipe};

const CLIENTS: [usize; 3] = [1, 16, 64];

/// What one server did for one number of clients, round by round.
#[derive(Default)]
struct Cell {
    rate: Figure,
    p50: Figure,
    p99: Figure,
    processor: Figure,
}

impl Cell {
    fn add(&mut self, measured: &Measured, processor: Option<f64>) {
        self.rate.add(measured.rate);
        self.p50.add(percentile(&measured.times, 0.5));
        self.p99.add(percentile(&measured.times, 0.99));
        if let Some(processor) = processor {
            self.processor.add(processor);
        }
    }

    fn print(&self, name: &str) {
        row(&format!("{name}: calls a second"), "", &self.rate);
        row(&format!("{name}: p50"), "µs", &self.p50);
        row(&format!("{name}: p99"), "µs", &self.p99);
        if !self.processor.0.is_empty() {
            row(&format!("{name}: processor time per call"), "µs", &self.processor);
        }
    }
}

pub(crate) fn measure(plan: &Plan) -> Outcome<()> {
    let runtime = runtime()?;
    let (ferry, floor) = (runtime.block_on(Running::ready_ferry())?, Running::floor()?);
    let most = CLIENTS[CLIENTS.len() - 1];
    let sessions = runtime.block_on(async {
        let mut sessions = Vec::new();
        for _ in 0..most {
            sessions.push(ferry.target.with_session().await?);
        }
        Outcome::Ok(sessions)
    })?;
    let bare = vec![floor.target.clone(); most];
    let mut cells: [(Cell, Cell); CLIENTS.len()] = Default::default();
    let mut trip = Figure::default();
    let measure_one = |server: &Running, targets: &[Target], cell: &mut Cell| {
        let before = server.processor_time();
        let measured = runtime.block_on(drive(targets, plan.cell))?;
        let used = before.and_then(|before| Some(server.processor_time()?.saturating_sub(before)));
        // The time before it counts is a fifth of it.
        let answered = measured.rate * plan.cell.as_secs_f64() * 1.2;
        cell.add(&measured, used.map(|used| used.as_secs_f64() * 1e6 / answered));
        Outcome::Ok(())
    };
    for round in 0..plan.rounds {
        trip.add(percentile(&pipe::round_trips(plan.cell / 2)?, 0.5));
        for (clients, (over_ferry, over_floor)) in CLIENTS.into_iter().zip(&mut cells) {
            // In turns, and with turns in who comes first.
            for is_ferry in [round % 2 == 0, round % 2 != 0] {
                if is_ferry {
                    measure_one(&ferry, &sessions[..clients], over_ferry)?;
                } else {
                    measure_one(&floor, &bare[..clients], over_floor)?;
                }
            }
        }
    }
    for (clients, (over_ferry, over_floor)) in CLIENTS.into_iter().zip(&cells) {
        heading(&format!("{clients} client{}", if clients == 1 { "" } else { "s" }));
        over_floor.print("bare HTTP");
        if clients == 1 {
            row("bare pipe: p50", "µs", &trip);
        }
        over_ferry.print("ferry");
        if clients == 1 {
            let floors = over_floor.p50.with(&trip, |http, pipe| http + pipe);
            let above = over_ferry.p50.with(&floors, |ferry, floors| ferry - floors);
            aimed("ferry's p50 above both floors", "µs", &above, &Aim::AtMost(40.0));
        } else {
            let share = over_ferry.rate.with(&over_floor.rate, |ferry, floor| ferry / floor);
            aimed("ferry's share of bare HTTP's calls", "", &share, &Aim::AtLeast(0.5));
        }
    }
    let memory = Figure(vec![ferry.memory()? / 1024.0]);
    row("ferry's resident memory after all that", "MiB", &memory);
    Ok(())
}
