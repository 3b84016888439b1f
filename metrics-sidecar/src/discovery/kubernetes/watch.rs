//! Lists objects and watches them, for ever. Thin: what the objects mean is decided elsewhere.
//!
//! Not kube's own `runtime::watcher`: it does not tell when a broken watch is whole again, which the metrics must
//! show, and it warns at each retry of a refused one.

use super::explain::Needs;
use crate::discovery::standing::Standing;
use futures::StreamExt;
use kube::api::{ListParams, WatchParams};
use kube::core::WatchEvent;
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How long the API server holds a watch open, in seconds. A new one costs one request and loses no event.
const WATCH_S: u32 = 60;

/// A watch that is silent for longer is dead: the API server would have ended it.
const SILENCE: Duration = Duration::from_secs(WATCH_S as u64 + 10);

/// How long an answer may take to begin.
const ANSWER: Duration = Duration::from_secs(10);

/// Objects in one page of a list.
const PAGE: u32 = 500;

/// After a watch that lived this long, waits begin anew.
const LIVED: Duration = Duration::from_secs(5);

/// The first and the longest wait before another try.
const WAITS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// The objects seen, by name.
pub type Seen<K> = BTreeMap<String, K>;

/// Which objects.
#[derive(Clone, Debug, Default)]
pub struct Query {
    labels: Option<String>,
    fields: Option<String>,
}

impl Query {
    /// Those with these labels.
    #[must_use]
    pub fn labels(selector: String) -> Self {
        Self { labels: Some(selector), fields: None }
    }

    /// The one with this name.
    #[must_use]
    pub fn name(name: &str) -> Self {
        Self { labels: None, fields: Some(format!("metadata.name={name}")) }
    }
}

/// Calls `changed` with all objects, at first and after each change. Failures go to `standing` as `part`; what was seen
/// before stays in force until the API server says otherwise.
pub async fn follow<K>(
    api: &Api<K>,
    query: &Query,
    part: &'static str,
    needs: &Needs,
    standing: &Standing,
    changed: impl FnMut(&Seen<K>),
) where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut watch = Watch { api, query, seen: Seen::new(), version: None, changed };
    let mut waits = Waits::default();
    loop {
        let began = Instant::now();
        let result = watch.round(|| standing.followed(part)).await;
        if let Err(failure) = &result {
            if failure.is_doubtful() {
                watch.version = None;
            }
            if !failure.is_expired() {
                standing.failed(part, &failure.explain(needs));
            }
        }
        let lived = began.elapsed() >= LIVED;
        if lived {
            waits = Waits::default();
        }
        // A watch that the API server has ended after its time goes on at once.
        if result.is_err() || !lived {
            sleep(waits.next()).await;
        }
    }
}

struct Watch<'a, K, C> {
    api: &'a Api<K>,
    query: &'a Query,
    seen: Seen<K>,
    /// Up to which version of the collection all was seen; none: list first.
    version: Option<String>,
    changed: C,
}

impl<K, C> Watch<'_, K, C>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    C: FnMut(&Seen<K>),
{
    /// Lists if need be and watches until the watch ends.
    async fn round(&mut self, mut followed: impl FnMut()) -> Result<(), Failure> {
        let version = match self.version.clone() {
            Some(version) => version,
            None => self.list().await?,
        };
        let mut params = WatchParams::default().timeout(WATCH_S);
        params.label_selector.clone_from(&self.query.labels);
        params.field_selector.clone_from(&self.query.fields);
        let mut events = in_time(self.api.watch(&params, &version)).await?.boxed();
        followed();
        loop {
            let event = match timeout(SILENCE, events.next()).await {
                Err(_) => return Err(Failure::Silent),
                Ok(None) => return Ok(()),
                Ok(Some(event)) => event?,
            };
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    self.version = object.resource_version();
                    self.seen.insert(object.name_any(), slim(object));
                    (self.changed)(&self.seen);
                }
                WatchEvent::Deleted(object) => {
                    self.version = object.resource_version();
                    self.seen.remove(&object.name_any());
                    (self.changed)(&self.seen);
                }
                WatchEvent::Bookmark(mark) => self.version = Some(mark.metadata.resource_version),
                WatchEvent::Error(status) => return Err(Failure::Kube(kube::Error::Api(status))),
            }
        }
    }

    /// Reads all objects, in pages, and puts them in the place of those seen.
    async fn list(&mut self) -> Result<String, Failure> {
        let mut params = ListParams::default().limit(PAGE);
        params.label_selector.clone_from(&self.query.labels);
        params.field_selector.clone_from(&self.query.fields);
        let mut seen = Seen::new();
        loop {
            let page = in_time(self.api.list(&params)).await?;
            seen.extend(page.items.into_iter().map(|object| (object.name_any(), slim(object))));
            params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                let version = page.metadata.resource_version.unwrap_or_default();
                self.version = Some(version.clone());
                self.seen = seen;
                (self.changed)(&self.seen);
                return Ok(version);
            }
        }
    }
}

/// Without what is large and not looked at.
fn slim<K: Resource>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object.meta_mut().annotations = None;
    object
}

async fn in_time<T>(answer: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    timeout(ANSWER, answer).await.map_err(|_| Failure::Late)?.map_err(Failure::Kube)
}

#[derive(Debug)]
enum Failure {
    Kube(kube::Error),
    Late,
    Silent,
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        Self::Kube(error)
    }
}

impl Failure {
    /// Whether it is better to list again: the API server may mean that the version is too old, or (after a restore)
    /// too new. Not when it asks for fewer requests.
    fn is_doubtful(&self) -> bool {
        match self {
            Self::Kube(kube::Error::Api(status)) => status.code != 429,
            Self::Kube(kube::Error::SerdeError(_)) => true,
            _ => false,
        }
    }

    /// The API server no longer knows the version that was seen last: usual after a long break, and no fault.
    fn is_expired(&self) -> bool {
        matches!(self, Self::Kube(kube::Error::Api(status)) if status.code == 410)
    }

    fn explain(&self, needs: &Needs) -> String {
        match self {
            Self::Kube(error) => needs.explain(error),
            Self::Late => format!("the API server gave no answer within {} s", ANSWER.as_secs()),
            Self::Silent => format!("the API server said nothing for {} s", SILENCE.as_secs()),
        }
    }
}

/// Doubling waits, each shortened by up to half at random, so that many gateways do not try in step.
#[derive(Debug, Default)]
struct Waits {
    tries: u32,
}

impl Waits {
    fn next(&mut self) -> Duration {
        let (first, longest) = WAITS;
        let wait = first.saturating_mul(2_u32.saturating_pow(self.tries)).min(longest);
        self.tries = self.tries.saturating_add(1);
        wait.mul_f64(rand::random_range(0.5..1.0))
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
