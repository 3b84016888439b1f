//! The plugin's configuration: JSON, strict, with errors that name the place.

use crate::placement::{self, Weights, WhenSaturated};
use crate::units::{Seconds, Tokens};
use crate::view::ViewLimits;
use serde::Deserialize;

/// What the filter does with its decisions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Nothing: requests pass untouched and unread.
    Off,
    /// Decides, journals what Envoy really chose, counts what steering would have won. Steers nothing.
    Shadow,
    /// Names the endpoint.
    #[default]
    Steer,
}

impl Mode {
    /// The name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Shadow => "shadow",
            Self::Steer => "steer",
        }
    }
}

/// How the decision reaches Envoy's load balancer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wiring {
    /// Stock WasmPlugin: the decision is filter state, a buffer filter holds the request back, `header_mutation`
    /// makes it a header.
    #[default]
    Buffered,
    /// The wasm config allows stopping at the headers (`allow_on_headers_stop_iteration`): the filter sets the header
    /// itself and bodies stream through.
    Streaming,
}

/// Endpoints that serve one set of models.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// As the endpoint table names it.
    pub name: String,
    /// Models and LoRA adapters; a `*` at the end stands for anything. Empty: what no other pool claims.
    #[serde(default)]
    pub models: Vec<String>,
}

/// Placement weights; see `docs/configuration.md`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Placement {
    /// See [`ViewLimits::prior_base`], in ms.
    pub base_ttft_ms: f64,
    /// See [`ViewLimits::prior_per_decode`], in ms.
    pub decode_penalty_ms: f64,
    /// See [`Weights::foreign_penalty`], in ms.
    pub foreign_penalty_ms: f64,
    /// See [`Weights::adapter_load`], in ms.
    pub adapter_load_ms: f64,
    /// See [`Weights::eviction_horizon`], in s.
    pub eviction_horizon_s: f64,
    /// See [`Weights::spill_ratio`].
    pub spill_ratio: f64,
    /// See [`Weights::spill_margin`], in ms.
    pub spill_margin_ms: f64,
    /// See [`Weights::tie_ratio`].
    pub tie_ratio: f64,
    /// Tokens a second until the first answers show it.
    pub prior_prefill_rate: f64,
    /// Cache size in tokens of an endpoint that does not tell it.
    pub default_capacity_tokens: u64,
}

impl Default for Placement {
    fn default() -> Self {
        let (w, v) = (Weights::default(), ViewLimits::default());
        Self {
            base_ttft_ms: v.prior_base.0 * 1000.0,
            decode_penalty_ms: v.prior_per_decode.0 * 1000.0,
            foreign_penalty_ms: w.foreign_penalty.0 * 1000.0,
            adapter_load_ms: w.adapter_load.0 * 1000.0,
            eviction_horizon_s: w.eviction_horizon.0,
            spill_ratio: w.spill_ratio,
            spill_margin_ms: w.spill_margin.0 * 1000.0,
            tie_ratio: w.tie_ratio,
            prior_prefill_rate: v.prior_prefill_rate,
            default_capacity_tokens: v.default_capacity.0,
        }
    }
}

impl Placement {
    /// As the policy takes them.
    #[must_use]
    pub fn weights(&self) -> Weights {
        Weights {
            foreign_penalty: Seconds(self.foreign_penalty_ms * 0.001),
            adapter_load: Seconds(self.adapter_load_ms * 0.001),
            eviction_horizon: Seconds(self.eviction_horizon_s),
            spill_ratio: self.spill_ratio,
            spill_margin: Seconds(self.spill_margin_ms * 0.001),
            tie_ratio: self.tie_ratio,
        }
    }
}

/// When an endpoint has enough; see [`placement::Saturation`]. No limit is set by default.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Saturation {
    /// See [`placement::Limits::waiting`].
    pub max_waiting: Option<u32>,
    /// See [`placement::Limits::kv_usage`].
    pub max_kv_usage: Option<f64>,
    /// See [`placement::Limits::ttft`], in ms.
    pub max_ttft_ms: Option<f64>,
    /// When all endpoints are over the limits.
    pub when_saturated: WhenSaturated,
    /// The header that carries a request's priority, a whole number; see [`placement::Priority`]. Empty: all are equal.
    pub priority_header: String,
    /// See [`placement::Saturation::low_priority_share`].
    pub low_priority_share: f64,
}

impl Default for Saturation {
    fn default() -> Self {
        let rule = placement::Saturation::default();
        Self {
            max_waiting: None,
            max_kv_usage: None,
            max_ttft_ms: None,
            when_saturated: rule.then,
            priority_header: String::new(),
            low_priority_share: rule.low_priority_share,
        }
    }
}

impl Saturation {
    /// As placement takes it.
    #[must_use]
    pub fn rule(&self) -> placement::Saturation {
        placement::Saturation {
            limits: placement::Limits {
                waiting: self.max_waiting,
                kv_usage: self.max_kv_usage,
                ttft: self.max_ttft_ms.map(|ms| Seconds(ms * 0.001)),
            },
            then: self.when_saturated,
            low_priority_share: self.low_priority_share,
        }
    }
}

/// Bounds on memory and work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Streaming wiring: a prompt that is not complete after this many bytes is placed by load. One more read may come
    /// before that, so the route's `request_body_buffer_limit` must be at least this plus
    /// `per_connection_buffer_limit_bytes` (1 MiB), or Envoy answers 413.
    pub decide_at_bytes: usize,
    /// Boundaries in the index of each VM (about 100 bytes each).
    pub max_index_entries: usize,
    /// Requests in flight that are kept track of.
    pub max_in_flight: usize,
    /// Stored answers of `/v1/responses` whose endpoint is remembered.
    pub max_stored_responses: usize,
    /// Slots of the journal's ring, taken up to a power of two. The same in all VMs.
    pub journal_slots: u32,
    /// Slots folded in one callback at most.
    pub fold_slots: u32,
    /// Endpoints named to Envoy: the choice and where retries go.
    pub choices: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            decide_at_bytes: 900_000,
            max_index_entries: 500_000,
            max_in_flight: 65_536,
            max_stored_responses: 65_536,
            journal_slots: 4096,
            fold_slots: 256,
            choices: 3,
        }
    }
}

/// A secret that is shorter could be tried out.
const LEAST_SECRET: usize = 16;

/// The whole configuration. All members have defaults: `{}` is a good configuration.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Names the journal and the feed. Plugins of one gateway with the same name share one view.
    pub name: String,
    /// What to do.
    pub mode: Mode,
    /// Of the requests in `steer` mode, how many percent are steered; the others are only watched.
    pub steer_percent: f64,
    /// How.
    pub wiring: Wiring,
    /// What stands before vLLM's paths at this gateway, such as `/llm`.
    pub path_prefix: String,
    /// Streaming wiring: the header that gets the request's model, for routes that match on it, such as
    /// `x-gateway-model-name`. A client's own is removed from LLM requests. Empty: none.
    pub model_header: String,
    /// Envoy's name for the cluster of the sidecar's feed. Empty: no sidecar.
    pub sidecar_cluster: String,
    /// Pools by model. Empty: all endpoints of the table are one pool.
    pub pools: Vec<Pool>,
    /// How endpoints are compared.
    pub placement: Placement,
    /// When endpoints have enough.
    pub saturation: Saturation,
    /// Bounds.
    pub limits: Limits,
    /// Response headers `x-warmpath-…` that tell of the decision. For tests and debugging: they show a client which
    /// pod it got and how warm that was.
    pub debug_headers: bool,
    /// Who knows it may ask why: a request with this in the header `x-warmpath-explain` is answered by the filter with
    /// an [`crate::explain::Explanation`] and goes nowhere. Empty: nobody may.
    pub explain_secret: String,
    /// The decision as filter state, for access logs and spans.
    pub log_fields: bool,
    /// False: no stats are defined. To measure what they cost.
    pub stats: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "default".to_owned(),
            mode: Mode::default(),
            steer_percent: 100.0,
            wiring: Wiring::default(),
            path_prefix: String::new(),
            model_header: String::new(),
            sidecar_cluster: "warmpath-sidecar".to_owned(),
            pools: Vec::new(),
            placement: Placement::default(),
            saturation: Saturation::default(),
            limits: Limits::default(),
            debug_headers: false,
            explain_secret: String::new(),
            log_fields: false,
            stats: true,
        }
    }
}

/// Where the configuration is wrong, and what was expected there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// JSON path, such as `placement.spill_ratio`.
    pub path: String,
    /// What is wrong and what was expected.
    pub message: String,
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "pluginConfig, at {}: {}", self.path, self.message)
    }
}

impl Config {
    /// Reads a configuration. Nothing at all stands for `{}`.
    ///
    /// # Errors
    /// [`ConfigError`] with the JSON path of what is wrong.
    pub fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        if json.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        // Serde would take a list as the members in their order.
        if json.trim_ascii_start().first() != Some(&b'{') {
            return Err(ConfigError { path: "the top level".to_owned(), message: "expected a JSON object".to_owned() });
        }
        let mut json = serde_json::Deserializer::from_slice(json);
        let config: Self = serde_path_to_error::deserialize(&mut json).map_err(|e| ConfigError {
            path: Some(e.path().to_string())
                .filter(|p| p != "." && !p.is_empty())
                .unwrap_or_else(|| "the top level".to_owned()),
            message: e.inner().to_string(),
        })?;
        json.end().map_err(|e| ConfigError { path: "the end".to_owned(), message: e.to_string() })?;
        config.check()?;
        Ok(config)
    }

    /// A configuration without what is secret in it, for the sidecar. Nothing of one that is no JSON object.
    #[must_use]
    pub fn without_secrets(json: &[u8]) -> Vec<u8> {
        let members = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(json);
        members
            .and_then(|mut members| {
                members.remove("explain_secret");
                serde_json::to_vec(&members)
            })
            .unwrap_or_default()
    }

    fn check(&self) -> Result<(), ConfigError> {
        let l = &self.limits;
        let p = &self.placement;
        range("steer_percent", self.steer_percent, 0.0, 100.0)?;
        range("placement.base_ttft_ms", p.base_ttft_ms, 0.0, 60_000.0)?;
        range("placement.decode_penalty_ms", p.decode_penalty_ms, 0.0, 60_000.0)?;
        range("placement.foreign_penalty_ms", p.foreign_penalty_ms, 0.0, 60_000.0)?;
        range("placement.adapter_load_ms", p.adapter_load_ms, 0.0, 600_000.0)?;
        range("placement.eviction_horizon_s", p.eviction_horizon_s, 0.0, 86_400.0)?;
        range("placement.spill_ratio", p.spill_ratio, 1.0, 1000.0)?;
        range("placement.spill_margin_ms", p.spill_margin_ms, 0.0, 600_000.0)?;
        range("placement.tie_ratio", p.tie_ratio, 1.0, 10.0)?;
        range("placement.prior_prefill_rate", p.prior_prefill_rate, 1.0, 1e9)?;
        range("placement.default_capacity_tokens", p.default_capacity_tokens as f64, 1.0, 1e12)?;
        range("limits.decide_at_bytes", l.decide_at_bytes as f64, 1024.0, 1e9)?;
        range("limits.max_index_entries", l.max_index_entries as f64, 1000.0, 8e6)?;
        range("limits.max_in_flight", l.max_in_flight as f64, 16.0, 4e6)?;
        range("limits.max_stored_responses", l.max_stored_responses as f64, 1.0, 4e6)?;
        range("limits.journal_slots", f64::from(l.journal_slots), 64.0, 65_536.0)?;
        range("limits.fold_slots", f64::from(l.fold_slots), 8.0, 65_536.0)?;
        range("limits.choices", l.choices as f64, 1.0, 16.0)?;
        let s = &self.saturation;
        range("saturation.max_kv_usage", s.max_kv_usage.unwrap_or(1.0), 0.0, 1.0)?;
        range("saturation.max_ttft_ms", s.max_ttft_ms.unwrap_or(1.0), 1.0, 3_600_000.0)?;
        range("saturation.low_priority_share", s.low_priority_share, 0.0, 1.0)?;
        header("saturation.priority_header", &s.priority_header, "x-priority")?;
        header("model_header", &self.model_header, "x-gateway-model-name")?;
        if !self.model_header.is_empty() && self.wiring == Wiring::Buffered {
            return error(
                "model_header",
                "needs `wiring: streaming`: in the buffered wiring headers have gone on before the model is read",
            );
        }
        if (1..LEAST_SECRET).contains(&self.explain_secret.len()) {
            return error("explain_secret", "too short, expected nothing or at least 16 bytes");
        }
        name("name", &self.name)?;
        for (i, pool) in self.pools.iter().enumerate() {
            name(&format!("pools[{i}].name"), &pool.name)?;
            if self.pools.iter().take(i).any(|other| other.name == pool.name) {
                return error(
                    format!("pools[{i}].name"),
                    format!("`{}` stands twice, expected another name", pool.name),
                );
            }
        }
        if !self.path_prefix.is_empty() && (!self.path_prefix.starts_with('/') || self.path_prefix.ends_with('/')) {
            return error("path_prefix", "expected an empty string or a path such as `/llm`: a slash first, none last");
        }
        Ok(())
    }

    /// The place of the pool that serves `model`, by name; otherwise the one without models. One past the end when
    /// none does: no endpoint then.
    #[must_use]
    pub fn pool_of(&self, model: Option<&str>) -> usize {
        let claims = |p: &&str, model: &str| match p.strip_suffix('*') {
            Some(start) => model.starts_with(start),
            None => *p == model,
        };
        model
            .and_then(|m| self.pools.iter().position(|p| p.models.iter().any(|c| claims(&c.as_str(), m))))
            .or_else(|| self.pools.iter().position(|p| p.models.is_empty()))
            .unwrap_or(self.pools.len())
    }

    /// The name that endpoints of the pool carry, `None` when any will do.
    #[must_use]
    pub fn pool_name(&self, pool: usize) -> Option<&str> {
        if self.pools.is_empty() { None } else { Some(self.pools.get(pool).map_or("", |p| p.name.as_str())) }
    }

    /// Names of the pools for stats: those configured, or the one that stands for all.
    pub fn pool_names(&self) -> impl Iterator<Item = &str> {
        self.pools.iter().map(|p| p.name.as_str()).chain(std::iter::once(if self.pools.is_empty() {
            "all"
        } else {
            "none"
        }))
    }

    /// Bounds and priors of the view.
    #[must_use]
    pub fn view_limits(&self) -> ViewLimits {
        ViewLimits {
            max_entries: self.limits.max_index_entries,
            max_in_flight: self.limits.max_in_flight,
            max_stored: self.limits.max_stored_responses,
            default_capacity: Tokens(self.placement.default_capacity_tokens),
            prior_prefill_rate: self.placement.prior_prefill_rate,
            prior_base: Seconds(self.placement.base_ttft_ms * 0.001),
            prior_per_decode: Seconds(self.placement.decode_penalty_ms * 0.001),
            ..ViewLimits::default()
        }
    }
}

fn range(path: &str, value: f64, least: f64, most: f64) -> Result<(), ConfigError> {
    if value >= least && value <= most {
        Ok(())
    } else {
        error(path, format!("{value} is out of range, expected {least} to {most}"))
    }
}

/// A header's name, or nothing.
fn header(path: &str, value: &str, example: &str) -> Result<(), ConfigError> {
    let is_token = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    if value.len() > 100 || !value.bytes().all(is_token) {
        return error(path, format!("`{value}` is no header name in lower case, such as `{example}`"));
    }
    Ok(())
}

fn name(path: &str, value: &str) -> Result<(), ConfigError> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    if !value.is_empty() && value.len() <= 63 && value.bytes().all(fits) {
        Ok(())
    } else {
        error(path, format!("`{value}` is no name, expected 1 to 63 letters, digits, `-` or `_`"))
    }
}

fn error(path: impl Into<String>, message: impl Into<String>) -> Result<(), ConfigError> {
    Err(ConfigError { path: path.into(), message: message.into() })
}

#[cfg(test)]
mod tests;
