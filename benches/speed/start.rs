//! From the start of the program to its first answer.

use std::time::Instant;

use crate::load::runtime;
use crate::processes::{Running, Way};
use crate::statistics::Figure;
use crate::table::{Aim, aimed, heading, row};
use crate::{Outcome, Plan};

pub(crate) fn measure(plan: &Plan) -> Outcome<()> {
    let runtime = runtime()?;
    heading("from exec to the first answer");
    for (name, way) in [("ferry run", Way::Run), ("ferry try", Way::Try)] {
        let (mut listens, mut serves) = (Figure::default(), Figure::default());
        for _ in 0..plan.starts {
            let began = Instant::now();
            let ferry = Running::ferry(way)?;
            runtime.block_on(async {
                ferry.listening().await?;
                listens.add(began.elapsed().as_secs_f64() * 1e3);
                ferry.target.with_session().await?;
                serves.add(began.elapsed().as_secs_f64() * 1e3);
                Outcome::Ok(())
            })?;
        }
        aimed(&format!("{name}: answers"), "ms", &listens, &Aim::AtMost(15.0));
        row(&format!("{name}: a session, its server included"), "ms", &serves);
    }
    Ok(())
}
