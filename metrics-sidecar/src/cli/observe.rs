//! Options of `warmpath status`.

use crate::text::Color;
use clap::Args;

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
