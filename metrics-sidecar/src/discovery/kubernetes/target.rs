//! What the options name: `NAMESPACE/NAME:PORT[@SCRAPE][,…][=POOL]`.
//!
//! One text an endpoint source, so that a list of them fits into one environment variable. Neither names nor label
//! selectors can hold a colon, and neither ports nor names an `@` or `=`; so each text reads in one way only.

use std::fmt;
use std::str::FromStr;

/// The pool of a source that names none, as in the examples of the endpoint file.
const DEFAULT_POOL: &str = "default";

/// A port by number or by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Port {
    /// As the pod listens on it.
    Number(u16),
    /// Of the Service's port (slices) or of the container's (pods).
    Name(String),
}

/// A port that serves, and the one that is scraped for it, if another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServingPort {
    /// Where requests go.
    pub serving: Port,
    /// Where `/health`, `/metrics` and `/v1/models` are.
    pub scrape: Option<Port>,
}

/// A Service: `llm-d/vllm:8000`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceTarget {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Each address with each of these is an endpoint.
    pub ports: Vec<ServingPort>,
    /// The pool of its endpoints.
    pub pool: String,
}

/// Pods by label: `llm-d/app=vllm:8000`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodsTarget {
    /// Their namespace.
    pub namespace: String,
    /// The label selector, as kubectl's `-l` takes it.
    pub selector: String,
    /// Each pod with each of these is an endpoint.
    pub ports: Vec<ServingPort>,
    /// The pool of its endpoints.
    pub pool: String,
}

/// An InferencePool: `llm-d/vllm`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InferencePoolTarget {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The port that is scraped in place of the target ports.
    pub scrape: Option<Port>,
    /// The pool of its endpoints.
    pub pool: String,
}

impl FromStr for ServiceTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "NAMESPACE/SERVICE:PORT[,PORT…][=POOL], as in llm-d/vllm:8000";
        let (namespace, rest) = namespaced(text, FORM)?;
        let (name, rest) = rest.split_once(':').ok_or_else(|| expected(text, FORM))?;
        let (ports, pool) = pooled(rest, text)?;
        Ok(Self { namespace, name: named(name, text, FORM)?, ports: ports_of(ports, text)?, pool })
    }
}

impl FromStr for PodsTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "NAMESPACE/SELECTOR:PORT[,PORT…][=POOL], as in llm-d/app=vllm:8000";
        let (namespace, rest) = namespaced(text, FORM)?;
        let (selector, rest) = rest.rsplit_once(':').ok_or_else(|| expected(text, FORM))?;
        if selector.trim().is_empty() {
            return Err(format!("{text:?}: no label selector, which would mean every pod; expected {FORM}"));
        }
        let (ports, pool) = pooled(rest, text)?;
        Ok(Self { namespace, selector: selector.trim().to_owned(), ports: ports_of(ports, text)?, pool })
    }
}

impl FromStr for InferencePoolTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "NAMESPACE/INFERENCEPOOL[@SCRAPE_PORT][=POOL], as in llm-d/vllm";
        let (namespace, rest) = namespaced(text, FORM)?;
        let (rest, pool) = pooled(rest, text)?;
        let (name, scrape) = match rest.split_once('@') {
            Some((name, port)) => (name, Some(port_of(port, text)?)),
            None => (rest, None),
        };
        Ok(Self { namespace, name: named(name, text, FORM)?, scrape, pool })
    }
}

fn namespaced<'a>(text: &'a str, form: &str) -> Result<(String, &'a str), String> {
    let (namespace, rest) = text.split_once('/').ok_or_else(|| expected(text, form))?;
    Ok((named(namespace, text, form)?, rest))
}

/// A name as Kubernetes gives it (RFC 1123); anything else is a slip in the text.
fn named(name: &str, text: &str, form: &str) -> Result<String, String> {
    let is_good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if name.is_empty() || !name.chars().all(is_good) {
        return Err(expected(text, form));
    }
    Ok(name.to_owned())
}

fn pooled<'a>(rest: &'a str, text: &str) -> Result<(&'a str, String), String> {
    match rest.split_once('=') {
        None => Ok((rest, DEFAULT_POOL.to_owned())),
        Some((_, "")) => Err(format!("{text:?}: no pool behind the =")),
        Some((rest, pool)) => Ok((rest, pool.to_owned())),
    }
}

fn ports_of(ports: &str, text: &str) -> Result<Vec<ServingPort>, String> {
    let one = |port: &str| {
        let (serving, scrape) = match port.split_once('@') {
            Some((serving, scrape)) => (serving, Some(port_of(scrape, text)?)),
            None => (port, None),
        };
        Ok(ServingPort { serving: port_of(serving, text)?, scrape })
    };
    ports.split(',').map(one).collect()
}

fn port_of(port: &str, text: &str) -> Result<Port, String> {
    if port.chars().any(|c| c.is_ascii_alphabetic()) && port.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return Ok(Port::Name(port.to_owned()));
    }
    match port.parse() {
        Ok(number) if number > 0 => Ok(Port::Number(number)),
        _ => Err(format!("{text:?}: {port:?} is no port: a number from 1 to 65535 or a port's name")),
    }
}

fn expected(text: &str, form: &str) -> String {
    format!("{text:?}: expected {form}")
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for ServingPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.serving)?;
        self.scrape.as_ref().map_or(Ok(()), |scrape| write!(f, "@{scrape}"))
    }
}

impl fmt::Display for ServiceTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}={}", self.namespace, self.name, list(&self.ports), self.pool)
    }
}

impl fmt::Display for PodsTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}={}", self.namespace, self.selector, list(&self.ports), self.pool)
    }
}

impl fmt::Display for InferencePoolTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)?;
        self.scrape.as_ref().map_or(Ok(()), |scrape| write!(f, "@{scrape}"))?;
        write!(f, "={}", self.pool)
    }
}

fn list(ports: &[ServingPort]) -> String {
    ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(serving: u16) -> ServingPort {
        ServingPort { serving: Port::Number(serving), scrape: None }
    }

    #[test]
    fn a_service_has_ports_and_a_pool() {
        let got: ServiceTarget = "llm-d/vllm:8000".parse().unwrap();
        assert_eq!((got.namespace.as_str(), got.name.as_str(), got.pool.as_str()), ("llm-d", "vllm", "default"));
        assert_eq!(got.ports, [number(8000)]);
        let got: ServiceTarget = "llm-d/vllm:http@metrics,8001@9001=big".parse().unwrap();
        let http = ServingPort { serving: Port::Name("http".into()), scrape: Some(Port::Name("metrics".into())) };
        assert_eq!(got.ports, [http, ServingPort { scrape: Some(Port::Number(9001)), ..number(8001) }]);
        assert_eq!(got.pool, "big");
    }

    #[test]
    fn a_selector_may_hold_whatever_kubernetes_allows() {
        let got: PodsTarget = "ns/app.kubernetes.io/name=vllm,tier in (a, b),!old:8000,8001=p".parse().unwrap();
        assert_eq!(got.selector, "app.kubernetes.io/name=vllm,tier in (a, b),!old");
        assert_eq!((got.ports.as_slice(), got.pool.as_str()), ([number(8000), number(8001)].as_slice(), "p"));
    }

    #[test]
    fn an_inference_pool_has_its_own_ports() {
        let got: InferencePoolTarget = "ns/pool".parse().unwrap();
        assert_eq!((got.name.as_str(), got.scrape, got.pool.as_str()), ("pool", None, "default"));
        let got: InferencePoolTarget = "ns/pool@9090=p".parse().unwrap();
        assert_eq!((got.name.as_str(), got.scrape, got.pool.as_str()), ("pool", Some(Port::Number(9090)), "p"));
    }

    #[test]
    fn each_target_is_written_as_it_is_read() {
        for text in ["ns/a:8000@9000,http=p", "ns/b:1=default"] {
            assert_eq!(text.parse::<ServiceTarget>().unwrap().to_string(), text);
        }
        assert_eq!("ns/x/y=z:1=p".parse::<PodsTarget>().unwrap().to_string(), "ns/x/y=z:1=p");
        assert_eq!("ns/p@9=q".parse::<InferencePoolTarget>().unwrap().to_string(), "ns/p@9=q");
    }

    #[test]
    fn a_slip_is_named() {
        for bad in
            ["vllm:8000", "ns/vllm", "ns/vllm:", "ns/vllm:0", "ns/vllm:70000", "ns/:1", "/a:1", "ns/a:1=", "ns/A:1"]
        {
            let error = bad.parse::<ServiceTarget>().unwrap_err();
            assert!(error.contains(bad), "{error}");
        }
        assert!("ns/:8000".parse::<PodsTarget>().unwrap_err().contains("every pod"));
        assert!("ns/pool:8000".parse::<InferencePoolTarget>().is_err());
    }
}
