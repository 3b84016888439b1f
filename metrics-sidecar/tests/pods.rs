//! Pods come, fail, are late, restart and go; the table that Envoy sees says so.

mod common;

use common::{Envoy, Pod, Running, endpoints, page, row};
use std::time::Duration;
use warmpath_core::table::{State, Table};
use warmpath_core::units::Tokens;
use warmpath_sidecar::proto::Hello;

fn is(address: &str, state: State) -> impl Fn(&Table) -> bool {
    move |table| row(table, address).is_some_and(|e| e.state == state)
}

#[tokio::test]
async fn the_first_table_tells_all_of_a_pod() {
    let pod = Pod::start(page(7, 3)).await;
    let sidecar = Running::start(&[&pod], &[]).await;
    let mut envoy = Envoy::connect(&sidecar, Hello::default()).await;
    let (table, _) = envoy.table(|_| true).await;
    let endpoint = row(&table, &pod.address).unwrap();
    assert_eq!(endpoint.state, State::Ready);
    assert_eq!((endpoint.pool.as_str(), endpoint.rank), ("default", None));
    assert_eq!(endpoint.models, ["an-adapter", "m"]);
    assert_eq!((endpoint.block_size, endpoint.capacity), (16, Tokens(1600)));
    assert_eq!((endpoint.load.running, endpoint.load.waiting, endpoint.load.kv_usage), (3, 1, 0.5));
}

#[tokio::test]
async fn a_new_load_comes_with_the_next_scrape() {
    let pod = Pod::start(page(7, 3)).await;
    let sidecar = Running::start(&[&pod], &[]).await;
    let mut envoy = Envoy::connect(&sidecar, Hello::default()).await;
    let (first, _) = envoy.table(|_| true).await;
    pod.set(|answers| answers.metrics = page(7, 44));
    let (table, took) = envoy.table(|t| t.endpoints[0].load.running == 44).await;
    assert!(table.version > first.version && took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test]
async fn a_killed_pod_leaves_and_comes_back_as_another_cache() {
    let (pod, other) = (Pod::start(page(7, 0)).await, Pod::start(page(8, 0)).await);
    let sidecar = Running::start(&[&pod, &other], &[]).await;
    let mut envoy = Envoy::connect(&sidecar, Hello::default()).await;
    let (before, _) = envoy.table(is(&pod.address, State::Ready)).await;
    let address = pod.kill().await;
    let (gone, took) = envoy.table(is(&address, State::Failing)).await;
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_eq!(row(&gone, &other.address).unwrap().state, State::Ready);
    assert_eq!(row(&gone, &address).unwrap().id, row(&before, &address).unwrap().id);
    let _pod = Pod::start_at(&address, page(9, 0)).await;
    let (after, _) = envoy.table(is(&address, State::Ready)).await;
    assert_ne!(row(&after, &address).unwrap().id, row(&before, &address).unwrap().id);
}

#[tokio::test]
async fn a_pod_that_answers_slowly_is_late_and_out_only_after_the_limit() {
    let pod = Pod::start(page(7, 0)).await;
    let sidecar = Running::start(&[&pod], &[]).await;
    let mut envoy = Envoy::connect(&sidecar, Hello::default()).await;
    envoy.table(is(&pod.address, State::Ready)).await;
    pod.set(|answers| answers.delay = Duration::from_secs(60));
    envoy.table(is(&pod.address, State::Late)).await;
    let (_, took) = envoy.table(is(&pod.address, State::Failing)).await;
    assert!(took > Duration::from_millis(800) && took < Duration::from_secs(4), "{took:?}");
    pod.set(|answers| answers.delay = Duration::ZERO);
    envoy.table(is(&pod.address, State::Ready)).await;
}

#[tokio::test]
async fn an_answer_that_comes_late_makes_a_pod_ready_again() {
    let pod = Pod::start(page(7, 0)).await;
    let sidecar = Running::start(&[&pod], &[]).await;
    let mut envoy = Envoy::connect(&sidecar, Hello::default()).await;
    envoy.table(is(&pod.address, State::Ready)).await;
    // Each scrape takes longer than its timeout, and still counts.
    pod.set(|answers| answers.delay = Duration::from_millis(300));
    envoy.table(is(&pod.address, State::Late)).await;
    envoy.table(is(&pod.address, State::Ready)).await;
    envoy.table(is(&pod.address, State::Late)).await;
}

#[tokio::test]
async fn an_unhealthy_pod_and_a_sleeping_one_are_not_choosable() {
    let (sick, asleep) = (Pod::start(page(7, 0)).await, Pod::start(page(8, 0)).await);
    let sidecar = Running::start(&[&sick, &asleep], &[]).await;
    let mut envoy = Envoy::connect(&sidecar, Hello::default()).await;
    envoy.table(is(&sick.address, State::Ready)).await;
    sick.set(|answers| answers.health = 503);
    envoy.table(is(&sick.address, State::Failing)).await;
    let sleeping = "vllm:engine_sleep_state{engine=\"0\",sleep_state=\"awake\"} 0\n";
    asleep.set(|answers| answers.metrics += sleeping);
    envoy.table(is(&asleep.address, State::Failing)).await;
    asleep.set(|answers| answers.metrics = page(8, 0));
    envoy.table(is(&asleep.address, State::Ready)).await;
}

#[tokio::test]
async fn a_page_of_garbage_is_lateness_and_not_refusal() {
    let pod = Pod::start(page(7, 0)).await;
    let sidecar = Running::start(&[&pod], &[]).await;
    let mut envoy = Envoy::connect(&sidecar, Hello::default()).await;
    envoy.table(is(&pod.address, State::Ready)).await;
    pod.set(|answers| answers.metrics = "<html>\u{0}{{{\"".to_owned());
    envoy.table(is(&pod.address, State::Late)).await;
    envoy.table(is(&pod.address, State::Failing)).await;
}

#[tokio::test]
async fn data_parallel_ranks_are_endpoints_of_their_own() {
    let text = "vllm:num_requests_running{engine=\"0\"} 1\nvllm:num_requests_running{engine=\"1\"} 2\n";
    let pod = Pod::start(text.to_owned()).await;
    let sidecar = Running::start(&[&pod], &[]).await;
    let mut envoy = Envoy::connect(&sidecar, Hello::default()).await;
    let (table, _) = envoy.table(|_| true).await;
    let got: Vec<_> = table.endpoints.iter().map(|e| (e.rank, e.load.running)).collect();
    assert_eq!(got, [(Some(0), 1), (Some(1), 2)]);
    assert_ne!(table.endpoints[0].id, table.endpoints[1].id);
}

#[tokio::test]
async fn the_endpoints_file_is_followed_and_a_bad_one_changes_nothing() {
    let (one, two) = (Pod::start(page(7, 0)).await, Pod::start(page(8, 0)).await);
    let sidecar = Running::start(&[&one], &[]).await;
    let mut envoy = Envoy::connect(&sidecar, Hello::default()).await;
    envoy.table(is(&one.address, State::Ready)).await;
    sidecar.write_endpoints(&endpoints(&[&one, &two]));
    envoy.table(is(&two.address, State::Ready)).await;
    sidecar.write_endpoints("{\"pools\": [{\"name\": ");
    let began = std::time::Instant::now();
    while !sidecar.get("/metrics").await.1.contains("warmpath_sidecar_discovery_errors_total 1") {
        assert!(began.elapsed() < common::LONG);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (table, _) = envoy.table(|_| true).await;
    assert_eq!(table.endpoints.len(), 2);
    sidecar.write_endpoints(&endpoints(&[&two]));
    envoy.table(|t| row(t, &one.address).is_none() && row(t, &two.address).is_some()).await;
    let draining = format!(
        r#"{{"pools": [{{"name": "default", "endpoints": [{{"address": "{}", "draining": true}}]}}]}}"#,
        two.address
    );
    sidecar.write_endpoints(&draining);
    envoy.table(is(&two.address, State::Draining)).await;
}
