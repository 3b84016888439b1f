//! From Pods to endpoints. Pure.

use super::target::{PodsTarget, Port};
use crate::discovery::DiscoveredEndpoint;
use crate::discovery::merge::unique;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use std::net::{IpAddr, SocketAddr};

/// The endpoints of these pods, and what is odd with them.
#[must_use]
pub fn endpoints<'a>(
    target: &PodsTarget,
    pods: impl Iterator<Item = &'a Pod>,
) -> (Vec<DiscoveredEndpoint>, Vec<String>) {
    let (mut found, mut remarks, mut any) = (Vec::new(), Vec::new(), false);
    for pod in pods {
        any = true;
        let Some((ip, status)) = running(pod) else { continue };
        for port in &target.ports {
            let serving = number(&port.serving, pod);
            let scrape = port.scrape.as_ref().map_or(serving.clone(), |scrape| number(scrape, pod));
            match (serving, scrape) {
                (Ok(serving), Ok(scrape)) => found.push(one(target, pod, status, ip, serving, scrape)),
                (Err(remark), _) | (_, Err(remark)) => remarks.push(remark),
            }
        }
    }
    if !any {
        remarks.push(format!("no pod in namespace {} has the labels {}", target.namespace, target.selector));
    }
    (unique(found), remarks)
}

/// Address and status of a pod that has an address and has not ended.
fn running(pod: &Pod) -> Option<(IpAddr, &PodStatus)> {
    let status = pod.status.as_ref()?;
    // What has ended may still show an address that another pod has by now.
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).chain(status.pod_ip.as_deref());
    let all: Vec<IpAddr> = all.filter_map(|ip| ip.parse().ok()).collect();
    Some((*all.iter().find(|ip| ip.is_ipv4()).or_else(|| all.first())?, status))
}

fn one(
    target: &PodsTarget,
    pod: &Pod,
    status: &PodStatus,
    ip: IpAddr,
    serving: u16,
    scrape: u16,
) -> DiscoveredEndpoint {
    let draining = pod.metadata.deletion_timestamp.is_some();
    let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    DiscoveredEndpoint {
        address: SocketAddr::new(ip, serving).to_string(),
        scrape: SocketAddr::new(ip, scrape).to_string(),
        pool: target.pool.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        draining,
        unready: !draining && !ready,
        ..DiscoveredEndpoint::default()
    }
}

fn number(port: &Port, pod: &Pod) -> Result<u16, String> {
    let name = match port {
        Port::Number(number) => return Ok(*number),
        Port::Name(name) => name,
    };
    // vLLM may run in a native sidecar's place as well: all containers are looked at.
    let spec = pod.spec.iter();
    let containers = spec.flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    let found = ports.find(|port| port.name.as_deref() == Some(name)).map(|port| port.container_port);
    found.and_then(|number| u16::try_from(number).ok()).ok_or_else(|| {
        format!("pod {} has no container port named {name}", pod.metadata.name.as_deref().unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(uid: &str, ips: &[&str], ready: bool, more: Value) -> Pod {
        let ips: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        let ready = if ready { "True" } else { "False" };
        let mut pod = json!({
            "metadata": {"name": format!("pod-{uid}"), "uid": uid, "labels": {"app": "vllm"}},
            "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8000}]}]},
            "status": {"phase": "Running", "podIPs": ips, "conditions": [{"type": "Ready", "status": ready}]},
        });
        for (part, values) in more.as_object().unwrap() {
            for (key, value) in values.as_object().unwrap() {
                pod[part][key] = value.clone();
            }
        }
        serde_json::from_value(pod).unwrap()
    }

    fn of(target: &str, pods: &[Pod]) -> (Vec<DiscoveredEndpoint>, Vec<String>) {
        endpoints(&target.parse().unwrap(), pods.iter())
    }

    #[test]
    fn a_ready_pod_is_an_endpoint_with_uid_and_labels() {
        let (found, remarks) = of("ns/app=vllm:http@9000=p", &[pod("a", &["10.0.0.1"], true, json!({}))]);
        assert_eq!((found.len(), remarks.len()), (1, 0));
        let got = &found[0];
        assert_eq!((got.address.as_str(), got.scrape.as_str()), ("10.0.0.1:8000", "10.0.0.1:9000"));
        assert_eq!((got.pool.as_str(), got.uid.as_deref(), got.name.as_deref()), ("p", Some("a"), Some("pod-a")));
        assert_eq!(got.labels["app"], "vllm");
        assert!(!got.draining && !got.unready);
    }

    #[test]
    fn each_port_of_a_pod_is_an_endpoint() {
        let (found, _) = of("ns/app=vllm:8000,8001", &[pod("a", &["10.0.0.1"], true, json!({}))]);
        assert_eq!(found.iter().map(|e| e.address.as_str()).collect::<Vec<_>>(), ["10.0.0.1:8000", "10.0.0.1:8001"]);
    }

    #[test]
    fn not_ready_is_unready_and_being_deleted_is_draining() {
        let deleted = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let pods = [pod("a", &["10.0.0.1"], false, json!({})), pod("b", &["10.0.0.2"], false, deleted)];
        let (found, _) = of("ns/app=vllm:8000", &pods);
        assert_eq!((found[0].unready, found[0].draining), (true, false));
        assert_eq!((found[1].unready, found[1].draining), (false, true));
    }

    #[test]
    fn a_pod_without_address_or_that_has_ended_is_none() {
        let ended = json!({"status": {"phase": "Failed"}});
        let pods = [pod("a", &[], false, json!({})), pod("b", &["10.0.0.2"], false, ended)];
        assert_eq!(of("ns/app=vllm:8000", &pods), (Vec::new(), Vec::new()));
    }

    #[test]
    fn ipv4_goes_first_and_ipv6_stands_in_brackets() {
        let pods = [pod("a", &["fd00::1", "10.0.0.1"], true, json!({})), pod("b", &["fd00::2"], true, json!({}))];
        let (found, _) = of("ns/app=vllm:8000", &pods);
        assert_eq!(found.iter().map(|e| e.address.as_str()).collect::<Vec<_>>(), ["10.0.0.1:8000", "[fd00::2]:8000"]);
    }

    #[test]
    fn what_is_odd_is_said() {
        assert!(of("ns/app=vllm:8000", &[]).1[0].contains("no pod in namespace ns has the labels app=vllm"));
        let (found, remarks) = of("ns/app=vllm:grpc", &[pod("a", &["10.0.0.1"], true, json!({}))]);
        assert_eq!((found.len(), remarks[0].as_str()), (0, "pod pod-a has no container port named grpc"));
    }
}
