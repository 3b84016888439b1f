//! InferencePool v1 of the Gateway API Inference Extension, as far as it says which pods and ports. Pure.
//!
//! Read through a type of our own: the resource is a CRD, and only two fields of it matter here.

use super::target::{InferencePoolTarget, PodsTarget, Port, ServingPort};
use kube::core::object::{NotUsed, Object};
use kube::core::{ApiResource, GroupVersionKind};
use serde::Deserialize;
use std::collections::BTreeMap;

/// How the API server calls it.
pub const RESOURCE: &str = "inferencepools.inference.networking.k8s.io";

/// The resource.
pub type InferencePool = Object<Spec, NotUsed>;

/// The part of its `spec` that is read.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    selector: Selector,
    target_ports: Vec<TargetPort>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Selector {
    #[serde(default)]
    match_labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
struct TargetPort {
    number: u16,
}

/// Where the API server has it.
#[must_use]
pub fn api_resource() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("inference.networking.k8s.io", "v1", "InferencePool"))
}

/// The pods that a pool names.
///
/// # Errors
/// A sentence, for a pool that would name every pod.
pub fn pods_of(target: &InferencePoolTarget, spec: &Spec) -> Result<PodsTarget, String> {
    if spec.selector.match_labels.is_empty() {
        return Err(format!("InferencePool {target} selects by no label, which would mean every pod"));
    }
    let selector: Vec<String> =
        spec.selector.match_labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let port = |port: &TargetPort| ServingPort { serving: Port::Number(port.number), scrape: target.scrape.clone() };
    Ok(PodsTarget {
        namespace: target.namespace.clone(),
        selector: selector.join(","),
        ports: spec.target_ports.iter().map(port).collect(),
        pool: target.pool.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pool(spec: serde_json::Value) -> InferencePool {
        serde_json::from_value(json!({
            "apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool", "metadata": {"name": "p"}, "spec": spec,
        }))
        .unwrap()
    }

    #[test]
    fn labels_and_ports_name_the_pods() {
        let spec = pool(json!({
            "selector": {"matchLabels": {"app": "vllm", "tier": "decode"}},
            "targetPorts": [{"number": 8000}, {"number": 8001}],
            "endpointPickerRef": {"name": "epp", "port": {"number": 9002}},
        }))
        .spec;
        let got = pods_of(&"ns/p=q".parse().unwrap(), &spec).unwrap();
        assert_eq!(got, "ns/app=vllm,tier=decode:8000,8001=q".parse().unwrap());
        let got = pods_of(&"ns/p@9000".parse().unwrap(), &spec).unwrap();
        assert_eq!(got, "ns/app=vllm,tier=decode:8000@9000,8001@9000".parse().unwrap());
    }

    #[test]
    fn a_pool_without_labels_names_nobody() {
        let spec = pool(json!({"selector": {}, "targetPorts": [{"number": 8000}]})).spec;
        assert!(pods_of(&"ns/p".parse().unwrap(), &spec).unwrap_err().contains("every pod"));
    }

    #[test]
    fn the_api_server_calls_it_by_its_plural() {
        let resource = api_resource();
        assert_eq!(format!("{}.{}", resource.plural, resource.group), RESOURCE);
    }
}
