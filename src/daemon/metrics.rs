//! `/metrics`: what is counted ([`crate::telemetry::metrics`]) and what can be seen now, as the text that Prometheus reads.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};
use tokio::task::spawn_blocking;

use super::health::{self, Word};
use super::servers::Servers;
use super::tunnel::{TunnelFacts, Way};
use crate::mcp::version::Era;
use crate::supervisor::{State, memory_by_group};
use crate::telemetry::metrics::Meter;

/// What the text is.
pub(super) const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything there is to tell now.
pub(super) async fn text(servers: &Servers, tunnel: &Way) -> String {
    let memory = spawn_blocking(memory_by_group).await.unwrap_or_default();
    let mut registry = Registry::with_prefix("ferry");
    registry.register_collector(Box::new(Picture::of(servers, tunnel.facts(), &memory)));
    let mut text = String::new();
    // Only a writer could fail, and a text does not.
    let _ = encode(&mut text, &registry);
    text
}

/// All servers at one moment.
#[derive(Debug)]
struct Picture(Vec<Seen>, TunnelFacts);

/// One server at one moment.
#[derive(Debug)]
struct Seen {
    name: String,
    up: bool,
    processes: usize,
    restarts: u64,
    memory: u64,
    era: Option<Era>,
    sessions: usize,
    in_flight: usize,
    /// None of one that cannot even be started.
    meter: Option<Arc<Meter>>,
}

impl Picture {
    fn of(servers: &Servers, tunnel: TunnelFacts, memory: &BTreeMap<i32, u64>) -> Self {
        let serving = servers.serving().into_iter().map(|running| {
            let facts = running.endpoint.observed();
            let members = running.pool.members();
            let states: Vec<State> = members.iter().map(|member| running.state_of(member)).collect();
            let pids: Vec<i32> = members.iter().filter_map(|member| member.process.watch().borrow().pid).collect();
            Seen {
                name: running.name().to_owned(),
                up: health::of_server(&states) == Word::Ok,
                processes: pids.len(),
                restarts: running.pool.restarts(),
                memory: pids.iter().filter_map(|pid| memory.get(pid)).sum(),
                era: facts.era,
                sessions: facts.sessions.len(),
                in_flight: facts.in_flight,
                meter: Some(Arc::clone(running.endpoint.meter())),
            }
        });
        let broken = servers.broken().into_iter().map(|broken| Seen {
            name: broken.name,
            up: false,
            processes: 0,
            restarts: 0,
            memory: 0,
            era: None,
            sessions: 0,
            in_flight: 0,
            meter: None,
        });
        Self(serving.chain(broken).collect(), tunnel)
    }

    fn meters(&self) -> impl Iterator<Item = (&str, &Meter)> {
        self.0.iter().filter_map(|seen| Some((seen.name.as_str(), seen.meter.as_deref()?)))
    }
}

/// No examples are kept.
const NONE: Option<&Exemplar<NoLabelSet, f64>> = None;

type Told = Result<(), fmt::Error>;

impl Collector for Picture {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Told {
        let out = &mut encoder;
        let mut info = out.encode_descriptor("build", "The version of ferry", None, MetricType::Info)?;
        info.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;

        self.tunnel(out)?;

        let by_server = |seen: &Seen| vec![("server", seen.name.clone())];
        self.gauge(out, "server_up", "Whether the server is up, or at rest until somebody asks", None, |seen| {
            vec![(by_server(seen), i64::from(seen.up))]
        })?;
        self.gauge(out, "server_processes", "Processes of the server that run", None, |seen| {
            vec![(by_server(seen), number(seen.processes as u64))]
        })?;
        self.gauge(out, "server_memory", "What these have in memory", Some(&Unit::Bytes), |seen| {
            vec![(by_server(seen), number(seen.memory))]
        })?;
        self.gauge(out, "server_era", "The era of MCP that the server was opened in", None, |seen| {
            let era = seen.era.map(|era| (vec![("server", seen.name.clone()), ("era", era.to_string())], 1));
            era.into_iter().collect()
        })?;
        self.gauge(out, "sessions", "Sessions that clients have with the server", None, |seen| {
            vec![(by_server(seen), number(seen.sessions as u64))]
        })?;
        self.gauge(out, "requests_in_flight", "Requests that wait for the server", None, |seen| {
            vec![(by_server(seen), number(seen.in_flight as u64))]
        })?;

        let mut restarts = counter(out, "server_restarts", "Times that a process was started again", None)?;
        for seen in &self.0 {
            restarts.encode_family(&by_server(seen))?.encode_counter(&seen.restarts, NONE)?;
        }
        let mut requests = counter(out, "requests", "Requests to the server that have ended", None)?;
        for (name, meter) in self.meters() {
            for (method, outcome, count) in meter.requests() {
                let labels = [("server", name), ("method", method), ("outcome", outcome)];
                requests.encode_family(&labels)?.encode_counter(&count, NONE)?;
            }
        }
        let help = "How long requests took, from their arrival at ferry to the server's answer";
        let unit = Some(&Unit::Seconds);
        let mut durations = out.encode_descriptor("request_duration", help, unit, MetricType::Histogram)?;
        for (name, meter) in self.meters() {
            let found = meter.durations();
            let labels = [("server", name)];
            let mut one = durations.encode_family(&labels)?;
            one.encode_histogram::<NoLabelSet>(found.sum, found.count, &found.classes, None)?;
        }
        let mut responses = counter(out, "http_responses", "HTTP responses at the server's path", None)?;
        for (name, meter) in self.meters() {
            for (status, count) in meter.responses() {
                let labels = [("server", name), ("status", status.as_str())];
                responses.encode_family(&labels)?.encode_counter(&count, NONE)?;
            }
        }
        for (metric, help, which) in [
            ("http_received", "Bytes of HTTP request bodies", (|meter| meter.bytes().0) as fn(&Meter) -> u64),
            ("http_sent", "Bytes of HTTP response bodies", |meter| meter.bytes().1),
        ] {
            let mut bytes = counter(out, metric, help, Some(&Unit::Bytes))?;
            for (name, meter) in self.meters() {
                bytes.encode_family(&[("server", name)])?.encode_counter(&which(meter), NONE)?;
            }
        }
        Ok(())
    }
}

type Labels = Vec<(&'static str, String)>;

impl Picture {
    /// Nothing where there is not to be one: nobody wants an alarm for that.
    fn tunnel(&self, out: &mut DescriptorEncoder<'_>) -> Told {
        let tunnel = &self.1;
        if tunnel.state == "off" {
            return Ok(());
        }
        for (name, help, value) in [
            ("tunnel_connections", "Connections that cloudflared has to Cloudflare", u64::from(tunnel.connections)),
            ("tunnel_up", "Whether the tunnel is open", u64::from(tunnel.state == "connected")),
        ] {
            out.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&number(value))?;
        }
        counter(out, "tunnel_restarts", "Times that cloudflared was started again", None)?
            .encode_counter(&tunnel.restarts, NONE)
    }

    fn gauge(
        &self,
        out: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: impl Fn(&Seen) -> Vec<(Labels, i64)>,
    ) -> Told {
        let mut gauge = out.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (labels, value) in self.0.iter().flat_map(values) {
            gauge.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }
}

fn counter<'o>(
    out: &'o mut DescriptorEncoder<'_>,
    name: &'o str,
    help: &str,
    unit: Option<&'o Unit>,
) -> Result<MetricEncoder<'o>, fmt::Error> {
    out.encode_descriptor(name, help, unit, MetricType::Counter)
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_text_is_as_prometheus_reads_it() {
        let meter = Arc::new(Meter::default());
        meter.answered("tools/call", "ok", Some(Duration::from_micros(300)));
        meter.answered("tools/call", "upstream_timeout", Some(Duration::from_secs(290)));
        meter.responded(200);
        meter.received(10);
        meter.sent(2000);
        let seen = |name: &str, meter: Option<Arc<Meter>>| Seen {
            name: name.to_owned(),
            up: meter.is_some(),
            processes: usize::from(meter.is_some()),
            restarts: 3,
            memory: 1 << 20,
            era: meter.is_some().then_some(Era::Legacy),
            sessions: 2,
            in_flight: 1,
            meter,
        };
        let tunnel = TunnelFacts {
            state: "connected".to_owned(),
            healthy: true,
            connections: 4,
            since: Some(5),
            error: None,
            fix: None,
            version: None,
            pid: None,
            restarts: 1,
        };
        let mut registry = Registry::with_prefix("ferry");
        registry
            .register_collector(Box::new(Picture(vec![seen("bear", Some(meter)), seen("odd\"name", None)], tunnel)));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        insta::with_settings!({filters => vec![(env!("CARGO_PKG_VERSION"), "[version]")]}, {
            insta::assert_snapshot!(text);
        });
    }
}
