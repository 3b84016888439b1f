//! What the pods count themselves: a check of what answers say, and the only source where answers tell no
//! `cached_tokens`. Read from the pods, or from the sidecar, which scrapes them every second.

use crate::observe::report;
use crate::observe::status::{EndpointStatus, PodStatus, Status};
use crate::pods::client::Client;
use crate::pods::vllm::{self, Engine};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a sidecar is waited for to have scraped each pod again.
const SCRAPED_WITHIN: Duration = Duration::from_secs(10);

/// Counters of one pod, summed over its engines.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counters {
    /// Prompt tokens looked up in the prefix cache.
    pub queries: f64,
    /// Of these, tokens found.
    pub hits: f64,
    /// Tokens in a block; 0 when not known.
    pub block_size: u32,
    /// Size of its caches in tokens; 0 when not known.
    pub capacity: u64,
}

impl Counters {
    /// What was counted since `before`; all of it, where the pod was restarted in between.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let restarted = self.queries < before.queries || self.hits < before.hits;
        let before = if restarted { Self::default() } else { *before };
        Self { queries: self.queries - before.queries, hits: self.hits - before.hits, ..*self }
    }

    fn add(&mut self, queries: f64, hits: f64, block_size: u32, capacity: u64) {
        self.queries += queries;
        self.hits += hits;
        self.block_size = self.block_size.max(block_size);
        self.capacity += capacity;
    }
}

/// Counters of all pods by address.
pub type Counted = BTreeMap<String, Counters>;

/// What was counted from `before` to `after`. A pod that was not there before has counted all of it since.
#[must_use]
pub fn between(before: &Counted, after: &Counted) -> Counted {
    let none = Counters::default();
    after.iter().map(|(pod, now)| (pod.clone(), now.since(before.get(pod).unwrap_or(&none)))).collect()
}

/// Where counters are read.
#[derive(Clone, Debug)]
pub enum Source {
    /// Nowhere: answers alone must do.
    None,
    /// At the pods, by `host:port`.
    Pods(Box<Client>, Vec<String>),
    /// At the sidecar: its URL.
    Sidecar(String),
}

impl Source {
    /// The source that the options name.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(pods: &[String], sidecar: Option<&str>) -> Result<Self, String> {
        if let Some(url) = sidecar {
            return Ok(Self::Sidecar(url.to_owned()));
        }
        if pods.is_empty() {
            return Ok(Self::None);
        }
        let hosts: Result<Vec<_>, _> = pods.iter().map(|url| host(url)).collect();
        Ok(Self::Pods(Box::new(Client::new(Duration::from_secs(2), None, None)?), hosts?))
    }

    /// The counters as of now, of the pods that serve `model`, and why some are missing; none without a source.
    ///
    /// # Errors
    /// When none can be read.
    pub async fn read(&self, model: &str) -> Result<(Counted, Vec<String>), String> {
        match self {
            Self::None => Ok((Counted::new(), Vec::new())),
            Self::Pods(client, hosts) => {
                let (mut all, mut missing) = (Counted::new(), Vec::new());
                for host in hosts {
                    match scrape(client, host).await {
                        Ok(counters) => drop(all.insert(host.clone(), counters)),
                        Err(error) => missing.push(error),
                    }
                }
                if all.is_empty() { Err(missing.join("; ")) } else { Ok((all, missing)) }
            }
            Self::Sidecar(url) => {
                let all = through_sidecar(url, model).await?;
                if all.is_empty() {
                    Err(format!("--sidecar {url}: it knows no pod of {model}"))
                } else {
                    Ok((all, Vec::new()))
                }
            }
        }
    }
}

fn host(url: &str) -> Result<String, String> {
    if url.starts_with("https://") {
        return Err(format!("--pods {url}: pods are read in plain text; use --sidecar"));
    }
    let host = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    let host = host.strip_suffix("/metrics").unwrap_or(host);
    match host.rsplit_once(':') {
        Some((name, port)) if !name.is_empty() && port.parse::<u16>().is_ok() => Ok(host.to_owned()),
        _ => Err(format!("--pods {url}: must be http://HOST:PORT")),
    }
}

async fn scrape(client: &Client, host: &str) -> Result<Counters, String> {
    let wrong = |error: String| format!("pod {host}: {error} (--pods)");
    let read = tokio::time::timeout(Duration::from_secs(5), client.get(host, "/metrics", false)).await;
    let (status, page) =
        read.map_err(|_| wrong("no answer within 5 s".to_owned()))?.map_err(|failure| wrong(failure.error))?;
    if !status.is_success() {
        return Err(wrong(format!("/metrics: {status}")));
    }
    let page = vllm::read(&page).map_err(|error| wrong(error.to_string()))?;
    let mut sum = Counters::default();
    for Engine { queries, hits, block_size, capacity, .. } in page.engines {
        sum.add(queries, hits, block_size, capacity.0);
    }
    Ok(sum)
}

/// Reads the sidecar's page again until all pods that answer it were scraped after this call.
async fn through_sidecar(url: &str, model: &str) -> Result<Counted, String> {
    let asked = Instant::now();
    loop {
        let status = report::fetch(url).await.map_err(|error| format!("--sidecar {error}"))?;
        let age = asked.elapsed();
        if is_newer(&status, age.as_secs_f64()) || age > SCRAPED_WITHIN {
            return Ok(of_status(&status, model));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn is_newer(status: &Status, age_s: f64) -> bool {
    let answers = |pod: &&PodStatus| pod.endpoints.iter().any(|e| e.choosable && e.state != "late");
    status.pods.iter().filter(answers).all(|pod| pod.last_success_s.is_some_and(|at| at < age_s))
}

fn of_status(status: &Status, model: &str) -> Counted {
    let serves = |pod: &&PodStatus| pod.models.is_empty() || pod.models.iter().any(|m| m == model);
    let mut all = Counted::new();
    for pod in status.pods.iter().filter(serves) {
        let sum = all.entry(pod.address.clone()).or_default();
        for EndpointStatus { queried_tokens, hit_tokens, block_size, capacity_tokens, .. } in &pod.endpoints {
            sum.add(*queried_tokens, *hit_tokens, *block_size, *capacity_tokens);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(queries: f64, hits: f64) -> Counters {
        Counters { queries, hits, block_size: 16, capacity: 100 }
    }

    #[test]
    fn a_restarted_pod_has_counted_all_of_it_since() {
        assert_eq!(counters(30.0, 20.0).since(&counters(10.0, 5.0)), counters(20.0, 15.0));
        assert_eq!(counters(8.0, 5.0).since(&counters(10.0, 5.0)), counters(8.0, 5.0));
        let before = Counted::from([("a".to_owned(), counters(10.0, 5.0))]);
        let after = Counted::from([("a".to_owned(), counters(11.0, 5.0)), ("b".to_owned(), counters(3.0, 1.0))]);
        let changed = between(&before, &after);
        assert_eq!((changed["a"].queries, changed["b"].queries), (1.0, 3.0));
    }

    #[test]
    fn pods_are_named_by_url_or_address() {
        for good in ["http://10.0.0.1:8000", "10.0.0.1:8000", "http://10.0.0.1:8000/metrics", "http://10.0.0.1:8000/"] {
            assert_eq!(host(good).unwrap(), "10.0.0.1:8000");
        }
        for bad in ["https://a:1", "http://a", "a:b", ":1"] {
            assert!(host(bad).unwrap_err().contains("--pods"), "{bad}");
        }
    }

    fn pod(address: &str, model: &str, state: &str, age: f64) -> PodStatus {
        let endpoint = EndpointStatus {
            state: state.to_owned(),
            choosable: state != "failing",
            queried_tokens: 10.0,
            hit_tokens: 4.0,
            block_size: 16,
            capacity_tokens: 160,
            ..EndpointStatus::default()
        };
        PodStatus {
            address: address.to_owned(),
            models: vec![model.to_owned()],
            last_success_s: Some(age),
            endpoints: vec![endpoint],
            ..PodStatus::default()
        }
    }

    #[test]
    fn the_sidecars_page_gives_the_models_pods_once_scraped_again() {
        let pods =
            vec![pod("a:1", "m", "ready", 0.5), pod("b:1", "other", "ready", 0.2), pod("c:1", "m", "failing", 9.0)];
        let status = Status { pods, ..Status::default() };
        assert!(!is_newer(&status, 0.4));
        // The pod that fails is not waited for.
        assert!(is_newer(&status, 0.6));
        let counted = of_status(&status, "m");
        assert_eq!(counted.keys().collect::<Vec<_>>(), ["a:1", "c:1"]);
        assert_eq!(counted["a:1"], Counters { queries: 10.0, hits: 4.0, block_size: 16, capacity: 160 });
    }
}
