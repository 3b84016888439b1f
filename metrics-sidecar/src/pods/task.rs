//! The task of one pod: scrape at once, then every interval, and report after each. It ends when it is aborted.
//!
//! A scrape that is late is not given up at once: while the pod stays choosable the request stands (for
//! `PATIENCE`), because a busy engine answers when it can, and one more request each second would only keep it
//! busier. Meanwhile a bare TCP connection an interval tells a busy pod from a dead node.

use crate::clock::Clock;
use crate::observe::metrics::ScrapeMetrics;
use crate::pods::adapters::Resident;
use crate::pods::client::{Client, Failure};
use crate::pods::health::{Health, Next, Outcome};
use crate::pods::identity::Identity;
use crate::pods::vllm::{self, Page};
use crate::pods::{Report, models};
use hyper::StatusCode;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How long one late scrape may stand before it is asked anew: its connection may be dead without either side's
/// knowledge.
const PATIENCE: Duration = Duration::from_secs(5);

/// The least time from one reading of `/v1/models` to the next, when adapters appear on the metrics page.
const MODELS_AT_LEAST: Duration = Duration::from_secs(5);

/// When things are done.
#[derive(Clone, Debug)]
pub struct Timing {
    /// From one scrape to the next, before jitter.
    pub interval: Duration,
    /// When a scrape becomes late.
    pub timeout: Duration,
    /// How soon a refusal is confirmed.
    pub confirm_after: Duration,
    /// How long a late pod stays choosable.
    pub late_limit: Duration,
    /// From one reading of `/v1/models` to the next.
    pub models_interval: Duration,
}

/// What the tasks of all pods share.
#[derive(Clone, Debug)]
pub struct Tools {
    /// Asks.
    pub client: Client,
    /// When.
    pub timing: Timing,
    /// The time.
    pub clock: Clock,
    /// Counts.
    pub metrics: Arc<ScrapeMetrics>,
}

/// One pod's task.
pub struct PodTask<R> {
    tools: Tools,
    address: String,
    host: String,
    health: Health,
    identity: Identity,
    adapters: Resident,
    models_read: Option<Instant>,
    last: Report,
    report: R,
}

impl<R: AsyncFnMut(Report)> PodTask<R> {
    /// A task for the pod at `address`, scraped at `host`; `report` gets what is known after each scrape.
    #[must_use]
    pub fn new(tools: Tools, address: &str, host: &str, uid: Option<&str>, report: R) -> Self {
        Self {
            health: Health::new(tools.timing.late_limit),
            tools,
            address: address.to_owned(),
            host: host.to_owned(),
            identity: Identity::new(address, uid),
            adapters: Resident::default(),
            models_read: None,
            last: Report { state: warmpath_core::table::State::Failing, ..Report::default() },
            report,
        }
    }

    /// Scrapes until it is dropped.
    pub async fn run(mut self) {
        loop {
            let began = Instant::now();
            let wait = match self.scrape_once(began).await {
                Next::Confirm => self.tools.timing.confirm_after,
                Next::Usual => {
                    let interval = self.tools.timing.interval;
                    let rest = interval.mul_f64(rand::random_range(0.9..1.1)).saturating_sub(began.elapsed());
                    // A pod that has just answered late is not asked again in the same breath.
                    rest.max(interval / 4)
                }
            };
            sleep(wait).await;
        }
    }

    async fn scrape_once(&mut self, began: Instant) -> Next {
        let (client, host) = (self.tools.client.clone(), self.host.clone());
        let mut scrape = pin!(async move { scrape(&client, &host).await });
        let mut wait = self.tools.timing.timeout;
        loop {
            tokio::select! {
                result = &mut scrape => {
                    self.tools.metrics.took(began.elapsed());
                    self.last.took = Some(began.elapsed());
                    return match result {
                        Ok(page) => self.succeeded(&page).await,
                        Err(failure) => self.failed(failure).await,
                    };
                }
                () = sleep(wait) => {}
            }
            wait = self.tools.timing.interval;
            self.failed(Failure::new(Outcome::Slow, format!("no answer after {:.1?}", began.elapsed()))).await;
            if !self.health.state().is_choosable() || began.elapsed() >= PATIENCE {
                return Next::Usual;
            }
            if let Err(failure) = self.tools.client.reach(&self.host).await {
                match self.failed(failure).await {
                    Next::Confirm => wait = self.tools.timing.confirm_after,
                    Next::Usual => return Next::Usual,
                }
            }
        }
    }

    async fn succeeded(&mut self, page: &Page) -> Next {
        let next = self.observe(Outcome::Success, None);
        let (caches, restarted) = self.identity.caches(page);
        self.last.caches = caches;
        self.last.adapters = self.adapters.observe(page, restarted);
        if restarted {
            self.models_read = None;
        }
        // Without models the first report would let requests for any model through, so they are read before it.
        if self.last.models.is_none() {
            self.read_models(page).await;
            self.send().await;
        } else {
            self.send().await;
            if self.read_models(page).await {
                self.send().await;
            }
        }
        next
    }

    async fn failed(&mut self, failure: Failure) -> Next {
        let next = self.observe(failure.outcome, Some(failure.error));
        self.send().await;
        next
    }

    fn observe(&mut self, outcome: Outcome, error: Option<String>) -> Next {
        let next = self.health.observe(outcome, self.tools.clock.now());
        self.tools.metrics.ended(outcome);
        let failure = Outcome::FAILURES.iter().position(|failure| *failure == outcome);
        if let Some(count) = failure.and_then(|at| self.last.failures.get_mut(at)) {
            *count += 1;
        }
        let (before, after) = (self.last.state, self.health.state());
        let is_first = self.last.outcome.is_none();
        if before != after || is_first {
            let from = if is_first { "new" } else { before.name() };
            let reason = error.as_deref().unwrap_or("scraped");
            tracing::info!(pod = %self.address, from, to = after.name(), reason, "pod state");
        }
        self.last.state = after;
        self.last.outcome = Some(outcome);
        self.last.error = error;
        self.last.last_success = self.health.last_success();
        next
    }

    async fn send(&mut self) {
        (self.report)(self.last.clone()).await;
    }

    /// Reads `/v1/models` when it is time to. True when the list changed.
    async fn read_models(&mut self, page: &Page) -> bool {
        let known = self.last.models.as_deref().unwrap_or_default();
        let unknown_adapter = page.adapters.iter().any(|name| !known.contains(name));
        let wait = if unknown_adapter || self.last.models.is_none() {
            MODELS_AT_LEAST.min(self.tools.timing.models_interval)
        } else {
            self.tools.timing.models_interval
        };
        if self.models_read.is_some_and(|at| at.elapsed() < wait) {
            return false;
        }
        self.models_read = Some(Instant::now());
        let read = timeout(self.tools.timing.timeout, read_models(&self.tools.client, &self.host)).await;
        match read.unwrap_or_else(|_| Err("/v1/models: no answer in time".to_owned())) {
            Ok(models) if self.last.models.as_ref() != Some(&models) => {
                tracing::debug!(pod = %self.address, ?models, "pod models");
                self.last.models = Some(models);
                true
            }
            Ok(_) => false,
            Err(error) => {
                self.tools.metrics.models_failed();
                tracing::debug!(pod = %self.address, error, "models not read");
                false
            }
        }
    }
}

async fn scrape(client: &Client, host: &str) -> Result<Page, Failure> {
    let (status, _) = client.get(host, "/health", false).await?;
    if status != StatusCode::OK {
        return Err(Failure::new(Outcome::Unready, format!("/health: {status}")));
    }
    let (status, page) = client.get(host, "/metrics", false).await?;
    if status != StatusCode::OK {
        return Err(Failure::new(Outcome::Unreadable, format!("/metrics: {status}")));
    }
    vllm::read(&page).map_err(|error| Failure::new(Outcome::Unreadable, format!("/metrics: {error}")))
}

async fn read_models(client: &Client, host: &str) -> Result<Vec<String>, String> {
    let (status, page) = client.get(host, "/v1/models", true).await.map_err(|failure| failure.error)?;
    if status == StatusCode::OK { models::read(&page) } else { Err(format!("/v1/models: {status}")) }
}
