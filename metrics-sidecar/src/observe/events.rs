//! `/events`: what happens, as server-sent events for the live page and `warmpath top`.
//!
//! `event: status` at once and then every second: as `/status`, but with the newest two points of each view's series
//! after the first one, which has all. `event: requests` at most every 100 ms: a list of [`Event`]s. Where nobody
//! listens, nothing is made; a page that reads too slowly is told how many it has missed.

use crate::observe::traffic::view::Endpoint;
use crate::observe::{Pages, status};
use crate::shutdown::{self, Shutdown, Trigger};
use axum::response::sse;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::TryRecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::wrappers::ReceiverStream;
use warmpath_core::journal::{Body, Record};
use warmpath_core::units::{Millis, Seconds, Tokens};

/// Pages that may be open at once.
pub const MOST_PAGES: usize = 32;

/// Events of requests that wait for a page to be told.
const WAITING: usize = 1_024;

/// How often a page is told of requests, and of how many at once.
const BATCH_EVERY: Duration = Duration::from_millis(100);
const BATCH: usize = 200;

/// How often it gets a status.
const STATUS_EVERY: Duration = Duration::from_secs(1);

/// Points of a series that changed since the last status: the newest, and the one that was the newest then.
const CHANGED_POINTS: u64 = 2;

/// Messages that wait for one page to read them.
const QUEUE: usize = 4;

/// One event, as pages get it. What it does not have is left out.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Event {
    /// When, Unix ms.
    pub t: u64,
    /// Which request, hexadecimal.
    pub id: String,
    /// `decided`, `routed`, `first_token`, `done` or `void`.
    pub event: Cow<'static, str>,
    /// Whose view.
    pub plugin: String,
    /// `ip:port` of the endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Its data-parallel rank.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<u32>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'static, str>>,
    /// Whether its endpoint was named to Envoy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steered: Option<bool>,
    /// Size of the prompt: estimated when it is decided, as the pod counted it when it is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<u64>,
    /// Of these, believed to be cached where it goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matched_tokens: Option<u64>,
    /// Predicted time to first token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_ms: Option<f64>,
    /// Time to first token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttft_ms: Option<f64>,
    /// Of the prompt's tokens, found in the cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached_tokens: Option<u64>,
    /// Tokens generated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u64>,
    /// Whether a peer's Envoy routed it.
    pub peer: bool,
}

impl Event {
    /// What a record says of a request that is at `endpoint`, if it says anything that pages are told.
    #[must_use]
    pub fn of(record: &Record, endpoint: Option<&Endpoint>, plugin: &str, peer: bool, now: Millis) -> Option<Self> {
        let id = record.request;
        let event = Self {
            t: record.at.min(now).0,
            id: format!("{:016x}{:016x}", id.origin.0, id.number),
            plugin: plugin.to_owned(),
            endpoint: endpoint.map(|endpoint| endpoint.address.clone()),
            rank: endpoint.and_then(|endpoint| endpoint.rank),
            peer,
            ..Self::default()
        };
        let count = |tokens: &Option<Tokens>| tokens.map(|tokens| tokens.0);
        Some(match &record.body {
            Body::Decided { reason, steered, prompt, matched, predicted } => Self {
                event: "decided".into(),
                reason: Some(reason.name().into()),
                steered: Some(*steered),
                prompt_tokens: Some(prompt.0),
                matched_tokens: Some(matched.0),
                predicted_ms: Some(ms(*predicted)),
                ..event
            },
            Body::Route { .. } => Self { event: "routed".into(), ..event },
            Body::FirstToken { ttft } => Self { event: "first_token".into(), ttft_ms: Some(ms(*ttft)), ..event },
            Body::Done { prompt, cached, output } => Self {
                event: "done".into(),
                prompt_tokens: count(prompt),
                cached_tokens: count(cached),
                output_tokens: count(output),
                ..event
            },
            Body::Void { .. } => Self { event: "void".into(), ..event },
            _ => return None,
        })
    }
}

/// To the tenth; JSON knows no more than numbers.
fn ms(time: Seconds) -> f64 {
    let tenths = (time.0 * 10_000.0).round() / 10.0;
    if tenths.is_finite() { tenths } else { 0.0 }
}

/// What is told to open pages.
#[derive(Debug)]
pub struct Events {
    requests: broadcast::Sender<Arc<Event>>,
    statuses: watch::Sender<Arc<str>>,
    pages: Arc<Semaphore>,
    /// Ends the pages.
    end: Trigger,
    ended: Shutdown,
}

impl Default for Events {
    fn default() -> Self {
        let (end, ended) = shutdown::channel();
        Self {
            end,
            ended,
            requests: broadcast::Sender::new(WAITING),
            statuses: watch::Sender::new(Arc::from("")),
            pages: Arc::new(Semaphore::new(MOST_PAGES)),
        }
    }
}

impl Events {
    /// Tells all pages of an event, which is not made where there is none.
    pub fn send(&self, event: impl FnOnce() -> Option<Event>) {
        if self.requests.receiver_count() > 0
            && let Some(event) = event()
        {
            // The last page may have gone just now.
            let _ = self.requests.send(Arc::new(event));
        }
    }

    /// Room for another page, if there is any.
    #[must_use]
    pub fn room(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.pages).try_acquire_owned().ok()
    }
}

type Out = mpsc::Sender<Result<sse::Event, Infallible>>;

/// Serves a page until it or this process ends.
pub fn serve(pages: Arc<Pages>, room: OwnedSemaphorePermit) -> ReceiverStream<Result<sse::Event, Infallible>> {
    let (out, stream) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let _room = room;
        let requests = pages.events.requests.subscribe();
        let statuses = pages.events.statuses.subscribe();
        let first = status::text(&pages, super::traffic::view::SPANS);
        if send(&out, "status", &first).await {
            tokio::select! {
                () = pages.events.ended.wait() => {}
                () = tell(&out, requests, statuses) => {}
            }
        }
    });
    ReceiverStream::new(stream)
}

async fn tell(out: &Out, mut requests: broadcast::Receiver<Arc<Event>>, mut statuses: watch::Receiver<Arc<str>>) {
    let mut batches = interval(BATCH_EVERY);
    batches.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let alive = tokio::select! {
            () = out.closed() => return,
            changed = statuses.changed() => {
                let text = Arc::clone(&*statuses.borrow_and_update());
                changed.is_ok() && send(out, "status", &text).await
            }
            _ = batches.tick() => match batch(&mut requests) {
                Some(text) => send(out, "requests", &text).await,
                None => true,
            },
        };
        if !alive {
            return;
        }
    }
}

/// What has come since the last batch, as a list; none where nothing has.
fn batch(requests: &mut broadcast::Receiver<Arc<Event>>) -> Option<String> {
    let (mut events, mut skipped) = (Vec::new(), 0);
    loop {
        match requests.try_recv() {
            Ok(event) if events.len() < BATCH => events.push(event),
            Ok(_) => skipped += 1,
            Err(TryRecvError::Lagged(count)) => skipped += count,
            Err(TryRecvError::Empty | TryRecvError::Closed) => break,
        }
    }
    let skipped = (skipped > 0).then(|| serde_json::json!({"event": "skipped", "count": skipped}).to_string());
    let events = events.iter().filter_map(|event| serde_json::to_string(&**event).ok());
    let all: Vec<String> = events.chain(skipped).collect();
    (!all.is_empty()).then(|| format!("[{}]", all.join(",")))
}

/// False when the page is gone.
async fn send(out: &Out, name: &str, data: &str) -> bool {
    out.send(Ok(sse::Event::default().event(name).data(data))).await.is_ok()
}

/// Makes a status each second while pages are open, one for all of them; ends the pages at shutdown.
pub async fn run(pages: Arc<Pages>, shutdown: Shutdown) {
    let mut ended = std::pin::pin!(shutdown.wait());
    let mut every = interval(STATUS_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = &mut ended => return pages.events.end.end(),
            _ = every.tick() => {}
        }
        if pages.events.statuses.receiver_count() > 0 {
            pages.events.statuses.send_replace(Arc::from(status::text(&pages, CHANGED_POINTS)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use warmpath_core::placement::Reason;
    use warmpath_core::units::{EndpointId, Origin, RequestId};

    fn record(number: u64, body: Body) -> Record {
        Record { request: RequestId { origin: Origin(0xa), number }, at: Millis(5), body }
    }

    fn event(number: u64) -> Event {
        let route = Body::Route { endpoint: EndpointId(1), bytes: 9, stream: true, boundaries: Vec::new(), late_ms: 0 };
        let endpoint = Endpoint { address: "10.0.0.1:80".to_owned(), rank: None, prefill_rate: 1.0 };
        Event::of(&record(number, route), Some(&endpoint), "p", false, Millis(9)).unwrap()
    }

    #[test]
    fn an_event_has_what_it_has() {
        assert_eq!(
            serde_json::to_value(event(1)).unwrap(),
            serde_json::json!({
                "t": 5, "id": "000000000000000a0000000000000001", "event": "routed", "plugin": "p",
                "endpoint": "10.0.0.1:80", "peer": false
            })
        );
        let predicted = Seconds(f64::INFINITY);
        let (prompt, matched) = (Tokens(9), Tokens(8));
        let decided = Body::Decided { reason: Reason::Warm, steered: true, prompt, matched, predicted };
        let decided = Event::of(&record(1, decided), None, "p", true, Millis(9)).unwrap();
        assert_eq!(
            (decided.reason.as_deref(), decided.matched_tokens, decided.predicted_ms),
            (Some("warm"), Some(8), Some(0.0))
        );
        assert_eq!(Event::of(&record(1, Body::RefillWanted), None, "p", false, Millis(9)), None);
    }

    #[test]
    fn where_nobody_listens_nothing_is_made() {
        let events = Events::default();
        events.send(|| panic!("made"));
        let mut page = events.requests.subscribe();
        events.send(|| Some(event(1)));
        assert!(batch(&mut page).unwrap().starts_with(r#"[{"t":5,"#));
        assert_eq!(batch(&mut page), None);
    }

    #[test]
    fn a_batch_is_bounded_and_tells_what_it_leaves_out() {
        let events = Events::default();
        let mut page = events.requests.subscribe();
        for (sent, left_out) in [(BATCH, 0), (BATCH + 7, 7), (WAITING + 50, WAITING + 50 - BATCH)] {
            (0..sent as u64).for_each(|n| events.send(|| Some(event(n))));
            let all: Vec<serde_json::Value> = serde_json::from_str(&batch(&mut page).unwrap()).unwrap();
            assert_eq!(all.len(), BATCH + usize::from(left_out > 0));
            if left_out > 0 {
                assert_eq!(all[BATCH], serde_json::json!({"event": "skipped", "count": left_out}));
            }
        }
    }

    #[test]
    fn pages_are_bounded() {
        let events = Events::default();
        let mut open: Vec<_> = (0..MOST_PAGES).map(|_| events.room().unwrap()).collect();
        assert!(events.room().is_none());
        open.pop();
        assert!(events.room().is_some());
    }
}
