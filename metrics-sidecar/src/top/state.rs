//! What is shown: the newest status, the last hour's series, and the newest requests.

use super::follow::Update;
use crate::observe::events::Event;
use crate::observe::status::{Status, ViewStatus};
use crate::observe::traffic::Point;
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

/// Requests that are remembered, and of these shown as many as there is room for.
const REQUESTS: usize = 100;

/// Points that an hour has, and their width in seconds.
pub const POINTS: usize = 360;
const POINT_S: i64 = 10;

/// A request, as far as is known of it.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// As it was told last, with what was told before.
    pub event: Event,
    /// Of its prompt's tokens, believed cached.
    pub matched: Option<u64>,
    /// Its prompt's tokens, as estimated.
    pub prompt: Option<u64>,
}

/// What is shown.
#[derive(Debug)]
pub struct State {
    /// Where the sidecar is.
    pub url: String,
    /// The newest status, and when it came.
    pub status: Option<(Status, Instant)>,
    /// Why there is no newer one.
    pub lost: Option<String>,
    /// Each view's last hour, by plugin and fingerprint; points by their number.
    series: BTreeMap<(String, String), BTreeMap<i64, Point>>,
    /// Newest last.
    pub requests: VecDeque<Request>,
    plugin: usize,
    now: i64,
}

impl State {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            status: None,
            lost: None,
            series: BTreeMap::new(),
            requests: VecDeque::new(),
            plugin: 0,
            now: 0,
        }
    }

    /// Takes what the sidecar said, or that it says nothing.
    pub fn take(&mut self, update: Update) {
        match update {
            Update::Status { status, first } => self.status(*status, first),
            Update::Requests(events) => {
                self.lost = None;
                events.into_iter().filter(|event| !event.id.is_empty()).for_each(|event| self.request(event));
            }
            Update::Lost(why) => self.lost = Some(why),
        }
    }

    /// Shows another plugin.
    pub fn next_plugin(&mut self) {
        self.plugin = self.plugin.wrapping_add(1);
    }

    /// The view that is shown.
    #[must_use]
    pub fn view(&self) -> Option<&ViewStatus> {
        let (status, _) = self.status.as_ref()?;
        status.views.get(self.plugin.checked_rem(status.views.len())?)
    }

    fn status(&mut self, mut status: Status, first: bool) {
        self.lost = None;
        if first {
            self.series.clear();
        }
        // Points tell their distance from the newest; what they are kept by must stay as time goes on.
        self.now = i64::try_from(crate::clock::wall().0 / 1000).unwrap_or(0) / POINT_S;
        for view in &mut status.views {
            let series = self.series.entry((view.plugin.clone(), view.fingerprint.clone())).or_default();
            for point in std::mem::take(&mut view.traffic.series) {
                series.insert(self.now + point.at_s / POINT_S, point);
            }
            let oldest = self.now - POINTS as i64;
            series.retain(|number, _| *number > oldest);
        }
        let views = &status.views;
        self.series.retain(|(plugin, fingerprint), _| {
            views.iter().any(|view| view.plugin == *plugin && view.fingerprint == *fingerprint)
        });
        self.status = Some((status, Instant::now()));
    }

    fn request(&mut self, event: Event) {
        let at = self.requests.iter().rposition(|request| request.event.id == event.id);
        let request = match at.and_then(|at| self.requests.get_mut(at)) {
            Some(request) => request,
            None => {
                if self.requests.len() >= REQUESTS {
                    self.requests.pop_front();
                }
                self.requests.push_back(Request::default());
                let Some(request) = self.requests.back_mut() else { return };
                request
            }
        };
        if event.event == "decided" {
            (request.matched, request.prompt) = (event.matched_tokens, event.prompt_tokens);
        }
        let before = std::mem::take(&mut request.event);
        request.event = Event {
            endpoint: event.endpoint.or(before.endpoint),
            rank: event.rank.or(before.rank),
            reason: event.reason.or(before.reason),
            steered: event.steered.or(before.steered),
            prompt_tokens: event.prompt_tokens.or(before.prompt_tokens),
            matched_tokens: event.matched_tokens.or(before.matched_tokens),
            predicted_ms: event.predicted_ms.or(before.predicted_ms),
            ttft_ms: event.ttft_ms.or(before.ttft_ms),
            cached_tokens: event.cached_tokens.or(before.cached_tokens),
            output_tokens: event.output_tokens.or(before.output_tokens),
            ..event
        };
    }

    /// The last hour of the view that is shown, in `bins` of equal length, oldest first.
    #[must_use]
    pub fn bins(&self, bins: usize) -> Vec<Bin> {
        let mut all = vec![Bin::default(); bins];
        let series = self.view().and_then(|view| self.series.get(&(view.plugin.clone(), view.fingerprint.clone())));
        for (number, point) in series.into_iter().flatten() {
            let age = usize::try_from(self.now - number).unwrap_or(0);
            let place = (POINTS.saturating_sub(age + 1) * bins).checked_div(POINTS).unwrap_or(0);
            if let Some(bin) = all.get_mut(place) {
                bin.add(point);
            }
        }
        all
    }
}

/// A part of the last hour.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bin {
    prompt: u64,
    cached: u64,
    ttft_ms: f64,
    timed: u64,
}

impl Bin {
    fn add(&mut self, point: &Point) {
        // What vLLM says, or else what is believed.
        let is_told = point.true_prompt_tokens > 0;
        self.prompt += if is_told { point.true_prompt_tokens } else { point.prompt_tokens };
        self.cached += if is_told { point.true_cached_tokens } else { point.matched_tokens };
        if let Some(ttft) = point.ttft_p50_ms {
            let requests = point.requests.max(1);
            self.ttft_ms += ttft * requests as f64;
            self.timed += requests;
        }
    }

    /// Share of the prompt tokens that were cached.
    #[must_use]
    pub fn hit_ratio(&self) -> Option<f64> {
        (self.prompt > 0).then(|| self.cached as f64 / self.prompt as f64)
    }

    /// The mean of the medians of its parts.
    #[must_use]
    pub fn ttft_ms(&self) -> Option<f64> {
        (self.timed > 0).then(|| self.ttft_ms / self.timed as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(points: &[(i64, u64)]) -> Status {
        let point = |(at_s, cached): &(i64, u64)| Point {
            at_s: *at_s,
            requests: 1,
            prompt_tokens: 100,
            matched_tokens: *cached,
            ttft_p50_ms: Some(50.0),
            ..Point::default()
        };
        let mut view = ViewStatus { plugin: "p".to_owned(), ..ViewStatus::default() };
        view.traffic.series = points.iter().map(point).collect();
        Status { views: vec![view], ..Status::default() }
    }

    fn take(state: &mut State, points: &[(i64, u64)], first: bool) {
        state.take(Update::Status { status: Box::new(status(points)), first });
    }

    #[test]
    fn the_series_goes_on_with_the_newest_points() {
        let mut state = State::new("u");
        take(&mut state, &[(-3590, 10), (-10, 20), (0, 30)], true);
        let ratios = |state: &State, n| state.bins(n).iter().map(Bin::hit_ratio).collect::<Vec<_>>();
        let bins = ratios(&state, 360);
        assert_eq!((bins[0], bins[358], bins[359]), (Some(0.1), Some(0.2), Some(0.3)));
        take(&mut state, &[(0, 90)], false);
        let bins = ratios(&state, 36);
        assert!((bins[0], bins[35]) == (Some(0.1), Some(0.55)) || bins[34].is_some(), "{bins:?}");
        take(&mut state, &[], true);
        assert!(ratios(&state, 36).iter().all(Option::is_none), "a sidecar that began anew");
        assert!(ratios(&state, 0).is_empty());
    }

    #[test]
    fn a_request_gathers_what_is_told_of_it() {
        let mut state = State::new("u");
        let event = |name: &'static str| Event { id: "1".to_owned(), event: name.into(), ..Event::default() };
        let decided = Event {
            prompt_tokens: Some(100),
            matched_tokens: Some(90),
            reason: Some("warm".into()),
            ..event("decided")
        };
        let routed = Event { endpoint: Some("a:1".to_owned()), ..event("routed") };
        let skipped = Event { event: "skipped".into(), ..Event::default() };
        let done = Event { prompt_tokens: Some(104), ..event("done") };
        state.take(Update::Requests(vec![decided, routed, skipped]));
        state.take(Update::Requests(vec![done]));
        let request = &state.requests[0];
        assert_eq!((state.requests.len(), request.event.event.as_ref()), (1, "done"));
        assert_eq!((request.event.reason.as_deref(), request.event.endpoint.as_deref()), (Some("warm"), Some("a:1")));
        assert_eq!((request.prompt, request.matched, request.event.prompt_tokens), (Some(100), Some(90), Some(104)));
        for n in 0..500 {
            state.take(Update::Requests(vec![Event { id: format!("r{n}"), ..Event::default() }]));
        }
        assert_eq!(state.requests.len(), REQUESTS);
    }

    #[test]
    fn a_lost_sidecar_leaves_what_was_known() {
        let mut state = State::new("u");
        take(&mut state, &[(0, 1)], true);
        state.take(Update::Lost("refused".to_owned()));
        assert!(state.status.is_some() && state.lost.as_deref() == Some("refused"));
        take(&mut state, &[(0, 1)], true);
        assert_eq!(state.lost, None);
        state.next_plugin();
        assert!(state.view().is_some());
    }
}
