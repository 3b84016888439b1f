//! What tests may see and change: the last requests, and faults on demand.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use hyper::http::request::Parts;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Requests remembered.
const KEPT: usize = 2000;

/// How the pod answers, until told otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Behaviour {
    /// As a healthy pod.
    #[default]
    Normal,
    /// LLM requests are taken and never answered.
    Hang,
    /// Streams stop after the first token, without ending; unstreamed requests are never answered.
    HangMidStream,
    /// LLM requests get this status.
    Status {
        /// HTTP status, 400 to 599.
        code: u16,
    },
    /// The connection of an LLM request is closed without an answer.
    Reset,
    /// `/metrics` and `/health` answer late.
    SlowMetrics {
        /// Milliseconds.
        ms: u64,
    },
    /// KV memory is taken by somebody else: what was cached is lost, requests wait.
    OutOfMemory,
    /// Simulated time is multiplied.
    Slow {
        /// Factor, more than zero.
        factor: f64,
    },
}

/// One POST request, as `/debug/requests` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct Seen {
    /// Counts from 0 at the start of the pod.
    pub n: u64,
    /// HTTP method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Header names in lower case; a repeated header's values are joined by `, `.
    pub headers: Map<String, Value>,
    /// Body length.
    pub body_bytes: u64,
    /// 64-bit FNV-1a of the body, 16 hex digits.
    pub body_sha: String,
    /// Prompt length, for LLM requests that were admitted.
    pub prompt_tokens: Option<usize>,
    /// Of these, tokens from the cache.
    pub cached_tokens: Option<usize>,
    /// Which engine (data-parallel rank) took it.
    pub engine: Option<usize>,
}

/// The last requests.
#[derive(Default)]
pub struct RequestLog {
    inner: Mutex<(u64, VecDeque<Seen>)>,
}

impl RequestLog {
    /// Notes a request whose body has been read; returns its number.
    pub fn add(&self, parts: &Parts, body_bytes: u64, body_hash: u64) -> u64 {
        let mut headers: Map<String, Value> = Map::new();
        for (name, value) in &parts.headers {
            let value = String::from_utf8_lossy(value.as_bytes());
            let joined = match headers.get(name.as_str()).and_then(Value::as_str) {
                Some(before) => format!("{before}, {value}"),
                None => value.into_owned(),
            };
            headers.insert(name.as_str().to_owned(), Value::String(joined));
        }
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let n = inner.0;
        inner.0 += 1;
        if inner.1.len() == KEPT {
            inner.1.pop_front();
        }
        inner.1.push_back(Seen {
            n,
            method: parts.method.to_string(),
            path: parts.uri.to_string(),
            headers,
            body_bytes,
            body_sha: format!("{body_hash:016x}"),
            prompt_tokens: None,
            cached_tokens: None,
            engine: None,
        });
        n
    }

    /// Changes the note on request `n`, where it is still kept.
    pub fn update(&self, n: u64, change: impl FnOnce(&mut Seen)) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let first = inner.1.front().map_or(0, |seen| seen.n);
        let index = n.checked_sub(first).and_then(|index| usize::try_from(index).ok());
        if let Some(seen) = index.and_then(|index| inner.1.get_mut(index)) {
            change(seen);
        }
    }

    /// All kept requests as a JSON list, the oldest first.
    pub fn to_json(&self) -> String {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        serde_json::to_string(&inner.1).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Parts {
        let request = hyper::Request::post("/v1/x?y=1").header("A", "1").header("a", "2");
        request.body(()).expect("a request").into_parts().0
    }

    #[test]
    fn the_oldest_requests_are_forgotten() {
        let log = RequestLog::default();
        for _ in 0..KEPT + 5 {
            log.add(&parts(), 3, 0xab);
        }
        log.update(2, |_| panic!("request 2 should be gone"));
        log.update(7, |seen| seen.cached_tokens = Some(16));
        let all: Value = serde_json::from_str(&log.to_json()).expect("JSON");
        assert_eq!(all.as_array().map(Vec::len), Some(KEPT));
        assert_eq!((&all[0]["n"], &all[2]["cached_tokens"]), (&5.into(), &16.into()));
        assert_eq!(all[0]["headers"]["a"], "1, 2");
        assert_eq!(all[0]["body_sha"], "00000000000000ab");
    }

    #[test]
    fn behaviours_are_read_by_kind() {
        let read = |text| serde_json::from_str::<Behaviour>(text).ok();
        assert_eq!(read(r#"{"kind":"status","code":503}"#), Some(Behaviour::Status { code: 503 }));
        assert_eq!(read(r#"{"kind":"hang_mid_stream"}"#), Some(Behaviour::HangMidStream));
        assert_eq!(read(r#"{"kind":"nonsense"}"#), None);
    }
}
