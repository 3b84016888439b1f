//! Pods listed in a JSON file, read again whenever it changes:
//!
//! ```json
//! {"pools": [{"name": "default", "models": ["m"],
//!             "endpoints": ["10.0.0.1:8000", {"address": "10.0.0.2:8000", "scrape": "10.0.0.2:9000"}]}]}
//! ```
//!
//! Modification time and length are polled rather than watched: it works on every file system, and with the symbolic
//! links that a mounted ConfigMap swaps.

use super::{DiscoveredEndpoint, Discovery, Outlet};
use async_trait::async_trait;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const POLL: Duration = Duration::from_millis(500);

/// What the source reads, for its standing.
const PART: &str = "file";

/// More than any list of pods needs; keeps a wrong path from filling the memory.
const MAX_BYTES: u64 = 16 << 20;

/// The source.
#[derive(Debug)]
pub struct FileDiscovery {
    path: PathBuf,
}

impl FileDiscovery {
    /// Pods listed in the file at `path`, which need not exist yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }
}

#[async_trait]
impl Discovery for FileDiscovery {
    fn name(&self) -> String {
        format!("--endpoints {}", self.path.display())
    }

    async fn run(self: Box<Self>, outlet: Outlet) {
        let mut seen: Option<Stamp> = None;
        let mut poll = tokio::time::interval(POLL);
        loop {
            tokio::select! {
                () = outlet.closed() => return,
                _ = poll.tick() => {}
            }
            let stamp = Stamp::of(&self.path).await;
            if seen.as_ref() == Some(&stamp) {
                continue;
            }
            match read(&self.path, &stamp).await {
                Ok(endpoints) => {
                    outlet.standing().followed(PART);
                    outlet.publish(endpoints, Vec::new());
                }
                Err(error) => outlet.standing().failed(PART, &error),
            }
            seen = Some(stamp);
        }
    }
}

/// What tells that the file changed; two failures with the same text are the same failure.
#[derive(Debug, PartialEq, Eq)]
enum Stamp {
    File { modified: Option<SystemTime>, len: u64 },
    Unreadable(String),
}

impl Stamp {
    async fn of(path: &Path) -> Self {
        match tokio::fs::metadata(path).await {
            Ok(meta) => Self::File { modified: meta.modified().ok(), len: meta.len() },
            Err(error) => Self::Unreadable(error.to_string()),
        }
    }
}

async fn read(path: &Path, stamp: &Stamp) -> Result<Vec<DiscoveredEndpoint>, String> {
    let name = path.display();
    match stamp {
        Stamp::Unreadable(error) => return Err(format!("{name}: {error}")),
        Stamp::File { len, .. } if *len > MAX_BYTES => {
            return Err(format!("{name}: {len} bytes, expected at most {MAX_BYTES}"));
        }
        Stamp::File { .. } => {}
    }
    let text = tokio::fs::read(path).await.map_err(|error| format!("{name}: {error}"))?;
    parse(&text).map_err(|error| format!("{name}: {error}"))
}

/// Reads the file's text.
///
/// # Errors
/// A sentence with the JSON path, line and column, and what was expected there.
pub fn parse(text: &[u8]) -> Result<Vec<DiscoveredEndpoint>, String> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let file: File = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| format!("at {}: {}", error.path(), error.inner()))?;
    json.end().map_err(|error| format!("after the document: {error}"))?;
    let mut endpoints = Vec::new();
    let mut seen = HashSet::new();
    for (p, pool) in file.pools.into_iter().enumerate() {
        for (e, entry) in pool.endpoints.into_iter().enumerate() {
            let address = entry.address.0.to_string();
            if !seen.insert(address.clone()) {
                return Err(format!("at pools[{p}].endpoints[{e}]: {address} stands there twice, expected once"));
            }
            endpoints.push(DiscoveredEndpoint {
                scrape: entry.scrape.map_or_else(|| address.clone(), |scrape| scrape.0),
                address,
                pool: pool.name.clone(),
                models: pool.models.clone(),
                draining: entry.draining,
                ..DiscoveredEndpoint::default()
            });
        }
    }
    Ok(endpoints)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    pools: Vec<Pool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pool {
    name: String,
    #[serde(default)]
    models: Vec<String>,
    endpoints: Vec<Entry>,
}

struct Entry {
    address: Address,
    scrape: Option<HostPort>,
    draining: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryFields {
    address: Address,
    scrape: Option<HostPort>,
    #[serde(default)]
    draining: bool,
}

// By hand and not `untagged`, which would lose the path of an error inside.
impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Entry;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"ip:port\" or {\"address\": \"ip:port\", \"scrape\": \"host:port\"}")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Entry, E> {
                Ok(Entry { address: Address::parse(text)?, scrape: None, draining: false })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Entry, A::Error> {
                let EntryFields { address, scrape, draining } =
                    EntryFields::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Entry { address, scrape, draining })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// `ip:port`: a host name would not match any host of Envoy's cluster.
struct Address(SocketAddr);

impl Address {
    fn parse<E: serde::de::Error>(text: &str) -> Result<Self, E> {
        match text.parse() {
            Ok(address) => Ok(Self(address)),
            Err(_) => Err(E::custom(format!("{text:?}: expected ip:port, as Envoy's cluster has it (no host name)"))),
        }
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?)
    }
}

struct HostPort(String);

impl<'de> Deserialize<'de> for HostPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let well_formed = text.parse::<hyper::http::uri::Authority>().is_ok_and(|a| a.port_u16().is_some());
        if well_formed { Ok(Self(text)) } else { Err(D::Error::custom(format!("{text:?}: expected host:port"))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_text_or_an_object() {
        let text = br#"{"pools": [{"name": "a", "models": ["m"], "endpoints": ["127.0.0.1:8001",
            {"address": "[::1]:8002", "scrape": "pod.ns:9000"}, {"address": "127.0.0.1:8003", "draining": true}]}]}"#;
        let got = parse(text).unwrap();
        assert_eq!(got.len(), 3);
        assert_eq!((got[0].address.as_str(), got[0].scrape.as_str()), ("127.0.0.1:8001", "127.0.0.1:8001"));
        assert_eq!((got[1].address.as_str(), got[1].scrape.as_str()), ("[::1]:8002", "pod.ns:9000"));
        assert_eq!(got[0].models, ["m"]);
        assert_eq!((got[0].draining, got[2].draining), (false, true));
    }

    #[test]
    fn an_error_names_path_line_and_what_was_expected() {
        let text =
            b"{\"pools\": [{\"name\": \"a\", \"endpoints\": [\"127.0.0.1:1\",\n {\"address\": \"pod-1:8000\"}]}]}";
        let error = parse(text).unwrap_err();
        for part in ["pools[0].endpoints[1].address", "line 2", "expected ip:port", "pod-1:8000"] {
            assert!(error.contains(part), "{error}");
        }
        let error = parse(br#"{"pools": [{"name": "a", "endpoints": [5]}]}"#).unwrap_err();
        assert!(error.contains("pools[0].endpoints[0]") && error.contains("\"ip:port\" or"), "{error}");
        let error = parse(br#"{"pools": [{"name": "a", "endpoint": []}]}"#).unwrap_err();
        assert!(error.contains("unknown field `endpoint`"), "{error}");
    }

    #[test]
    fn an_address_twice_is_refused() {
        let error = parse(br#"{"pools": [{"name": "a", "endpoints": ["1.1.1.1:1", "1.1.1.1:1"]}]}"#).unwrap_err();
        assert!(error.contains("pools[0].endpoints[1]") && error.contains("twice"), "{error}");
    }

    #[test]
    fn garbage_is_an_error() {
        for text in [&b""[..], b"\xff\xfe", b"[]", b"{}", b"{\"pools\": []} x"] {
            assert!(parse(text).is_err());
        }
        assert_eq!(parse(b"{\"pools\": []}"), Ok(Vec::new()));
    }
}
