//! From the EndpointSlices of a Service to endpoints. Pure.
//!
//! EndpointSlices are what Istio makes Envoy's clusters of: the same addresses and ports, and the same conditions. They
//! name no labels of a pod, and need no right to read pods.

use super::target::{Port, ServiceTarget};
use crate::discovery::DiscoveredEndpoint;
use crate::discovery::merge::unique;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};

/// The endpoints that the slices tell of, and what is odd with them.
#[must_use]
pub fn endpoints<'a>(
    target: &ServiceTarget,
    slices: impl Iterator<Item = &'a EndpointSlice>,
) -> (Vec<DiscoveredEndpoint>, Vec<String>) {
    let slices: Vec<&EndpointSlice> = slices.collect();
    let mut found = Vec::new();
    for slice in &slices {
        for port in &target.ports {
            let Some(serving) = number(&port.serving, slice) else { continue };
            let scrape = match &port.scrape {
                None => serving,
                Some(Port::Number(number)) => *number,
                Some(name) => match number(name, slice) {
                    Some(number) => number,
                    None => continue,
                },
            };
            found.extend(slice.endpoints.iter().filter_map(|e| one(target, slice, e, serving, scrape)));
        }
    }
    // A pod of two families stands in a slice of each: one endpoint, by its IPv4 address.
    let has_v4: HashSet<(String, u16)> =
        found.iter().filter(|f| f.at.is_ipv4()).filter_map(|f| Some((f.uid()?, f.at.port()))).collect();
    found.retain(|f| f.at.is_ipv4() || f.uid().is_none_or(|uid| !has_v4.contains(&(uid, f.at.port()))));
    (unique(found.into_iter().map(|f| f.endpoint)), remarks(target, &slices))
}

struct Found {
    at: SocketAddr,
    endpoint: DiscoveredEndpoint,
}

impl Found {
    fn uid(&self) -> Option<String> {
        self.endpoint.uid.clone()
    }
}

fn one(target: &ServiceTarget, slice: &EndpointSlice, of: &Endpoint, serving: u16, scrape: u16) -> Option<Found> {
    // All addresses of an endpoint are the same pod, says the API; nothing ever writes more than one. A slice of host
    // names (FQDN) fails here.
    let ip: IpAddr = of.addresses.first()?.parse().ok()?;
    let at = SocketAddr::new(ip, serving);
    let pod = of.target_ref.as_ref().filter(|it| it.kind.as_deref() == Some("Pod"));
    let conditions = of.conditions.as_ref();
    let draining = conditions.and_then(|c| c.terminating).unwrap_or(false);
    let endpoint = DiscoveredEndpoint {
        address: at.to_string(),
        scrape: SocketAddr::new(ip, scrape).to_string(),
        pool: target.pool.clone(),
        name: pod.and_then(|it| it.name.clone()),
        uid: pod.and_then(|it| it.uid.clone()),
        labels: slice.metadata.labels.iter().flatten().filter(|(key, _)| is_of_people(key)).map(owned).collect(),
        draining,
        // `ready` and not `serving`: it is what puts the pod into Envoy's cluster, also where a Service publishes
        // addresses that are not ready. Absent means ready, says the API.
        unready: !draining && !conditions.and_then(|c| c.ready).unwrap_or(true),
        ..DiscoveredEndpoint::default()
    };
    Some(Found { at, endpoint })
}

fn owned((key, value): (&String, &String)) -> (String, String) {
    (key.clone(), value.clone())
}

/// Labels that the slice has from its Service, not those that its controller adds.
fn is_of_people(key: &str) -> bool {
    !key.starts_with("endpointslice.kubernetes.io/") && !key.starts_with("kubernetes.io/")
}

/// The port as the pod listens on it, if this slice has it.
fn number(port: &Port, slice: &EndpointSlice) -> Option<u16> {
    let is_it = |p: &&k8s_openapi::api::discovery::v1::EndpointPort| match port {
        Port::Number(number) => p.port == Some(i32::from(*number)),
        Port::Name(name) => p.name.as_deref() == Some(name),
    };
    slice.ports.iter().flatten().find(is_it)?.port?.try_into().ok()
}

fn remarks(target: &ServiceTarget, slices: &[&EndpointSlice]) -> Vec<String> {
    let (namespace, name) = (&target.namespace, &target.name);
    if slices.is_empty() {
        return vec![format!("no EndpointSlices of Service {namespace}/{name}: is it there, and has it a selector?")];
    }
    // Slices without endpoints have no ports either: nothing to judge by.
    let there: BTreeSet<String> = slices
        .iter()
        .flat_map(|slice| slice.ports.iter().flatten())
        .map(|port| match (port.port, port.name.as_deref()) {
            (Some(number), Some(name)) if !name.is_empty() => format!("{number} ({name})"),
            (Some(number), _) => number.to_string(),
            (None, name) => name.unwrap_or_default().to_owned(),
        })
        .collect();
    if there.is_empty() {
        return Vec::new();
    }
    let there = there.into_iter().collect::<Vec<_>>().join(", ");
    let named = |p: &Port| matches!(p, Port::Name(_));
    let asked = target.ports.iter().flat_map(|p| [Some(&p.serving), p.scrape.as_ref().filter(|s| named(s))]);
    asked
        .flatten()
        .filter(|port| slices.iter().all(|slice| number(port, slice).is_none()))
        .map(|port| {
            format!(
                "no EndpointSlice of Service {namespace}/{name} has port {port}; they have {there} \
                 (numbers are the pods' ports, not the Service's)"
            )
        })
        .collect()
}

#[cfg(test)]
#[path = "slices_tests.rs"]
mod tests;
