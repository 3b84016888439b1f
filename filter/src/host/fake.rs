//! A host for tests: what Envoy would hold, in maps. Hosts made of one [`Process`] share its data, as the VMs of one
//! Envoy do.

#![allow(missing_docs)]

use super::headers::encode;
use super::{Headers, Host, HostError, Level, MetricId, MetricKind, StreamToken};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;
use warmpath_core::journal::StoreError;

/// A value and its compare-and-swap number.
type SharedData = HashMap<String, (Vec<u8>, u32)>;

/// One Envoy process: shared data, and a clock.
#[derive(Clone, Default)]
pub struct Process {
    shared: Rc<RefCell<SharedData>>,
    pub millis: Rc<Cell<u64>>,
}

/// One VM.
#[derive(Default)]
pub struct Fake {
    process: Process,
    pub headers: RefCell<HashMap<String, String>>,
    pub response: RefCell<HashMap<String, String>>,
    pub properties: RefCell<HashMap<String, Vec<u8>>>,
    pub body: RefCell<Vec<u8>>,
    pub answer: RefCell<Vec<u8>>,
    pub config: RefCell<Vec<u8>>,
    pub logs: RefCell<Vec<String>>,
    pub sent: RefCell<Vec<Vec<u8>>>,
    pub message: RefCell<Vec<u8>>,
    pub closed: RefCell<Vec<StreamToken>>,
    /// Status and headers of the answers given in the pods' place.
    pub replies: RefCell<Vec<(u32, String)>>,
    pub replied: RefCell<Vec<u8>>,
    /// Refuse to open streams.
    pub no_cluster: Cell<bool>,
    streams: Cell<u32>,
    pub names: RefCell<Vec<String>>,
    values: RefCell<HashMap<String, u64>>,
}

impl Process {
    /// Keys of shared data.
    pub fn keys(&self) -> usize {
        self.shared.borrow().len()
    }
}

impl Fake {
    /// A VM of `process`.
    pub fn of(process: &Process) -> Rc<Self> {
        Rc::new(Self { process: process.clone(), ..Self::default() })
    }

    /// The value of the metric of that name, or the sum of those with that tag; 0 when none was ever touched.
    pub fn metric(&self, name: &str) -> u64 {
        let (tag, end) = (format!("{name};.;"), format!("warmpath_{name}"));
        let values = self.values.borrow();
        values.iter().filter(|(n, _)| n.contains(&tag) || **n == end).map(|(_, v)| *v).sum()
    }

    /// A header of the request at hand.
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers.borrow().get(name).cloned()
    }

    fn name(&self, metric: MetricId) -> String {
        self.names.borrow()[metric.0 as usize].clone()
    }
}

fn part(bytes: &[u8], start: usize, size: usize) -> Option<Vec<u8>> {
    Some(bytes.get(start..bytes.len().min(start.saturating_add(size)))?.to_vec())
}

fn headers(map: &HashMap<String, String>) -> Headers {
    let pairs: Vec<_> = map.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    Headers::new(encode(&pairs))
}

impl Host for Fake {
    fn nanos(&self) -> u64 {
        self.process.millis.get() * 1_000_000
    }
    fn log(&self, _: Level, message: &str) {
        self.logs.borrow_mut().push(message.to_owned());
    }
    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        self.properties.borrow().get(&path.join(".")).cloned()
    }
    fn set_property(&self, path: &[&str], value: &[u8]) -> Result<(), HostError> {
        self.properties.borrow_mut().insert(path.join("."), value.to_vec());
        Ok(())
    }
    fn request_headers(&self) -> Headers {
        headers(&self.headers.borrow())
    }
    fn set_request_header(&self, name: &str, value: Option<&str>) -> Result<(), HostError> {
        let mut headers = self.headers.borrow_mut();
        match value {
            Some(v) => headers.insert(name.to_owned(), v.to_owned()),
            None => headers.remove(name),
        };
        Ok(())
    }
    fn response_headers(&self) -> Headers {
        headers(&self.response.borrow())
    }
    fn add_response_header(&self, name: &str, value: &str) -> Result<(), HostError> {
        self.response.borrow_mut().insert(name.to_owned(), value.to_owned());
        Ok(())
    }
    fn reply(&self, status: u32, headers: &[(&str, &str)], body: &[u8]) -> Result<(), HostError> {
        *self.replied.borrow_mut() = body.to_vec();
        self.replies.borrow_mut().push((status, format!("{headers:?}")));
        Ok(())
    }
    fn request_body(&self, start: usize, size: usize) -> Option<Vec<u8>> {
        part(&self.body.borrow(), start, size)
    }
    fn response_body(&self, start: usize, size: usize) -> Option<Vec<u8>> {
        part(&self.answer.borrow(), start, size)
    }
    fn configuration(&self) -> Vec<u8> {
        self.config.borrow().clone()
    }
    fn set_tick(&self, _: Duration) {}
    fn define_metric(&self, _: MetricKind, name: &str) -> Result<MetricId, HostError> {
        let mut names = self.names.borrow_mut();
        names.push(name.to_owned());
        Ok(MetricId(names.len() as u32 - 1))
    }
    fn increment(&self, metric: MetricId, by: i64) {
        assert!(by > 0, "Envoy refuses to add {by}");
        *self.values.borrow_mut().entry(self.name(metric)).or_default() += by as u64;
    }
    fn record(&self, metric: MetricId, value: u64) {
        self.values.borrow_mut().insert(self.name(metric), value);
    }
    fn open_stream(&self, _: &str, _: &str, _: &str) -> Result<StreamToken, HostError> {
        if self.no_cluster.get() {
            return Err(HostError(4));
        }
        self.streams.set(self.streams.get() + 1);
        Ok(StreamToken(self.streams.get()))
    }
    fn send(&self, stream: StreamToken, message: &[u8]) -> Result<(), HostError> {
        if self.closed.borrow().contains(&stream) {
            return Err(HostError(2));
        }
        self.sent.borrow_mut().push(message.to_vec());
        Ok(())
    }
    fn close(&self, stream: StreamToken) {
        self.closed.borrow_mut().push(stream);
    }
    fn message(&self, size: usize) -> Option<Vec<u8>> {
        part(&self.message.borrow(), 0, size)
    }
    fn shared_get(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, StoreError> {
        Ok(self.process.shared.borrow().get(key).cloned())
    }
    fn shared_set(&self, key: &str, value: &[u8], cas: u32) -> Result<(), StoreError> {
        let mut map = self.process.shared.borrow_mut();
        match map.get_mut(key) {
            Some((_, now)) if cas != 0 && *now != cas => return Err(StoreError::Mismatch),
            Some((old, now)) => {
                *old = value.to_vec();
                *now += 1;
            }
            None => {
                map.insert(key.to_owned(), (value.to_vec(), 1));
            }
        }
        Ok(())
    }
}
