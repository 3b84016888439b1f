//! The HTTP pages, and the end of the process.

mod common;

use common::{Envoy, Pod, Running, page};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use warmpath_sidecar::observe::report;
use warmpath_sidecar::proto::Hello;

#[tokio::test]
async fn ready_once_every_pod_was_tried() {
    let pod = Pod::start(page(7, 0)).await;
    let sidecar = Running::start(&[&pod], &[]).await;
    assert_eq!(sidecar.get("/healthz").await, (200, "ok\n".to_owned()));
    let began = Instant::now();
    while sidecar.get("/readyz").await.0 != 200 {
        assert!(began.elapsed() < common::LONG);
    }
    assert_eq!(sidecar.get("/readyz").await.1, "ready, 1 of 1 endpoints choosable\n");
}

#[tokio::test]
async fn not_ready_while_discovery_has_not_answered() {
    let sidecar = Running::start_with("{\"pools\": 3}", &[]).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (status, text) = sidecar.get("/readyz").await;
    assert_eq!(status, 503);
    assert!(text.contains("--endpoints") && text.contains("at pools"), "{text}");
    assert_eq!(sidecar.get("/healthz").await.0, 200);
}

#[tokio::test]
async fn no_endpoints_are_ready_and_say_so() {
    let sidecar = Running::start(&[], &[]).await;
    let mut envoy = Envoy::connect(&sidecar, Hello::default()).await;
    envoy.table(|t| t.endpoints.is_empty()).await;
    assert_eq!(sidecar.get("/readyz").await, (200, "ready, with 0 endpoints discovered\n".to_owned()));
}

#[tokio::test]
async fn metrics_and_status_tell_the_same() {
    let pod = Pod::start(page(7, 3)).await;
    let sidecar = Running::start(&[&pod], &[]).await;
    let mut envoy = Envoy::connect(&sidecar, Hello { plugin: "p".to_owned(), ..Hello::default() }).await;
    envoy.table(|_| true).await;
    let metrics = sidecar.get("/metrics").await.1;
    for line in [
        "warmpath_sidecar_endpoints{state=\"ready\"} 1".to_owned(),
        "warmpath_sidecar_feed_streams 1".to_owned(),
        "warmpath_sidecar_build_info{version=\"0.1.0\"} 1".to_owned(),
        format!("warmpath_sidecar_endpoint_running{{endpoint=\"{}\",pool=\"default\",rank=\"\"}} 3.0", pod.address),
    ] {
        assert!(metrics.lines().any(|l| l == line), "no {line} on:\n{metrics}");
    }
    assert!(metrics.ends_with("# EOF\n"));
    let status = report::fetch(&format!("http://{}", sidecar.http)).await.unwrap();
    assert!(report::has_choice(&status));
    assert_eq!((status.pods.len(), status.feeds.len(), status.views.len()), (1, 1, 1));
    assert_eq!(status.pods[0].endpoints[0].hit_ratio, Some(0.25));
    let text = report::text(&status);
    assert!(text.contains(&pod.address) && text.contains("ready"), "{text}");
}

/// What is answered to a GET that names this host.
async fn status_by_name(sidecar: &Running, path: &str, host: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(sidecar.http).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\n{host}connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.take(12).read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_name_that_a_web_site_could_have_is_refused() {
    let sidecar = Running::start(&[], &["--http-hosts", "status.example.com"]).await;
    let port = sidecar.http.port();
    for path in ["/", "/page.js", "/metrics", "/status", "/events", "/explain"] {
        let rebound = status_by_name(&sidecar, path, &format!("host: evil.example:{port}\r\n")).await;
        assert_eq!(rebound, "HTTP/1.1 421", "{path}");
    }
    for host in ["localhost", "127.0.0.1", "10.0.0.7", "[::1]", "warmpath.llm-d.svc", "status.example.com"] {
        let served = status_by_name(&sidecar, "/metrics", &format!("host: {host}:{port}\r\n")).await;
        assert_eq!(served, "HTTP/1.1 200", "{host}");
    }
    assert_eq!(status_by_name(&sidecar, "/healthz", "host: any.example\r\n").await, "HTTP/1.1 200");
    assert_eq!(status_by_name(&sidecar, "/filter.wasm", "host: any.example\r\n").await, "HTTP/1.1 404");
}

#[tokio::test]
async fn the_filter_is_served_with_its_sum() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("filter.wasm");
    std::fs::write(&path, b"\0asm\x01\0\0\0").unwrap();
    let sidecar = Running::start(&[], &["--filter", path.to_str().unwrap()]).await;
    let sum = sidecar.get("/filter.wasm.sha256").await.1;
    assert_eq!(sum.trim(), "93a44bbb96c751218e4c00d479e4c14358122a389acca16205b1e4d0dc5f9476");
    assert_eq!(sidecar.get("/filter.wasm").await.1.as_bytes(), b"\0asm\x01\0\0\0");
    let without = Running::start(&[], &[]).await;
    assert_eq!(without.get("/filter.wasm").await.0, 404);
}

#[tokio::test]
async fn it_ends_within_a_second_with_streams_open() {
    let pod = Pod::start(page(7, 0)).await;
    let sidecar = Running::start(&[&pod], &[]).await;
    let mut envoy = Envoy::connect(&sidecar, Hello::default()).await;
    envoy.table(|_| true).await;
    let began = Instant::now();
    sidecar.trigger.end();
    sidecar.ended.await.unwrap().unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}
