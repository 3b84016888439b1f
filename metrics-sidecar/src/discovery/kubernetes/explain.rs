//! What a failure of the API server means, in a sentence that says what to do.

use kube::core::Status;

/// What a watch needs of the API server.
#[derive(Clone, Debug)]
pub struct Needs {
    resource: &'static str,
    namespace: String,
    role: &'static str,
}

impl Needs {
    /// To list and watch `resource` (plural and group) in a namespace, which the folder `role` of this repository
    /// gives the right to.
    #[must_use]
    pub fn new(resource: &'static str, namespace: &str, role: &'static str) -> Self {
        Self { resource, namespace: namespace.to_owned(), role }
    }

    /// The sentence. It is the same at each retry, so that it is logged once.
    #[must_use]
    pub fn explain(&self, error: &kube::Error) -> String {
        match error {
            kube::Error::Api(status) => self.refused(status),
            kube::Error::Service(error) => self.not_reached(error.as_ref()),
            error => self.not_reached(error),
        }
    }

    fn not_reached(&self, error: &dyn std::error::Error) -> String {
        format!("API server not reached for {} in namespace {}: {}", self.resource, self.namespace, chain(error))
    }

    /// The sentence for what the API server itself said.
    #[must_use]
    pub fn refused(&self, status: &Status) -> String {
        let Self { resource, namespace, role } = self;
        let said = &status.message;
        match status.code {
            403 => format!(
                "{said}; the verbs list and watch on {resource} in namespace {namespace} are needed: \
                 apply the Role in {role} (kubectl apply -k {role})"
            ),
            401 => format!("{said}; the API server does not accept this token for {resource} in namespace {namespace}"),
            404 => {
                format!("{said}; the API server knows no {resource}: are the CRDs of that group and version installed?")
            }
            code => format!("API server, for {resource} in namespace {namespace}: {code} {said}"),
        }
    }
}

/// An error with what caused it: kube's own texts often say no more than "ServiceError".
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, message: &str) -> kube::Error {
        let status = Status { code, message: message.to_owned(), ..Status::default() };
        kube::Error::Api(Box::new(status))
    }

    #[test]
    fn a_refusal_names_verb_resource_namespace_and_role() {
        let needs = Needs::new("endpointslices.discovery.k8s.io", "llm-d", "deploy/rbac/service");
        let said = "endpointslices.discovery.k8s.io is forbidden: User \"x\" cannot watch resource \"endpointslices\"";
        let text = needs.explain(&status(403, said));
        for part in [
            "cannot watch",
            "list and watch on endpointslices.discovery.k8s.io",
            "namespace llm-d",
            "-k deploy/rbac/service",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_resource_that_is_not_there_asks_for_its_crds() {
        let needs = Needs::new("inferencepools.inference.networking.k8s.io", "ns", "r");
        assert!(needs.explain(&status(404, "not found")).contains("CRDs"));
    }
}
