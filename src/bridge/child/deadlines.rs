//! Ends what takes too long, as long as a process lives.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::exchange::Overdue;
use super::super::methods;
use super::super::refusal::Refusal;
use super::super::relay::{legacy_child, modern_child};
use super::super::reply::Finish;
use super::{Child, Live, own_info};
use crate::mcp::probe;
use crate::mcp::version::Era;

impl Child {
    /// Ends what has taken too long, as long as the process lives.
    pub(super) async fn watch_deadlines(self: &Arc<Self>, live: &Arc<Live>) -> std::convert::Infallible {
        const FINEST: Duration = Duration::from_millis(20);
        let limits = &self.limits;
        let shortest = limits
            .request_timeout
            .min(limits.detached_ttl)
            .min(limits.listen_ack)
            .min(limits.s2c_timeout)
            .min(limits.round_ttl);
        let tick = (shortest / 8).clamp(FINEST, Duration::from_secs(1));
        loop {
            let sessions = self.audience();
            if live.connection.in_flight() == 0
                && self.dialogues.is_empty()
                && self.driven().is_empty()
                && !sessions.iter().any(|session| session.is_asked(live.generation))
            {
                drop(sessions);
                live.busy.notified().await;
                continue;
            }
            tokio::time::sleep(tick).await;
            let now = Instant::now();
            self.dialogues.expire(now);
            for exchange in self.driven().iter().filter(|exchange| exchange.is_abandoned(now, limits)) {
                exchange.end(Finish::Ferry(Refusal::Cancelled));
            }
            for session in sessions {
                legacy_child::end_unanswered(live, &session, now);
            }
            let mut overdue = Vec::new();
            live.connection.each(|number, exchange, cancelled| {
                // Whose user is being asked is not idle; the question has a time of its own.
                let asking = exchange.session().is_some_and(|session| session.is_asking(live.generation, number));
                if asking && !exchange.is_deserted() {
                    exchange.sign();
                }
                if !cancelled && let Some(why) = exchange.overdue(now, &self.limits) {
                    overdue.push((Arc::clone(exchange), why));
                }
            });
            for (exchange, why) in overdue {
                if let (Some(session), Some((_, number))) = (exchange.session(), exchange.upstream()) {
                    legacy_child::withdraw(session, number);
                }
                match why {
                    Overdue::TimedOut if exchange.is_acknowledged() => {
                        exchange.cancel_with(
                            "not acknowledged",
                            Finish::Ready(modern_child::listen_result(&exchange.asking.id)),
                        );
                    }
                    Overdue::Abandoned => exchange.cancel("the client is gone", Refusal::Cancelled),
                    Overdue::TimedOut => {
                        tracing::warn!(method = exchange.asking.method, "the server did not answer in time");
                        exchange.cancel("timed out", Refusal::UpstreamTimeout);
                        self.doubt(live, exchange.heard_before());
                    }
                }
            }
        }
    }

    /// A server that has said nothing since a request it let time out is asked for a sign of life, and ended without.
    fn doubt(self: &Arc<Self>, live: &Arc<Live>, heard_before: u64) {
        if live.connection.lines_heard() != heard_before {
            return;
        }
        let (child, live) = (Arc::clone(self), Arc::clone(live));
        tokio::spawn(async move {
            let sign = async {
                match live.opened.era {
                    Era::Legacy => live.connection.call(methods::PING, "{}").await,
                    Era::Modern => {
                        let meta = probe::own_meta(&live.opened.version, &own_info());
                        live.connection.call(methods::DISCOVER, &format!("{{\"_meta\":{meta}}}")).await
                    }
                }
            };
            let silent = tokio::time::timeout(child.limits.liveness_timeout, sign).await.is_err();
            if silent
                && live.connection.lines_heard() == heard_before
                && let Some(upstream) = child.upstream.get()
            {
                upstream.restart(live.generation, "it does not answer any more");
            }
        });
    }
}
