//! Options of the binary. Each is also an environment variable, `WARMPATH_` and its name in capitals, because a
//! Kubernetes manifest sets those more easily. Those of the other commands begin with `WARMPATH_VALIDATE_` and the like:
//! they may run where the sidecar's are set. Two are for several: `WARMPATH_URL` says where the sidecar is, and the
//! sidecar's `WARMPATH_EXPLAIN_TOKEN` is also what `warmpath explain` sends.

pub mod observe;
pub mod validate;

use crate::discovery::kubernetes::target::{InferencePoolTarget, PodsTarget, ServiceTarget};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Warm-cache routing for vLLM behind Envoy.
#[derive(Debug, Parser)]
#[command(name = "warmpath", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Find the pods, scrape their metrics, feed the filter in Envoy.
    Sidecar(Box<SidecarArgs>),
    /// Print what a running sidecar knows: endpoints, hit ratio, reasons, prefixes.
    ///
    /// Exit code: 0, 1 when no endpoint may be chosen, 2 when the sidecar could not be asked.
    Status(observe::StatusArgs),
    /// The same on the whole terminal, as it changes; `q` ends.
    Top(observe::TopArgs),
    /// Tell where a request would go now, and why. It goes nowhere.
    ///
    /// Exit code: 0, 1 when no endpoint may be chosen, 2 when nobody could be asked. docs/explain.md says what the columns mean.
    Explain(Box<observe::ExplainArgs>),
    /// Prove through the gateway that prompts are answered where they are cached.
    ///
    /// Exit code: 0 all thresholds held, 1 one did not, 2 it could not run. docs/validate.md says what is measured.
    Validate(Box<validate::ValidateArgs>),
}

/// Where endpoints come from: at least one of these, and all of them together if there are several. In an environment
/// variable, a list is separated by `;`.
#[derive(Args, Clone, Debug)]
#[group(id = "sources", required = true, multiple = true)]
pub struct Sources {
    /// JSON file that lists pools and their endpoints; read again whenever it changes.
    #[arg(long, env = "WARMPATH_ENDPOINTS", value_name = "FILE")]
    pub endpoints: Option<PathBuf>,
    /// Kubernetes: what this Service selects. PORT is the pods' port or the name of the Service's port, with
    /// `@SCRAPE_PORT` if metrics are on another: `llm-d/vllm:8000@9000=pool`. Can be repeated.
    #[arg(
        long,
        env = "WARMPATH_KUBERNETES_SERVICE",
        value_delimiter = ';',
        value_name = "NAMESPACE/SERVICE:PORT[,PORT…][=POOL]"
    )]
    pub kubernetes_service: Vec<ServiceTarget>,
    /// Kubernetes: pods with these labels: `llm-d/app=vllm,tier=decode:8000=pool`. Can be repeated.
    #[arg(
        long,
        env = "WARMPATH_KUBERNETES_PODS",
        value_delimiter = ';',
        value_name = "NAMESPACE/SELECTOR:PORT[,PORT…][=POOL]"
    )]
    pub kubernetes_pods: Vec<PodsTarget>,
    /// Kubernetes: the pods and target ports of this `InferencePool` (v1): `llm-d/vllm=pool`. Can be repeated.
    #[arg(
        long,
        env = "WARMPATH_KUBERNETES_INFERENCE_POOL",
        value_delimiter = ';',
        value_name = "NAMESPACE/NAME[@SCRAPE_PORT][=POOL]"
    )]
    pub kubernetes_inference_pool: Vec<InferencePoolTarget>,
}

/// Options of `warmpath sidecar`. Spans are written `900ms`, `1.5s`, `2m` or `1h`.
#[derive(Args, Clone, Debug)]
pub struct SidecarArgs {
    /// Where the endpoints come from.
    #[command(flatten)]
    pub sources: Sources,
    /// Time from one scrape of a pod to the next (10 % jitter, so that pods are not asked in step).
    #[arg(long, env = "WARMPATH_SCRAPE_INTERVAL", default_value = "1s", value_parser = parse_span)]
    pub scrape_interval: Duration,
    /// A scrape that takes longer makes its pod `late`: still chosen, by journal alone.
    #[arg(long, env = "WARMPATH_SCRAPE_TIMEOUT", default_value = "900ms", value_parser = parse_span)]
    pub scrape_timeout: Duration,
    /// A TCP connection that takes longer counts as refused: the pod's kernel accepts even while vLLM is busy.
    #[arg(long, env = "WARMPATH_CONNECT_TIMEOUT", default_value = "500ms", value_parser = parse_span)]
    pub connect_timeout: Duration,
    /// How long a late pod stays choosable after its last good scrape.
    #[arg(long, env = "WARMPATH_LATE_LIMIT", default_value = "20s", value_parser = parse_span)]
    pub late_limit: Duration,
    /// How soon a refused or failed scrape is tried again, before the pod counts as failing.
    #[arg(long, env = "WARMPATH_CONFIRM_AFTER", default_value = "200ms", value_parser = parse_span)]
    pub confirm_after: Duration,
    /// Time from one reading of `/v1/models` to the next.
    #[arg(long, env = "WARMPATH_MODELS_INTERVAL", default_value = "30s", value_parser = parse_span)]
    pub models_interval: Duration,
    /// Bearer token for `/v1/models`, where vLLM runs with `--api-key`.
    #[arg(long, env = "WARMPATH_POD_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub pod_api_key: Option<String>,
    /// Pods are asked over mutual TLS with the workload certificates in this folder (`cert-chain.pem`, `key.pem`,
    /// `root-cert.pem`), as Istio's agent writes them with `OUTPUT_CERTS`: for pods behind STRICT mTLS.
    #[arg(long, env = "WARMPATH_POD_CERTIFICATES", value_name = "DIR")]
    pub pod_certificates: Option<PathBuf>,
    /// Loads of several pods are gathered for this long before a table goes out (state changes go at once).
    #[arg(long, env = "WARMPATH_TABLE_DELAY", default_value = "100ms", value_parser = parse_span)]
    pub table_delay: Duration,
    /// Where `/healthz`, `/readyz`, `/metrics`, `/status`, `/events`, `/explain` and `/filter.wasm` are served; port 0 takes a free one.
    #[arg(long, env = "WARMPATH_HTTP_LISTEN", default_value = "127.0.0.1:9464", value_name = "IP:PORT")]
    pub http_listen: SocketAddr,
    /// Names by which those pages may be asked for, besides addresses, `localhost`, names without a dot and those of
    /// Kubernetes Services: of an ingress in front, say. Others are refused, since a web site could have them.
    #[arg(long, env = "WARMPATH_HTTP_HOSTS", value_delimiter = ';', value_name = "NAME[;NAME…]")]
    pub http_hosts: Vec<String>,
    /// Who says this as bearer token may ask `/explain` of a sidecar that listens beyond loopback. Without it nobody may
    /// there.
    #[arg(long, env = "WARMPATH_EXPLAIN_TOKEN", hide_env_values = true, value_name = "SECRET")]
    pub explain_token: Option<String>,
    /// Where Envoy's filter connects (gRPC, plain text); port 0 takes a free one.
    #[arg(long, env = "WARMPATH_FEED_LISTEN", default_value = "127.0.0.1:9465", value_name = "IP:PORT")]
    pub feed_listen: SocketAddr,
    /// How many feed streams may be open at once; one Envoy needs one for each plugin.
    #[arg(long, env = "WARMPATH_FEED_STREAMS", default_value_t = 64, value_name = "N")]
    pub feed_streams: usize,
    /// Slots a second that a refill sends: slow enough that the ring is not lapped by it.
    #[arg(long, env = "WARMPATH_REFILL_RATE", default_value_t = 256, value_name = "SLOTS")]
    pub refill_rate: u32,
    /// The sidecars of the gateway's other replicas: what one routes, all know.
    #[command(flatten)]
    pub peers: PeersArgs,
    /// Filter to serve at `/filter.wasm`.
    #[arg(long, env = "WARMPATH_FILTER", value_name = "FILE.wasm")]
    pub filter: Option<PathBuf>,
    /// How log lines look; `RUST_LOG` sets which there are (default `info`).
    #[arg(long, env = "WARMPATH_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// Options for peers. Without `--peers` and `--peers-service` there are none, and nothing listens for them.
#[derive(Args, Clone, Debug)]
pub struct PeersArgs {
    /// Peers by name or address; a name is looked up again every few seconds, and each address it has is a peer.
    #[arg(long, env = "WARMPATH_PEERS", value_delimiter = ';', value_name = "HOST:PORT")]
    pub peers: Vec<String>,
    /// Kubernetes: peers are what this headless Service selects; this sidecar may be among them.
    #[arg(long, env = "WARMPATH_PEERS_SERVICE", value_name = "NAMESPACE/SERVICE:PORT")]
    pub peers_service: Option<ServiceTarget>,
    /// Where peers connect (gRPC, plain text); port 0 takes a free one.
    #[arg(long, env = "WARMPATH_PEERS_LISTEN", default_value = "0.0.0.0:9466", value_name = "IP:PORT")]
    pub peers_listen: SocketAddr,
    /// A secret that all peers must know.
    #[arg(long, env = "WARMPATH_PEERS_TOKEN", hide_env_values = true, value_name = "SECRET")]
    pub peers_token: Option<String>,
}

impl PeersArgs {
    /// Whether there are to be peers.
    #[must_use]
    pub fn are_named(&self) -> bool {
        !self.peers.is_empty() || self.peers_service.is_some()
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For reading.
    Text,
}

/// Reads a span such as `900ms`, `1.5s`, `2m`, `1h`: more than zero, at most a day.
///
/// # Errors
/// A sentence saying what was expected.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    let number_end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(number_end);
    let scale = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{text:?} is not a span: write a number and ms, s, m or h, as in 900ms or 1.5s")),
    };
    let number: f64 = number.parse().map_err(|_| format!("{number:?} is not a number"))?;
    let seconds = number * scale;
    if (0.001..=86_400.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("{text} is out of range: 1ms to 24h"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_options_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn spans_have_units_and_bounds() {
        assert_eq!(parse_span("900ms"), Ok(Duration::from_millis(900)));
        assert_eq!(parse_span("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_span("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "5", "s", "-1s", "0s", "nan s", "NaNs", "1e9h", "25h", "1 fortnight"] {
            assert!(parse_span(bad).is_err(), "{bad}");
        }
    }

    fn sources(args: &[&str]) -> Result<Sources, String> {
        let cli = Cli::try_parse_from(["warmpath", "sidecar"].iter().chain(args)).map_err(|error| error.to_string())?;
        match cli.command {
            Command::Sidecar(args) => Ok(args.sources),
            _ => Err("not a sidecar".to_owned()),
        }
    }

    #[test]
    fn at_least_one_source_is_asked_for() {
        let error = sources(&[]).unwrap_err();
        assert!(error.contains("--endpoints") && error.contains("--kubernetes-service"), "{error}");
        assert!(sources(&["--endpoints", "f"]).is_ok());
        let error = sources(&["--kubernetes-service", "vllm"]).unwrap_err();
        assert!(error.contains("NAMESPACE/SERVICE:PORT"), "{error}");
    }

    #[test]
    fn sources_add_up_and_lists_are_separated_by_semicolons() {
        let got = sources(&[
            "--kubernetes-service",
            "a/b:1=p;a/c:1=q",
            "--kubernetes-service",
            "a/d:http",
            "--endpoints",
            "f",
        ]);
        let got = got.unwrap();
        assert_eq!(got.kubernetes_service.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["b", "c", "d"]);
        assert!(got.endpoints.is_some() && got.kubernetes_pods.is_empty());
        let got = sources(&["--kubernetes-pods", "n/app in (a,b),x=y:1,2=p"]).unwrap();
        assert_eq!(got.kubernetes_pods[0].selector, "app in (a,b),x=y");
    }

    #[test]
    fn every_option_has_an_environment_variable() {
        let cli = Cli::command();
        for sub in cli.get_subcommands() {
            let prefix = match sub.get_name() {
                "sidecar" => "WARMPATH_".to_owned(),
                name => format!("WARMPATH_{}_", name.to_uppercase()),
            };
            let all = sub.get_arguments().filter(|a| !["help", "version"].contains(&a.get_id().as_str()));
            for arg in all.filter(|a| !a.is_positional()) {
                let prefix = if arg.get_id() == "url" { "WARMPATH_" } else { &prefix };
                let env = arg.get_env().map(|e| e.to_string_lossy().into_owned());
                assert_eq!(env, Some(format!("{prefix}{}", arg.get_id().as_str().to_uppercase())));
            }
        }
    }
}
