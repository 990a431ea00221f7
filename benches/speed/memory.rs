//! Resident memory: of ferry alone, of its sessions, of their streams.

use std::time::Duration;

use crate::client::Client;
use crate::load::runtime;
use crate::processes::Running;
use crate::statistics::Figure;
use crate::table::{Aim, aimed, heading};
use crate::{Outcome, Plan};

/// How many sessions a busy household has.
const HOUSEHOLD: usize = 200;

pub(crate) fn measure(plan: &Plan) -> Outcome<()> {
    let runtime = runtime()?;
    let (mut idle, mut household) = (Figure::default(), Figure::default());
    let (mut session, mut stream, mut connection) = (Figure::default(), Figure::default(), Figure::default());
    for _ in 0..plan.rounds {
        let (ferry, floor) = (runtime.block_on(Running::ready_ferry())?, Running::floor()?);
        runtime.block_on(async {
            let mut sessions = Vec::new();
            idle.add(settled(&ferry).await? / 1024.0);
            for _ in 0..HOUSEHOLD {
                sessions.push(ferry.target.with_session().await?);
            }
            let before = settled(&ferry).await?;
            household.add(before / 1024.0);
            for _ in 0..plan.sessions {
                sessions.push(ferry.target.with_session().await?);
            }
            let with_sessions = settled(&ferry).await?;
            session.add((with_sessions - before) / plan.sessions as f64);
            let mut streams = Vec::new();
            for target in &sessions[..plan.streams] {
                let mut client = Client::connect(target).await?;
                client.open_stream(target).await?;
                streams.push(client);
            }
            stream.add((settled(&ferry).await? - with_sessions) / plan.streams as f64);
            let (before, mut connections) = (settled(&floor).await?, Vec::new());
            for _ in 0..plan.streams {
                let mut client = Client::connect(&floor.target).await?;
                client.echo("hello").await?;
                connections.push(client);
            }
            connection.add((settled(&floor).await? - before) / plan.streams as f64);
            Outcome::Ok(())
        })?;
    }
    heading("resident memory");
    aimed("ferry, idle", "MiB", &idle, &Aim::AtMost(8.0));
    aimed("ferry with 200 sessions", "MiB", &household, &Aim::AtMost(12.0));
    aimed("a session without a connection", "KiB", &session, &Aim::AtMost(4.0));
    crate::table::row("a connection of the bare server", "KiB", &connection);
    crate::table::row("a session's open stream", "KiB", &stream);
    let above = stream.with(&connection, |stream, connection| stream - connection);
    aimed("the stream above the bare connection", "KiB", &above, &Aim::AtMost(4.0));
    Ok(())
}

/// The memory of a process once it has nothing to do.
async fn settled(server: &Running) -> Outcome<f64> {
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.memory()
}
