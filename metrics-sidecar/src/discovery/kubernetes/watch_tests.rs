use super::*;
use crate::clock::Clock;
use axum::Router;
use axum::body::Body;
use axum::http::{StatusCode, Uri};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use prometheus_client::metrics::counter::Counter;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// An API server that gives these answers in turn, and then none any more.
struct Played {
    asked: Arc<Mutex<Vec<String>>>,
    /// The names in each call of `changed`.
    seen: Arc<Mutex<Vec<Vec<String>>>>,
    errors: Counter,
    standing: Arc<Standing>,
}

/// Follows pods until all answers were given and one more was asked for.
async fn play(answers: Vec<(u16, String)>) -> Played {
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen: Arc<Mutex<Vec<Vec<String>>>> = Arc::default();
    let answers = Arc::new(Mutex::new(VecDeque::from(answers)));
    let (done, mut ended) = tokio::sync::mpsc::channel::<()>(1);
    let (log, played) = (Arc::clone(&asked), Arc::clone(&answers));
    let server = Router::new().fallback(async move |uri: Uri| {
        log.lock().unwrap().push(uri.query().unwrap_or_default().to_owned());
        let next = played.lock().unwrap().pop_front();
        match next {
            Some((status, body)) => (StatusCode::from_u16(status).unwrap(), Body::from(body)),
            None => {
                done.send(()).await.unwrap();
                std::future::pending().await
            }
        }
    });
    let errors = Counter::default();
    let standing = Arc::new(Standing::new("test".to_owned(), Clock::start(), errors.clone()));
    let (told, names) = (Arc::clone(&standing), Arc::clone(&seen));
    let api: Api<Pod> = Api::namespaced(Client::new(server, "ns"), "ns");
    let following = tokio::spawn(async move {
        let needs = Needs::new("pods", "ns", "role");
        let query = Query::labels("app=vllm".to_owned());
        follow(&api, &query, "pods", &needs, &told, |seen| {
            names.lock().unwrap().push(seen.keys().cloned().collect());
            told.found(seen.len(), Vec::new());
        })
        .await;
    });
    timeout(Duration::from_secs(10), ended.recv()).await.expect("the answers were not all asked for");
    following.abort();
    Played { asked, seen, errors, standing }
}

fn pod(name: &str, version: u32) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "resourceVersion": version.to_string()}})
}

fn list(version: u32, names: &[&str], more: &str) -> (u16, String) {
    let items: Vec<Value> = names.iter().map(|name| pod(name, version)).collect();
    let metadata = json!({"resourceVersion": version.to_string(), "continue": more});
    (200, json!({"apiVersion": "v1", "kind": "PodList", "metadata": metadata, "items": items}).to_string())
}

/// A watch that tells of these events and ends.
fn watch(events: &[(&str, Value)]) -> (u16, String) {
    let lines = events.iter().map(|(kind, object)| format!("{}\n", json!({"type": kind, "object": object})));
    (200, lines.collect())
}

fn refusal(code: u16) -> Value {
    json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "message": "no", "reason": "r"})
}

impl Played {
    fn asked(&self) -> Vec<String> {
        let all = self.asked.lock().unwrap();
        let brief = |query: &String| {
            let kept = query
                .split('&')
                .filter(|part| ["watch=", "resourceVersion=", "continue="].iter().any(|name| part.starts_with(name)));
            kept.collect::<Vec<_>>().join("&")
        };
        all.iter().map(brief).collect()
    }

    fn seen(&self) -> Vec<Vec<String>> {
        self.seen.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn a_watch_that_ends_goes_on_where_it_was() {
    let bookmark = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"resourceVersion": "9"}});
    let played = play(vec![
        list(5, &["a"], ""),
        watch(&[("ADDED", pod("b", 6)), ("DELETED", pod("a", 7))]),
        watch(&[("BOOKMARK", bookmark)]),
    ])
    .await;
    let asked = ["", "watch=true&resourceVersion=5", "watch=true&resourceVersion=7", "watch=true&resourceVersion=9"];
    assert_eq!(played.asked(), asked);
    assert_eq!(played.seen(), [vec!["a"], vec!["a", "b"], vec!["b"]]);
    assert_eq!((played.errors.get(), played.standing.report().synced), (0, true));
}

#[tokio::test]
async fn a_version_that_is_too_old_is_a_new_list_and_no_fault() {
    let played = play(vec![list(5, &["a"], ""), watch(&[("ERROR", refusal(410))]), list(9, &["b"], "")]).await;
    assert_eq!(played.asked(), ["", "watch=true&resourceVersion=5", "", "watch=true&resourceVersion=9"]);
    assert_eq!(played.seen(), [["a"], ["b"]]);
    assert_eq!(played.errors.get(), 0);
}

#[tokio::test]
async fn what_was_seen_stays_when_the_api_server_fails() {
    let failure = || (500, refusal(500).to_string());
    let played = play(vec![list(5, &["a"], ""), failure(), failure(), failure()]).await;
    assert_eq!(played.seen(), [["a"]]);
    let report = played.standing.report();
    assert_eq!((played.errors.get(), report.synced, report.endpoints), (1, false, 1));
    assert!(report.failing.unwrap().1.contains("500"));
}

#[tokio::test]
async fn an_api_server_that_wants_fewer_requests_is_not_asked_for_a_list() {
    let played = play(vec![list(5, &["a"], ""), (429, refusal(429).to_string())]).await;
    assert_eq!(played.asked(), ["", "watch=true&resourceVersion=5", "watch=true&resourceVersion=5"]);
}

#[tokio::test]
async fn a_list_of_several_pages_is_seen_whole() {
    let played = play(vec![list(5, &["a", "b"], "more"), list(5, &["c"], "")]).await;
    assert_eq!(played.asked(), ["", "continue=more", "watch=true&resourceVersion=5"]);
    assert_eq!(played.seen(), [["a", "b", "c"]]);
}

#[test]
fn waits_grow_to_ten_seconds_and_no_further() {
    let mut waits = Waits::default();
    let all: Vec<Duration> = (0..50).map(|_| waits.next()).collect();
    assert!(all[0] <= WAITS.0 && all[0] >= WAITS.0 / 2);
    assert!(all[49] <= WAITS.1 && all[49] >= WAITS.1 / 2);
}
