//! Sidecars of several replicas tell each other what their Envoys route.

mod common;

use common::{Envoy, LONG, Pod, Running, page};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tokio::time::timeout;
use warmpath_core::journal::{Body, Record, decode_slot, encode_slot};
use warmpath_core::prefix::Boundary;
use warmpath_core::units::{EndpointId, Millis, Origin, PrefixHash, RequestId};
use warmpath_sidecar::clock::wall;
use warmpath_sidecar::proto::{Hello, Records, down};

const ANY: [&str; 2] = ["--peers-listen", "127.0.0.1:0"];

/// Peers at these addresses, itself at a free one.
fn with<'a>(peers: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    ANY.iter().chain(&["--peers", peers]).chain(more).copied().collect()
}

fn hello(origin: u64, want_refill: bool) -> Hello {
    Hello {
        origin,
        plugin: "p".to_owned(),
        position: 0,
        want_refill,
        fingerprint: 5,
        now_ms: wall().0,
        ..Hello::default()
    }
}

fn slot(origin: u64, number: u64, at: Millis, body: Body) -> Vec<u8> {
    encode_slot(&[Record { request: RequestId { origin: Origin(origin), number }, at, body }])
}

fn route(origin: u64, number: u64, endpoint: EndpointId) -> Vec<u8> {
    let boundaries = vec![Boundary { end: 400, hash: PrefixHash(number) }];
    slot(origin, number, wall(), Body::Route { endpoint, bytes: 400, stream: true, boundaries, late_ms: 0 })
}

/// What an Envoy was told until it knows these requests or warm prefixes; nothing else may come, and no request twice.
async fn told(envoy: &mut Envoy, wanted: &[u64]) -> Vec<Record> {
    let wanted: BTreeSet<u64> = wanted.iter().copied().collect();
    let (mut records, mut seen, mut requests) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    while seen != wanted {
        if let down::Kind::Records(Records { slots, .. }) = envoy.next().await {
            for record in slots.iter().flat_map(|slot| decode_slot(slot).unwrap()) {
                match &record.body {
                    Body::Warm { boundaries, .. } => seen.extend(boundaries.iter().map(|b| b.hash.0)),
                    _ => assert!(requests.insert(record.request.number), "told twice: {record:?}"),
                }
                seen.extend(&requests);
                records.push(record);
            }
        }
        assert!(seen.is_subset(&wanted), "{seen:?} is not within {wanted:?}");
    }
    records
}

/// An Envoy that has its table and the refill that it wanted, and the endpoint of the only pod.
async fn connected(sidecar: &Running, origin: u64) -> (Envoy, EndpointId) {
    let mut envoy = Envoy::connect(sidecar, hello(origin, true)).await;
    let (table, _) = envoy.table(|table| !table.endpoints.is_empty()).await;
    envoy.refill().await;
    (envoy, table.endpoints[0].id)
}

/// Two replicas, each with an Envoy; the second follows the first.
async fn followed(pod: &Pod) -> (Running, Running, Envoy, Envoy, EndpointId) {
    let a = Running::start(&[pod], &with("127.0.0.1:1", &[])).await;
    let b = Running::start(&[pod], &with(&a.peers(), &[])).await;
    let (envoy_a, id) = connected(&a, 1).await;
    let (envoy_b, _) = connected(&b, 2).await;
    until(&b, "peers_connected", 1.0).await;
    (a, b, envoy_a, envoy_b, id)
}

async fn metric(sidecar: &Running, name: &str) -> f64 {
    let page = sidecar.get("/metrics").await.1;
    let line = page.lines().find(|line| line.starts_with(&format!("warmpath_sidecar_{name} "))).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

async fn until(sidecar: &Running, name: &str, wanted: f64) {
    let began = Instant::now();
    while metric(sidecar, name).await != wanted {
        assert!(began.elapsed() < LONG, "{name} is not {wanted}: {}", sidecar.get("/status").await.1);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn what_one_envoy_routes_the_envoy_of_another_replica_is_told_once_and_soon() {
    let pod = Pod::start(page(7, 0)).await;
    let (_a, b, envoy_a, mut envoy_b, id) = followed(&pod).await;
    let began = Instant::now();
    envoy_a.journal(0, vec![route(1, 10, id), slot(1, 0, wall(), Body::Table { version: 3 })]).await;
    let records = told(&mut envoy_b, &[10]).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(matches!(records[0].body, Body::Route { endpoint, .. } if endpoint == id));
    // What it sends back up from its ring is neither folded again nor told to anyone.
    envoy_b.journal(0, vec![route(1, 10, id), route(2, 11, id)]).await;
    envoy_a.journal(2, vec![route(1, 12, id)]).await;
    told(&mut envoy_b, &[12]).await;
    until(&b, "view_in_flight{plugin=\"p\",fingerprint=\"0000000000000005\"}", 3.0).await;
}

#[tokio::test]
async fn two_envoys_of_one_sidecar_are_told_of_each_other() {
    let pod = Pod::start(page(7, 0)).await;
    let sidecar = Running::start(&[&pod], &[]).await;
    let (mut one, id) = connected(&sidecar, 1).await;
    let (mut two, _) = connected(&sidecar, 2).await;
    one.journal(0, vec![route(1, 10, id)]).await;
    two.journal(0, vec![route(2, 20, id)]).await;
    told(&mut two, &[10]).await;
    told(&mut one, &[20]).await;
}

#[tokio::test]
async fn a_new_replica_learns_all_that_the_others_know_and_tells_its_envoy() {
    let pod = Pod::start(page(7, 0)).await;
    let old = Running::start(&[&pod], &with("127.0.0.1:1", &[])).await;
    let (envoy, id) = connected(&old, 1).await;
    envoy.journal(0, (1..=50).map(|n| route(1, n, id)).collect()).await;
    until(&old, "journal_records_total", 50.0).await;
    let new = Running::start(&[&pod], &with(&old.peers(), &[])).await;
    let mut joining = Envoy::connect(&new, hello(2, true)).await;
    told(&mut joining, &(1..=50).collect::<Vec<_>>()).await;
    until(&new, "peer_refills_total", 1.0).await;
}

#[tokio::test]
async fn a_stream_that_breaks_goes_on_where_it_was() {
    let pod = Pod::start(page(7, 0)).await;
    let a = Running::start(&[&pod], &with("127.0.0.1:1", &[])).await;
    let proxy = common::Relay::start(a.peers()).await;
    let b = Running::start(&[&pod], &with(&proxy.address, &[])).await;
    let (envoy_a, id) = connected(&a, 1).await;
    let (mut envoy_b, _) = connected(&b, 2).await;
    until(&b, "peers_connected", 1.0).await;
    envoy_a.journal(0, vec![route(1, 10, id)]).await;
    told(&mut envoy_b, &[10]).await;
    proxy.cut().await;
    until(&b, "peers_connected", 0.0).await;
    envoy_a.journal(1, vec![route(1, 11, id), route(1, 12, id)]).await;
    proxy.mend();
    told(&mut envoy_b, &[11, 12]).await;
    assert_eq!(metric(&b, "peer_lost_slots_total").await, 0.0);
}

#[tokio::test]
async fn moments_are_moved_so_that_clocks_need_not_agree() {
    let pod = Pod::start(page(7, 0)).await;
    let sidecar = Running::start(&[&pod], &[]).await;
    let (mut here, id) = connected(&sidecar, 1).await;
    // An Envoy whose host is an hour ahead.
    let ahead = 3_600_000;
    let mut there = Envoy::connect(&sidecar, Hello { now_ms: wall().0 + ahead, ..hello(2, true) }).await;
    there.table(|table| !table.endpoints.is_empty()).await;
    there.refill().await;
    let body = || Body::Route { endpoint: id, bytes: 1, stream: true, boundaries: Vec::new(), late_ms: 0 };
    there.journal(0, vec![slot(2, 5, Millis(wall().0 + ahead - 1_000), body())]).await;
    here.journal(0, vec![slot(1, 6, Millis(wall().0 - 1_000), body())]).await;
    let seen = told(&mut here, &[5]).await[0].at;
    assert!((500..5_000).contains(&wall().0.abs_diff(seen.0)), "{seen:?}");
    let seen = told(&mut there, &[6]).await[0].at;
    assert!((500..5_000).contains(&(wall().0 + ahead).abs_diff(seen.0)), "{seen:?}");
}

#[tokio::test]
async fn a_peer_that_knows_nothing_does_not_end_the_asking() {
    let pod = Pod::start(page(7, 0)).await;
    let empty = Running::start(&[&pod], &with("127.0.0.1:1", &[])).await;
    let _idle = connected(&empty, 1).await;
    let old = Running::start(&[&pod], &with("127.0.0.1:1", &[])).await;
    let (envoy, id) = connected(&old, 2).await;
    envoy.journal(0, vec![route(2, 10, id)]).await;
    until(&old, "journal_records_total", 1.0).await;
    // The empty one is there first.
    let relay = common::Relay::start(old.peers()).await;
    relay.cut().await;
    let peers = format!("{};{}", empty.peers(), relay.address);
    let new = Running::start(&[&pod], &with(&peers, &[])).await;
    let (mut joining, _) = connected(&new, 3).await;
    until(&new, "peers_connected", 1.0).await;
    relay.mend();
    told(&mut joining, &[10]).await;
}

#[tokio::test]
async fn the_requests_of_an_envoy_that_is_gone_are_over_everywhere_and_stay_warm() {
    let pod = Pod::start(page(7, 0)).await;
    let (a, b, envoy_a, mut envoy_b, id) = followed(&pod).await;
    envoy_a.journal(0, vec![route(1, 10, id)]).await;
    told(&mut envoy_b, &[10]).await;
    let in_flight = "view_in_flight{plugin=\"p\",fingerprint=\"0000000000000005\"}";
    let entries = in_flight.replace("in_flight", "entries");
    until(&b, in_flight, 1.0).await;
    drop(envoy_a);
    let began = Instant::now();
    while metric(&b, in_flight).await != 0.0 {
        assert!(began.elapsed() < 2 * LONG);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(began.elapsed() > Duration::from_secs(5), "a feed that only breaks ends nothing");
    assert_eq!((metric(&a, in_flight).await, metric(&b, &entries).await), (0.0, 1.0));
}

#[tokio::test]
async fn the_secret_must_be_the_same() {
    let pod = Pod::start(page(7, 0)).await;
    let a = Running::start(&[&pod], &with("127.0.0.1:1", &["--peers-token", "right"])).await;
    let wrong = Running::start(&[&pod], &with(&a.peers(), &["--peers-token", "wrong"])).await;
    let right = Running::start(&[&pod], &with(&a.peers(), &["--peers-token", "right"])).await;
    until(&right, "peers_connected", 1.0).await;
    let began = Instant::now();
    loop {
        let status: serde_json::Value = serde_json::from_str(&wrong.get("/status").await.1).unwrap();
        let said = status["peers"][0]["error"].as_str().unwrap_or_default();
        if said.contains("--peers-token is not the same on both sides") {
            break;
        }
        assert!(began.elapsed() < LONG, "{status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(metric(&wrong, "peers_connected").await, 0.0);
}

#[tokio::test]
async fn a_sidecar_among_its_own_peers_does_not_follow_itself() {
    let pod = Pod::start(page(7, 0)).await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let own = format!("127.0.0.1:{port}");
    let sidecar = Running::start(&[&pod], &["--peers-listen", &own, "--peers", &own]).await;
    until(&sidecar, "peers_found", 0.0).await;
    let (mut envoy, id) = connected(&sidecar, 1).await;
    envoy.journal(0, vec![route(1, 10, id)]).await;
    until(&sidecar, "journal_records_total", 1.0).await;
    let echo = async {
        loop {
            if let down::Kind::Records(records) = envoy.next().await {
                return records;
            }
        }
    };
    assert!(timeout(Duration::from_millis(500), echo).await.is_err());
}

#[tokio::test]
async fn garbage_from_a_peer_harms_nothing() {
    let pod = Pod::start(page(7, 0)).await;
    // Something that is no sidecar at all.
    let wrong = Running::start(&[&pod], &with(&pod.address, &[])).await;
    let began = Instant::now();
    while !wrong.get("/status").await.1.contains("\"error\":\"") {
        assert!(began.elapsed() < LONG);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (envoy, id) = connected(&wrong, 1).await;
    envoy.journal(0, vec![route(1, 10, id)]).await;
    until(&wrong, "journal_records_total", 1.0).await;
}
