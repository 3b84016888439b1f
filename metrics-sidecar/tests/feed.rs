//! Journals come up, refills go down, and streams come and go.

mod common;

use common::{Envoy, Pod, Running, page};
use std::time::Duration;
use warmpath_core::journal::{Body, Record, decode_slot, encode_slot};
use warmpath_core::placement::Reason;
use warmpath_core::prefix::Boundary;
use warmpath_core::units::{EndpointId, Millis, Origin, PrefixHash, RequestId, Seconds, Tokens};
use warmpath_sidecar::clock::wall;
use warmpath_sidecar::observe::report;
use warmpath_sidecar::proto::{Hello, Up, up};

fn hello(origin: u64, plugin: &str, want_refill: bool, fingerprint: u64) -> Hello {
    Hello { origin, plugin: plugin.to_owned(), position: 0, want_refill, fingerprint, ..Hello::default() }
}

fn slot(origin: u64, number: u64, body: Body) -> Vec<u8> {
    let request = RequestId { origin: Origin(origin), number };
    encode_slot(&[Record { request, at: Millis(wall().0), body }])
}

fn route(origin: u64, number: u64, endpoint: EndpointId) -> Vec<u8> {
    let boundaries =
        vec![Boundary { end: 400, hash: PrefixHash(number) }, Boundary { end: 800, hash: PrefixHash(number << 32) }];
    slot(origin, number, Body::Route { endpoint, bytes: 800, stream: true, boundaries, late_ms: 0 })
}

fn hashes(refill: &[Vec<u8>]) -> Vec<u64> {
    let records = refill.iter().flat_map(|slot| decode_slot(slot).unwrap());
    let mut all: Vec<u64> = records
        .flat_map(|record| match record.body {
            Body::Warm { boundaries, .. } => boundaries,
            other => panic!("not warmth: {other:?}"),
        })
        .map(|boundary| boundary.hash.0)
        .collect();
    all.sort_unstable();
    all
}

async fn until(sidecar: &Running, wanted: &str) {
    let began = std::time::Instant::now();
    loop {
        let page = sidecar.get("/metrics").await.1;
        if page.lines().any(|line| line == wanted) {
            return;
        }
        assert!(began.elapsed() < common::LONG, "no {wanted} on:\n{page}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn what_one_envoy_journaled_refills_its_successor() {
    let pod = Pod::start(page(7, 0)).await;
    let sidecar = Running::start(&[&pod], &["--refill-rate", "10000"]).await;
    let mut envoy = Envoy::connect(&sidecar, hello(1, "p", true, 5)).await;
    let (table, _) = envoy.table(|_| true).await;
    assert!(envoy.refill().await.is_empty());
    let id = table.endpoints[0].id;
    envoy.journal(100, (1..=3).map(|n| route(1, n, id)).collect()).await;
    envoy.journal(102, vec![route(1, 3, id), b"garbage".to_vec(), route(1, 4, id)]).await;
    until(&sidecar, "warmpath_sidecar_journal_records_total 4").await;
    until(&sidecar, "warmpath_sidecar_journal_bad_slots_total 1").await;
    until(&sidecar, "warmpath_sidecar_journal_repeated_slots_total 1").await;
    drop(envoy);
    until(&sidecar, "warmpath_sidecar_feed_streams 0").await;

    let mut next = Envoy::connect(&sidecar, hello(2, "p", true, 5)).await;
    let expected: Vec<u64> = (1..=4).chain((1..=4).map(|n| n << 32)).collect();
    assert_eq!(hashes(&next.refill().await), expected);
    // Another plugin and another fingerprint know nothing of it.
    for other in [hello(3, "q", true, 5), hello(3, "p", true, 6)] {
        assert!(Envoy::connect(&sidecar, other).await.refill().await.is_empty());
    }
}

#[tokio::test]
async fn a_lapped_vm_asks_through_the_journal() {
    let pod = Pod::start(page(7, 0)).await;
    let sidecar = Running::start(&[&pod], &[]).await;
    let mut envoy = Envoy::connect(&sidecar, hello(1, "p", false, 5)).await;
    let (table, _) = envoy.table(|_| true).await;
    let id = table.endpoints[0].id;
    // This sidecar has told it nothing yet, so it says all that it knows, which is nothing.
    assert!(envoy.refill().await.is_empty());
    envoy.journal(0, vec![route(1, 1, id), slot(1, 0, Body::RefillWanted)]).await;
    assert_eq!(hashes(&envoy.refill().await), [1, 1 << 32]);
    until(&sidecar, "warmpath_sidecar_refills_sent_total 2").await;
}

#[tokio::test]
async fn many_envoys_share_one_view() {
    let pod = Pod::start(page(7, 0)).await;
    let sidecar = Running::start(&[&pod], &[]).await;
    let mut envoys = Vec::new();
    for origin in 1..=8_u64 {
        let mut envoy = Envoy::connect(&sidecar, hello(origin, "p", false, 5)).await;
        let (table, _) = envoy.table(|_| true).await;
        envoy.journal(0, vec![route(origin, origin, table.endpoints[0].id)]).await;
        envoys.push(envoy);
    }
    until(&sidecar, "warmpath_sidecar_journal_records_total 8").await;
    until(&sidecar, "warmpath_sidecar_feed_streams 8").await;
    let mut late = Envoy::connect(&sidecar, hello(99, "p", true, 5)).await;
    assert_eq!(hashes(&late.refill().await).len(), 16);
    drop((envoys, late));
    until(&sidecar, "warmpath_sidecar_feed_streams 0").await;
}

#[tokio::test]
async fn a_reader_that_stalls_skips_tables() {
    let pod = Pod::start(page(7, 0)).await;
    pod.set(|answers| answers.models = (401, "{}"));
    // 90 KB a table: what the connection buffers is soon full.
    let models: Vec<String> = (0..4000).map(|n| format!("a-model-of-number-{n}")).collect();
    let pools = [serde_json::json!({"name": "default", "models": models, "endpoints": [pod.address]})];
    let file = serde_json::json!({"pools": pools}).to_string();
    let sidecar = Running::start_with(&file, &[]).await;
    let mut envoy = Envoy::connect(&sidecar, hello(1, "p", false, 5)).await;
    let (first, _) = envoy.table(|_| true).await;
    assert_eq!(first.endpoints[0].models.len(), 4000);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    pod.set(|answers| answers.metrics = page(7, 77));
    let read = std::cell::Cell::new(0);
    let newest = envoy.table(|t| {
        read.set(read.get() + 1);
        t.endpoints[0].load.running == 77
    });
    let (newest, _) = newest.await;
    let passed = newest.version - first.version;
    assert!(read.get() < passed, "{} tables read of {passed}", read.get());
}

#[tokio::test]
async fn a_stream_that_does_not_say_hello_is_refused() {
    let pod = Pod::start(page(7, 0)).await;
    let sidecar = Running::start(&[&pod], &["--feed-streams", "1"]).await;
    let mut rude = Envoy::connect(&sidecar, hello(1, "p", false, 5)).await;
    rude.up.send(Up { kind: Some(up::Kind::Hello(hello(1, "p", false, 5))) }).await.unwrap();
    rude.table(|_| true).await;
    drop(rude);
    until(&sidecar, "warmpath_sidecar_feed_streams 0").await;
    let channel = tonic::transport::Channel::from_shared(format!("http://{}", sidecar.feed)).unwrap();
    let mut client = warmpath_sidecar::proto::feed_client::FeedClient::new(channel.connect().await.unwrap());
    let first = Up { kind: Some(up::Kind::Journal(warmpath_sidecar::proto::Journal::default())) };
    let mut down = client.connect(tokio_stream::iter([first])).await.unwrap().into_inner();
    let status = down.message().await.unwrap_err();
    assert!(status.message().contains("expected Hello first"), "{status:?}");
    until(&sidecar, "warmpath_sidecar_feed_refused_total 1").await;
}

async fn requests(sidecar: &Running, fingerprint: u64) -> Option<u64> {
    let status = report::fetch(&format!("http://{}", sidecar.http)).await.unwrap();
    let view = status.views.into_iter().find(|view| view.fingerprint == format!("{fingerprint:016x}"))?;
    Some(view.traffic.total.requests)
}

async fn until_requests(sidecar: &Running, fingerprint: u64, wanted: Option<u64>) {
    let began = std::time::Instant::now();
    while requests(sidecar, fingerprint).await != wanted {
        assert!(began.elapsed() < common::LONG, "not {wanted:?} of {fingerprint}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn the_traffic_of_a_view_that_is_gone_goes_with_it() {
    let pod = Pod::start(page(7, 0)).await;
    let sidecar = Running::start(&[&pod], &[]).await;
    let mut old = Envoy::connect(&sidecar, hello(1, "p", false, 5)).await;
    old.table(|_| true).await;
    let (prompt, matched) = (Tokens(9), Tokens(0));
    let decided = Body::Decided { reason: Reason::Cold, steered: true, prompt, matched, predicted: Seconds(0.1) };
    old.journal(0, vec![slot(1, 1, decided)]).await;
    until_requests(&sidecar, 5, Some(1)).await;
    drop(old);
    until(&sidecar, "warmpath_sidecar_feed_streams 0").await;
    // Another build takes its place, and goes in turn.
    let new = Envoy::connect(&sidecar, hello(2, "p", false, 6)).await;
    until_requests(&sidecar, 6, Some(0)).await;
    assert_eq!(requests(&sidecar, 5).await, None);
    drop(new);
    until(&sidecar, "warmpath_sidecar_feed_streams 0").await;
    let _again = Envoy::connect(&sidecar, hello(3, "p", false, 5)).await;
    until_requests(&sidecar, 5, Some(0)).await;
}
