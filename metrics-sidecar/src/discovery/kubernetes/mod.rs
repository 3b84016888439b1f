//! Pods that a Kubernetes API server tells of.
//!
//! | source | watches | a pod is found by |
//! | --- | --- | --- |
//! | Service (the default) | its EndpointSlices | what the Service selects, as Istio sees it |
//! | pods | Pods by label selector | labels |
//! | InferencePool v1 | the pool and its Pods | the pool's selector and target ports |
//!
//! | module | job |
//! | --- | --- |
//! | [`target`] | what the options name |
//! | [`slices`], [`pods`], [`inference_pool`] | from the objects seen to endpoints and remarks; pure |
//! | [`watch`] | lists, watches, and begins again after a failure |
//! | [`explain`] | what a failure means and what to do |
//!
//! A pod that is terminating is `draining` with the event that says so. A pod that is not Ready is `unready`: Envoy's
//! cluster does not have it, so a request named to it would go elsewhere.

pub mod explain;
pub mod inference_pool;
pub mod pods;
pub mod slices;
pub mod target;
pub mod watch;

use super::{Discovery, Outlet};
use async_trait::async_trait;
use explain::Needs;
use inference_pool::InferencePool;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client, Config};
use std::fmt::Display;
use std::time::Duration;
use target::{InferencePoolTarget, PodsTarget, ServiceTarget};
use watch::{Query, follow};

/// How long a connection to the API server may take: kube's 30 s would hold up a retry.
const CONNECT: Duration = Duration::from_secs(5);

/// One of the three sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The EndpointSlices of a Service.
    Service(ServiceTarget),
    /// Pods by label.
    Pods(PodsTarget),
    /// The pods of an InferencePool.
    InferencePool(InferencePoolTarget),
}

/// The source.
pub struct KubernetesDiscovery {
    client: Client,
    option: &'static str,
    target: Target,
}

/// A client as `KUBECONFIG` or the pod's service account says.
///
/// # Errors
/// A sentence saying what was looked for.
pub async fn client() -> Result<Client, String> {
    let mut config = Config::infer().await.map_err(|error| {
        format!(
            "Kubernetes: found neither a kubeconfig (KUBECONFIG) nor a service account's token in this pod: {error}"
        )
    })?;
    config.connect_timeout = Some(CONNECT);
    Client::try_from(config).map_err(|error| format!("Kubernetes: {}", explain::chain(&error)))
}

impl KubernetesDiscovery {
    /// Watches `target`, which `option` named.
    #[must_use]
    pub fn new(client: Client, option: &'static str, target: Target) -> Self {
        Self { client, option, target }
    }
}

#[async_trait]
impl Discovery for KubernetesDiscovery {
    fn name(&self) -> String {
        let target: &dyn Display = match &self.target {
            Target::Service(target) => target,
            Target::Pods(target) => target,
            Target::InferencePool(target) => target,
        };
        format!("{} {target}", self.option)
    }

    async fn run(self: Box<Self>, outlet: Outlet) {
        tokio::select! {
            () = outlet.closed() => {}
            () = async {
                match &self.target {
                    Target::Service(target) => service(&self.client, target, &outlet).await,
                    Target::Pods(target) => matching(&self.client, target, "deploy/rbac/pods", &outlet).await,
                    Target::InferencePool(target) => inference_pool(&self.client, target, &outlet).await,
                }
            } => {}
        }
    }
}

async fn service(client: &Client, target: &ServiceTarget, outlet: &Outlet) {
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), &target.namespace);
    let query = Query::labels(format!("kubernetes.io/service-name={}", target.name));
    let needs = Needs::new("endpointslices.discovery.k8s.io", &target.namespace, "deploy/rbac/service");
    follow(&api, &query, "endpointslices", &needs, outlet.standing(), |seen| {
        let (endpoints, remarks) = slices::endpoints(target, seen.values());
        outlet.publish(endpoints, remarks);
    })
    .await;
}

async fn matching(client: &Client, target: &PodsTarget, role: &'static str, outlet: &Outlet) {
    let api: Api<Pod> = Api::namespaced(client.clone(), &target.namespace);
    let query = Query::labels(target.selector.clone());
    let needs = Needs::new("pods", &target.namespace, role);
    follow(&api, &query, "pods", &needs, outlet.standing(), |seen| {
        let (endpoints, remarks) = pods::endpoints(target, seen.values());
        outlet.publish(endpoints, remarks);
    })
    .await;
}

/// Two watches: the pool says which pods to watch, and another selector begins that watch anew.
async fn inference_pool(client: &Client, target: &InferencePoolTarget, outlet: &Outlet) {
    const ROLE: &str = "deploy/rbac/inference-pool";
    let api: Api<InferencePool> =
        Api::namespaced_with(client.clone(), &target.namespace, &inference_pool::api_resource());
    let query = Query::name(&target.name);
    let needs = Needs::new(inference_pool::RESOURCE, &target.namespace, ROLE);
    let (say, mut wanted) = tokio::sync::watch::channel(None);
    let pool = follow(&api, &query, "inferencepools", &needs, outlet.standing(), |seen| {
        let found = seen.get(&target.name).map(|pool| inference_pool::pods_of(target, &pool.spec));
        let found = found.unwrap_or_else(|| Err(format!("there is no InferencePool {target}")));
        say.send_if_modified(|before| {
            let changed = before.as_ref() != Some(&found);
            *before = Some(found);
            changed
        });
    });
    let pods = async {
        loop {
            let now = wanted.borrow_and_update().clone();
            let watching = async {
                match &now {
                    Some(Ok(pods)) => return matching(client, pods, ROLE, outlet).await,
                    Some(Err(remark)) => outlet.publish(Vec::new(), vec![remark.clone()]),
                    None => {}
                }
                std::future::pending().await
            };
            tokio::select! {
                () = watching => {}
                changed = wanted.changed() => if changed.is_err() { return },
            }
        }
    };
    tokio::join!(pool, pods);
}
