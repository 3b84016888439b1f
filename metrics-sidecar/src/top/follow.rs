//! Reads the sidecar's `/events`, and begins anew when they end.

use crate::observe::events::Event;
use crate::observe::status::Status;
use crate::validate::gateway::chain;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Empty};
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// When a sidecar that is gone is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// A status comes each second. A sidecar that is silent for so long hangs.
const SILENT: Duration = Duration::from_secs(5);

/// Longest event: a status with some hundred pods is far below.
const LONGEST: usize = 64 << 20;

/// What there is to show.
#[derive(Debug)]
pub enum Update {
    /// A status. The first of a stream has the whole series.
    Status {
        /// It.
        status: Box<Status>,
        /// Whether it is the first.
        first: bool,
    },
    /// What happened to requests.
    Requests(Vec<Event>),
    /// The sidecar cannot be asked.
    Lost(String),
}

/// Tells what there is until nobody listens.
pub async fn run(url: String, out: mpsc::Sender<Update>) {
    let base = if url.contains("://") { url } else { format!("http://{url}") };
    let url = format!("{}/events", base.trim_end_matches('/'));
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(SILENT));
    let http: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    loop {
        let Err(why) = follow(&http, &url, &out).await else { return };
        if out.send(Update::Lost(why)).await.is_err() {
            return;
        }
        sleep(AGAIN).await;
    }
}

/// Follows until nobody listens, or until it cannot.
async fn follow(
    http: &Client<HttpConnector, Empty<Bytes>>,
    url: &str,
    out: &mpsc::Sender<Update>,
) -> Result<(), String> {
    let request = Request::get(url).body(Empty::new()).map_err(|error| format!("{url}: {error}"))?;
    let answer = timeout(SILENT, http.request(request)).await.map_err(|_| "no answer".to_owned())?;
    let answer = answer.map_err(|error| chain(&error))?;
    match answer.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Err("no /events there: is it a warmpath sidecar, of this version?".to_owned()),
        status => return Err(status.to_string()),
    }
    let (mut body, mut reader, mut first) = (answer.into_body(), Lines::default(), true);
    loop {
        let frame = timeout(SILENT, body.frame()).await.map_err(|_| "silent".to_owned())?;
        let frame = frame.ok_or("the sidecar has ended")?.map_err(|error| chain(&error))?;
        let Some(data) = frame.data_ref() else { continue };
        reader.push(data)?;
        while let Some((name, data)) = reader.next_event() {
            let wrong = |error: serde_json::Error| format!("{name}: {error}");
            let update = match name.as_str() {
                "status" => {
                    let status = Box::new(serde_json::from_slice(&data).map_err(wrong)?);
                    Update::Status { status, first: std::mem::replace(&mut first, false) }
                }
                "requests" => Update::Requests(serde_json::from_slice(&data).map_err(wrong)?),
                _ => continue,
            };
            if out.send(update).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// Cuts a stream of events into events. The sidecar writes each on two lines, its name and its data.
#[derive(Debug, Default)]
struct Lines {
    buffer: BytesMut,
    /// Up to where there is no end of an event.
    looked: usize,
}

impl Lines {
    fn push(&mut self, data: &[u8]) -> Result<(), String> {
        self.buffer.extend_from_slice(data);
        if self.buffer.len() > LONGEST { Err("an event that is too long".to_owned()) } else { Ok(()) }
    }

    fn next_event(&mut self) -> Option<(String, Bytes)> {
        let rest = self.buffer.get(self.looked..)?;
        let Some(end) = rest.windows(2).position(|two| two == b"\n\n") else {
            self.looked = self.buffer.len().saturating_sub(1);
            return None;
        };
        let event = self.buffer.split_to(self.looked + end + 2).freeze();
        self.looked = 0;
        let (mut name, mut data) = (String::new(), Bytes::new());
        for line in event.split(|byte| *byte == b'\n') {
            if let Some(text) = line.strip_prefix(b"event: ") {
                name = String::from_utf8_lossy(text).into_owned();
            } else if let Some(text) = line.strip_prefix(b"data: ") {
                data = event.slice_ref(text);
            }
        }
        Some((name, data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_cut_wherever_the_pieces_end() {
        let stream = b"event: status\ndata: {\"a\":1}\n\n:\n\nevent: requests\ndata: []\n\nevent: sta";
        for size in 1..stream.len() {
            let (mut lines, mut events) = (Lines::default(), Vec::new());
            for piece in stream.chunks(size) {
                lines.push(piece).unwrap();
                events.extend(std::iter::from_fn(|| lines.next_event()));
            }
            let names: Vec<_> = events.iter().map(|(name, data)| (name.as_str(), &data[..])).collect();
            assert_eq!(names, [("status", &b"{\"a\":1}"[..]), ("", b""), ("requests", b"[]")], "{size}");
        }
    }
}
