//! Options of `warmpath validate`.

use super::parse_span;
use clap::{Args, ValueEnum};
use hyper::Uri;
use std::path::PathBuf;
use std::time::Duration;

const WHERE: &str = "Where to send";
const WHAT: &str = "What to send";
const JUDGE: &str = "What must hold";
const REPORT: &str = "Where results go, besides the terminal";

/// Options of `warmpath validate`. Spans are written `900ms`, `1.5s`, `2m` or `1h`.
#[derive(Args, Clone, Debug)]
pub struct ValidateArgs {
    /// The gateway.
    #[arg(long, env = "WARMPATH_VALIDATE_GATEWAY", value_name = "http[s]://HOST[:PORT]", help_heading = WHERE)]
    pub gateway: Uri,
    /// Model to ask for; may be left out where `/v1/models` lists only one.
    #[arg(long, env = "WARMPATH_VALIDATE_MODEL", value_name = "NAME", help_heading = WHERE)]
    pub model: Option<String>,
    /// API to use; `completions` for models without a chat template.
    #[arg(long, env = "WARMPATH_VALIDATE_API", value_enum, default_value_t = Api::Chat, help_heading = WHERE)]
    pub api: Api,
    /// What stands in front of `/v1/…` at the gateway.
    #[arg(long, env = "WARMPATH_VALIDATE_PATH_PREFIX", default_value = "", value_name = "PATH", help_heading = WHERE)]
    pub path_prefix: String,
    /// Host header, and the name in TLS, where the gateway's routes want another than that of its URL.
    #[arg(long, env = "WARMPATH_VALIDATE_HOST", value_name = "NAME", help_heading = WHERE)]
    pub host: Option<String>,
    /// Bearer token.
    #[arg(long, env = "WARMPATH_VALIDATE_API_KEY", hide_env_values = true, value_name = "KEY", help_heading = WHERE)]
    pub api_key: Option<String>,
    /// Certificates (PEM) to trust besides the system's.
    #[arg(long, env = "WARMPATH_VALIDATE_CA", value_name = "FILE", help_heading = WHERE)]
    pub ca: Option<PathBuf>,
    /// Take any certificate of the gateway.
    #[arg(long, env = "WARMPATH_VALIDATE_INSECURE", help_heading = WHERE)]
    pub insecure: bool,
    /// The pods, to compare what answers say with their own counters: `http://10.0.0.1:8000,…`.
    #[arg(
        long,
        env = "WARMPATH_VALIDATE_PODS",
        value_delimiter = ',',
        value_name = "URL",
        conflicts_with = "sidecar",
        help_heading = WHERE
    )]
    pub pods: Vec<String>,
    /// The same by way of warmpath's sidecar: `http://HOST:9464`.
    #[arg(long, env = "WARMPATH_VALIDATE_SIDECAR", value_name = "URL", help_heading = WHERE)]
    pub sidecar: Option<String>,

    /// What is played.
    #[arg(long, env = "WARMPATH_VALIDATE_VARIANT", value_enum, default_value_t = Variant::Standard, help_heading = WHAT)]
    pub variant: Variant,
    /// Different prompts that are repeated.
    #[arg(long, env = "WARMPATH_VALIDATE_PROMPTS", default_value_t = 12, value_parser = count(1), value_name = "N", help_heading = WHAT)]
    pub prompts: u32,
    /// How often each of them is repeated.
    #[arg(long, env = "WARMPATH_VALIDATE_ROUNDS", default_value_t = 5, value_parser = count(1), value_name = "N", help_heading = WHAT)]
    pub rounds: u32,
    /// Conversations, in which each turn brings all turns before.
    #[arg(long, env = "WARMPATH_VALIDATE_SESSIONS", default_value_t = 8, value_parser = count(0), value_name = "N", help_heading = WHAT)]
    pub sessions: u32,
    /// Turns of a conversation.
    #[arg(long, env = "WARMPATH_VALIDATE_TURNS", default_value_t = 5, value_parser = count(1), value_name = "N", help_heading = WHAT)]
    pub turns: u32,
    /// The control group: prompts that nobody has sent before.
    #[arg(long, env = "WARMPATH_VALIDATE_CONTROLS", default_value_t = 24, value_parser = count(1), value_name = "N", help_heading = WHAT)]
    pub controls: u32,
    /// Length of a prompt, and of a conversation's first turn.
    #[arg(long, env = "WARMPATH_VALIDATE_PROMPT_TOKENS", default_value_t = 4000, value_parser = clap::value_parser!(u32).range(64..=2_000_000), value_name = "TOKENS", help_heading = WHAT)]
    pub prompt_tokens: u32,
    /// Length of an answer.
    #[arg(long, env = "WARMPATH_VALIDATE_ANSWER_TOKENS", default_value_t = 16, value_parser = count(1), value_name = "TOKENS", help_heading = WHAT)]
    pub answer_tokens: u32,
    /// Requests in flight at once.
    #[arg(long, env = "WARMPATH_VALIDATE_CONCURRENCY", default_value_t = 4, value_parser = count(1), value_name = "N", help_heading = WHAT)]
    pub concurrency: u32,
    /// `ramp`: the steps of requests in flight.
    #[arg(
        long,
        env = "WARMPATH_VALIDATE_STEPS",
        value_delimiter = ',',
        default_value = "1,2,4,8,16",
        value_parser = count(1),
        value_name = "N",
        help_heading = WHAT
    )]
    pub steps: Vec<u32>,
    /// `pod-restart`: shell command that restarts a pod and returns when it is back. Without it, you are asked to.
    #[arg(long, env = "WARMPATH_VALIDATE_RESTART_COMMAND", value_name = "COMMAND", help_heading = WHAT)]
    pub restart_command: Option<String>,
    /// A request that takes longer has failed.
    #[arg(long, env = "WARMPATH_VALIDATE_TIMEOUT", default_value = "2m", value_parser = parse_span, value_name = "SPAN", help_heading = WHAT)]
    pub timeout: Duration,
    /// Makes the prompts. The same seed makes the same prompts, which are then warm from the start; by default another
    /// each time.
    #[arg(long, env = "WARMPATH_VALIDATE_SEED", value_name = "NUMBER", help_heading = WHAT)]
    pub seed: Option<u64>,

    /// Least share of the repeatable tokens that were found in the cache.
    #[arg(long, env = "WARMPATH_VALIDATE_MIN_HIT_RATIO", default_value_t = 90.0, value_parser = percent, value_name = "PERCENT", help_heading = JUDGE)]
    pub min_hit_ratio: f64,
    /// Least improvement of the median TTFT, against the control group.
    #[arg(long, env = "WARMPATH_VALIDATE_MIN_TTFT_IMPROVEMENT", default_value_t = 70.0, value_parser = percent, value_name = "PERCENT", help_heading = JUDGE)]
    pub min_ttft_improvement: f64,
    /// Most requests that may fail.
    #[arg(long, env = "WARMPATH_VALIDATE_MAX_FAILED", default_value_t = 0, value_name = "N", help_heading = JUDGE)]
    pub max_failed: u32,
    /// `pod-restart`: most requests that may miss the cache from the restart on; by default two for each prompt.
    #[arg(long, env = "WARMPATH_VALIDATE_RECOVER_WITHIN", value_name = "N", help_heading = JUDGE)]
    pub recover_within: Option<u32>,

    /// The whole report as JSON.
    #[arg(long, env = "WARMPATH_VALIDATE_JSON", value_name = "FILE", help_heading = REPORT)]
    pub json: Option<PathBuf>,
    /// A test case for each threshold, as JUnit's XML.
    #[arg(long, env = "WARMPATH_VALIDATE_JUNIT", value_name = "FILE", help_heading = REPORT)]
    pub junit: Option<PathBuf>,
    /// A small file for each main figure, as Tekton wants results.
    #[arg(long, env = "WARMPATH_VALIDATE_RESULTS", value_name = "FOLDER", help_heading = REPORT)]
    pub results: Option<PathBuf>,
    /// Do not tell on stderr how far it is.
    #[arg(long, env = "WARMPATH_VALIDATE_QUIET", help_heading = REPORT)]
    pub quiet: bool,
}

/// Which of vLLM's APIs is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Api {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completions,
}

/// What is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Variant {
    /// Repeated prompts, conversations, and a control group.
    Standard,
    /// The same, and a pod is restarted in the middle.
    PodRestart,
    /// Repeated prompts and a control group, with more and more requests in flight.
    Ramp,
}

/// A number from `least` to what no run needs more of.
fn count(least: i64) -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(least..=100_000)
}

fn percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').trim_end().parse::<f64>() {
        Ok(value) if (0.0..=100.0).contains(&value) => Ok(value),
        _ => Err(format!("{text:?} is no share: write a number from 0 to 100")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Cli, Command};
    use super::*;
    use clap::Parser;

    fn parse(args: &[&str]) -> Result<ValidateArgs, String> {
        let all = ["warmpath", "validate", "--gateway", "http://g"].iter().chain(args);
        match Cli::try_parse_from(all).map_err(|error| error.to_string())?.command {
            Command::Validate(args) => Ok(*args),
            _ => Err("not validate".to_owned()),
        }
    }

    #[test]
    fn lists_are_separated_by_commas() {
        let args = parse(&["--pods", "http://a:1,b:2", "--steps", "1,3"]).unwrap();
        assert_eq!((args.pods, args.steps), (vec!["http://a:1".to_owned(), "b:2".to_owned()], vec![1, 3]));
        assert_eq!(parse(&[]).unwrap().steps, [1, 2, 4, 8, 16]);
    }

    #[test]
    fn shares_are_percents() {
        assert_eq!(parse(&["--min-hit-ratio", "85.5%"]).unwrap().min_hit_ratio, 85.5);
        for bad in ["101", "-1", "NaN", "much"] {
            assert!(parse(&[&format!("--min-hit-ratio={bad}")]).unwrap_err().contains("0 to 100"), "{bad}");
        }
    }

    #[test]
    fn pods_and_sidecar_exclude_each_other() {
        assert!(parse(&["--pods", "a:1", "--sidecar", "http://b:2"]).is_err());
    }
}
