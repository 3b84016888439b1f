//! Options of `warmpath status`, `warmpath top` and `warmpath explain`.

use crate::text::Color;
use clap::Args;
use hyper::Uri;
use std::path::PathBuf;

/// Options of `warmpath status`.
#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    /// The sidecar's HTTP address.
    #[arg(long, env = "WARMPATH_URL", default_value = "http://127.0.0.1:9464")]
    pub url: String,
    /// The page as JSON, as `/status` has it.
    #[arg(long, env = "WARMPATH_STATUS_JSON")]
    pub json: bool,
    /// When there is colour; `auto`: on a terminal, unless `NO_COLOR` is set.
    #[arg(long, env = "WARMPATH_STATUS_COLOR", value_enum, default_value_t)]
    pub color: Color,
}

/// Options of `warmpath top`.
#[derive(Args, Clone, Debug)]
pub struct TopArgs {
    /// The sidecar's HTTP address.
    #[arg(long, env = "WARMPATH_URL", default_value = "http://127.0.0.1:9464")]
    pub url: String,
}

/// Options of `warmpath explain`.
#[derive(Args, Clone, Debug)]
pub struct ExplainArgs {
    /// Body of the request, `-` or nothing for stdin.
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Path of the request.
    #[arg(long, env = "WARMPATH_EXPLAIN_PATH", default_value = "/v1/chat/completions")]
    pub path: String,
    /// The sidecar's HTTP address.
    #[arg(long, env = "WARMPATH_URL", default_value = "http://127.0.0.1:9464")]
    pub url: String,
    /// By the view of this plugin, where there are several.
    #[arg(long, env = "WARMPATH_EXPLAIN_PLUGIN", value_name = "NAME", conflicts_with = "gateway")]
    pub plugin: Option<String>,
    /// What the sidecar was given as `--explain-token`, if it listens beyond loopback.
    #[arg(long, env = "WARMPATH_EXPLAIN_TOKEN", hide_env_values = true, value_name = "SECRET")]
    pub token: Option<String>,
    /// Ask the filter in this gateway instead of the sidecar.
    #[arg(long, env = "WARMPATH_EXPLAIN_GATEWAY", value_name = "http[s]://HOST[:PORT]", requires = "secret")]
    pub gateway: Option<Uri>,
    /// The plugin's `explain_secret`.
    #[arg(long, env = "WARMPATH_EXPLAIN_SECRET", hide_env_values = true, value_name = "SECRET")]
    pub secret: Option<String>,
    /// Host header, and the name in TLS, where the gateway's routes want another than that of its URL.
    #[arg(long, env = "WARMPATH_EXPLAIN_HOST", value_name = "NAME")]
    pub host: Option<String>,
    /// Certificates (PEM) to trust besides the system's.
    #[arg(long, env = "WARMPATH_EXPLAIN_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Take any certificate of the gateway.
    #[arg(long, env = "WARMPATH_EXPLAIN_INSECURE")]
    pub insecure: bool,
    /// The explanation as JSON.
    #[arg(long, env = "WARMPATH_EXPLAIN_JSON")]
    pub json: bool,
    /// When there is colour; `auto`: on a terminal, unless `NO_COLOR` is set.
    #[arg(long, env = "WARMPATH_EXPLAIN_COLOR", value_enum, default_value_t)]
    pub color: Color,
}

#[cfg(test)]
mod tests {
    use super::super::{Cli, Command};
    use super::*;
    use clap::Parser;

    fn parse(args: &[&str]) -> Result<ExplainArgs, String> {
        let all = ["warmpath", "explain"].iter().chain(args);
        match Cli::try_parse_from(all).map_err(|error| error.to_string())?.command {
            Command::Explain(args) => Ok(*args),
            _ => Err("not explain".to_owned()),
        }
    }

    #[test]
    fn a_gateway_is_asked_with_its_secret() {
        let args = parse(&["--gateway", "https://g", "--secret", "s", "body.json"]).unwrap();
        assert_eq!((args.gateway.unwrap().host(), args.file), (Some("g"), Some("body.json".into())));
        assert!(parse(&["--gateway", "https://g"]).unwrap_err().contains("--secret"));
        assert_eq!(parse(&["-"]).unwrap().file, Some("-".into()));
    }
}
