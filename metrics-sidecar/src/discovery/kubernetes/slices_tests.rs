use super::*;
use serde_json::{Value, json};

/// A slice as the controller writes it. `endpoints` is a list of (address, uid, conditions).
fn slice(family: &str, endpoints: &[(&str, &str, Value)]) -> EndpointSlice {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(address, uid, conditions)| {
            json!({"addresses": [address], "conditions": conditions,
                   "targetRef": {"kind": "Pod", "name": format!("pod-{uid}"), "namespace": "ns", "uid": uid}})
        })
        .collect();
    let ports = json!([{"name": "http", "port": 8000, "protocol": "TCP"}, {"name": "more", "port": 8001}]);
    let labels = json!({"kubernetes.io/service-name": "vllm", "team": "a"});
    serde_json::from_value(
        json!({"metadata": {"labels": labels}, "addressType": family, "endpoints": endpoints, "ports": ports}),
    )
    .unwrap()
}

fn of(target: &str, slices: &[EndpointSlice]) -> (Vec<DiscoveredEndpoint>, Vec<String>) {
    endpoints(&target.parse().unwrap(), slices.iter())
}

fn addresses(found: &(Vec<DiscoveredEndpoint>, Vec<String>)) -> Vec<&str> {
    found.0.iter().map(|e| e.address.as_str()).collect()
}

fn ready() -> Value {
    json!({"ready": true, "serving": true, "terminating": false})
}

#[test]
fn several_slices_are_one_list() {
    let slices = [slice("IPv4", &[("10.0.0.2", "b", ready())]), slice("IPv4", &[("10.0.0.1", "a", ready())])];
    let found = of("ns/vllm:8000=p", &slices);
    assert_eq!(addresses(&found), ["10.0.0.1:8000", "10.0.0.2:8000"]);
    let first = &found.0[0];
    assert_eq!((first.pool.as_str(), first.scrape.as_str()), ("p", "10.0.0.1:8000"));
    assert_eq!((first.uid.as_deref(), first.name.as_deref()), (Some("a"), Some("pod-a")));
    assert_eq!(first.labels.keys().collect::<Vec<_>>(), ["team"]);
    assert!(!first.draining && !first.unready && found.1.is_empty());
}

#[test]
fn conditions_say_whether_a_pod_gets_requests() {
    for (conditions, draining, unready) in [
        (ready(), false, false),
        (json!({}), false, false),
        (json!({"ready": false, "serving": false, "terminating": false}), false, true),
        (json!({"ready": false, "serving": true, "terminating": true}), true, false),
        (json!({"ready": false, "serving": false, "terminating": true}), true, false),
        // A Service that publishes addresses that are not ready.
        (json!({"ready": true, "serving": false, "terminating": false}), false, false),
    ] {
        let found = of("ns/vllm:http", &[slice("IPv4", &[("10.0.0.1", "a", conditions.clone())])]);
        assert_eq!((found.0[0].draining, found.0[0].unready), (draining, unready), "{conditions}");
    }
}

#[test]
fn a_pod_of_two_families_is_one_endpoint_by_ipv4() {
    let v4 = slice("IPv4", &[("10.0.0.1", "a", ready())]);
    let v6 = slice("IPv6", &[("fd00::1", "a", ready()), ("fd00::2", "b", ready())]);
    assert_eq!(addresses(&of("ns/vllm:8000", &[v6.clone(), v4])), ["10.0.0.1:8000", "[fd00::2]:8000"]);
    assert_eq!(addresses(&of("ns/vllm:8000", &[v6])), ["[fd00::1]:8000", "[fd00::2]:8000"]);
}

#[test]
fn endpoints_without_a_pod_are_taken_as_they_are() {
    let mut slice = slice("IPv4", &[("10.0.0.1", "a", ready())]);
    slice.endpoints[0].target_ref = None;
    let found = of("ns/vllm:8000", &[slice]);
    assert_eq!((addresses(&found), found.0[0].uid.clone()), (vec!["10.0.0.1:8000"], None));
}

#[test]
fn each_port_of_a_pod_is_an_endpoint() {
    let slices = [slice("IPv4", &[("10.0.0.1", "a", ready())])];
    let found = of("ns/vllm:http@9000,8001@more", &slices);
    assert_eq!(addresses(&found), ["10.0.0.1:8000", "10.0.0.1:8001"]);
    assert_eq!(found.0.iter().map(|e| e.scrape.as_str()).collect::<Vec<_>>(), ["10.0.0.1:9000", "10.0.0.1:8001"]);
}

#[test]
fn a_replaced_pod_at_the_same_address_has_another_uid() {
    let old = slice("IPv4", &[("10.0.0.1", "a", json!({"ready": false, "terminating": true}))]);
    let new = slice("IPv4", &[("10.0.0.1", "b", ready())]);
    let found = of("ns/vllm:8000", &[old, new]);
    assert_eq!((found.0.len(), found.0[0].uid.as_deref()), (1, Some("b")));
}

#[test]
fn a_port_that_is_not_there_is_remarked_with_those_that_are() {
    let slices = [slice("IPv4", &[("10.0.0.1", "a", ready())])];
    let (found, remarks) = of("ns/vllm:80", &slices);
    assert_eq!((found.len(), remarks.len()), (0, 1));
    for part in ["ns/vllm", "port 80;", "8000 (http), 8001 (more)", "not the Service's"] {
        assert!(remarks[0].contains(part), "{remarks:?}");
    }
    assert!(of("ns/vllm:8000@metrics", &slices).1[0].contains("port metrics;"));
}

#[test]
fn no_slices_are_remarked_and_slices_without_endpoints_are_not() {
    assert!(of("ns/vllm:8000", &[]).1[0].contains("no EndpointSlices of Service ns/vllm"));
    let empty: EndpointSlice =
        serde_json::from_value(json!({"metadata": {}, "addressType": "IPv4", "endpoints": [], "ports": null})).unwrap();
    assert_eq!(of("ns/vllm:8000", &[empty]), (Vec::new(), Vec::new()));
}

#[test]
fn host_names_are_left_out() {
    assert_eq!(of("ns/vllm:8000", &[slice("FQDN", &[("pod.example", "a", ready())])]).0, []);
}
