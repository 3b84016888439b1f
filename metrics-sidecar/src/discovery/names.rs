//! Addresses and host names as options name them. Names are looked up again and again; all their addresses count.

use super::{DiscoveredEndpoint, Discovery, Outlet};
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::lookup_host;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Time from one look-up to the next.
const EVERY: Duration = Duration::from_secs(5);

/// How long a look-up may take.
const ANSWER: Duration = Duration::from_secs(4);

/// The source.
#[derive(Debug)]
pub struct Names {
    option: &'static str,
    names: Vec<String>,
}

impl Names {
    /// Looks up each `host:port`, which `option` named.
    #[must_use]
    pub fn new(option: &'static str, names: Vec<String>) -> Self {
        Self { option, names }
    }
}

#[async_trait]
impl Discovery for Names {
    fn name(&self) -> String {
        format!("{} {}", self.option, self.names.join(";"))
    }

    async fn run(self: Box<Self>, outlet: Outlet) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // A name that cannot be looked up now keeps the addresses that it had.
        let mut found: BTreeMap<&str, BTreeSet<SocketAddr>> = BTreeMap::new();
        loop {
            tokio::select! {
                () = outlet.closed() => return,
                _ = ticks.tick() => {}
            }
            let mut failures = Vec::new();
            for name in &self.names {
                match timeout(ANSWER, lookup_host(name)).await {
                    Ok(Ok(addresses)) => {
                        found.insert(name, addresses.collect());
                    }
                    Ok(Err(error)) => failures.push(format!("{name}: {error}")),
                    Err(_) => failures.push(format!("{name}: no answer within {} s", ANSWER.as_secs())),
                }
            }
            match failures.is_empty() {
                true => outlet.standing().followed("names"),
                false => outlet.standing().failed("names", &failures.join("; ")),
            }
            let all: BTreeSet<SocketAddr> = found.values().flatten().copied().collect();
            let endpoint = |at: SocketAddr| DiscoveredEndpoint { address: at.to_string(), ..Default::default() };
            outlet.publish(all.into_iter().map(endpoint).collect(), Vec::new());
        }
    }
}
