//! What vLLM's metrics page says about each engine. Tolerant of versions: names changed over time, labels come and go,
//! and a value that cannot be read is a value not known.
//!
//! | meaning | name | older name |
//! | --- | --- | --- |
//! | requests in batches | `vllm:num_requests_running` | |
//! | requests waiting | `vllm:num_requests_waiting` | |
//! | share of the KV cache in use, 0 to 1 | `vllm:kv_cache_usage_perc` | `vllm:gpu_cache_usage_perc` |
//! | tokens looked up, tokens found | `vllm:prefix_cache_queries_total`, `…_hits_total` | `vllm:gpu_prefix_cache_…` |
//! | block size and number of blocks | `vllm:cache_config_info{block_size,num_gpu_blocks}` | |
//! | adapters in use, and how many fit | `vllm:lora_requests_info{running_lora_adapters,waiting_lora_adapters,max_lora}` | |
//! | asleep | `vllm:engine_sleep_state{sleep_state="awake"}` 0 | |
//! | start of the process | `process_start_time_seconds` | |

use crate::pods::adapters::MAX_ADAPTERS;
use crate::pods::models::LONGEST_NAME;
use crate::pods::page::{Sample, samples};
use std::collections::BTreeMap;
use warmpath_core::table::Load;
use warmpath_core::units::Tokens;

/// More engines than any pod has; a page with more is not believed.
const MAX_ENGINES: usize = 256;

/// What a page says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// Start of the process, as written: compared, never calculated with.
    pub process_start: Option<String>,
    /// Each engine, in the order of their labels (as numbers where they are).
    pub engines: Vec<Engine>,
    /// Adapters that run or wait, as of the newest entry.
    pub adapters: Vec<String>,
    /// How many adapters fit on the GPU at once; 0 when not known.
    pub max_adapters: u32,
}

/// One engine: one scheduler, one KV cache.
#[derive(Clone, Debug, PartialEq)]
pub struct Engine {
    /// The `engine` label; empty where there is none.
    pub label: String,
    /// Requests and cache usage.
    pub load: Load,
    /// Tokens in one block; 0 when not known.
    pub block_size: u32,
    /// Size of the cache; 0 when not known.
    pub capacity: Tokens,
    /// Tokens looked up in the prefix cache.
    pub queries: f64,
    /// Tokens found there.
    pub hits: f64,
    /// False while it sleeps.
    pub awake: bool,
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            label: String::new(),
            load: Load::default(),
            block_size: 0,
            capacity: Tokens(0),
            queries: 0.0,
            hits: 0.0,
            awake: true,
        }
    }
}

/// Why a page is of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PageError {
    /// Nothing on it is vLLM's load.
    NoEngine,
    /// It names more engines than can be.
    TooManyEngines,
}

impl std::fmt::Display for PageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoEngine => f.write_str(
                "no vllm:num_requests_running on the page: expected vLLM's /metrics (not with --disable-log-stats)",
            ),
            Self::TooManyEngines => write!(f, "more than {MAX_ENGINES} values of the label `engine`"),
        }
    }
}

/// Reads a page.
///
/// # Errors
/// [`PageError`] when it is not vLLM's.
pub fn read(page: &[u8]) -> Result<Page, PageError> {
    let mut engines: BTreeMap<(u32, String), Seen> = BTreeMap::new();
    let mut config_for_all = None;
    let mut out = Page::default();
    let mut adapters_at = f64::NEG_INFINITY;
    for sample in samples(page) {
        match sample.name {
            "process_start_time_seconds" => out.process_start = Some(sample.text.to_owned()),
            "vllm:lora_requests_info" if sample.value >= adapters_at => {
                adapters_at = sample.value;
                out.adapters = adapters(&sample);
                out.max_adapters = sample.label("max_lora").and_then(|v| v.parse().ok()).unwrap_or(0);
            }
            name if is_read(name) => {
                let key = match sample.label("engine") {
                    Some(label) => (label.parse().unwrap_or(u32::MAX), label.into_owned()),
                    None => (0, String::new()),
                };
                if name == "vllm:cache_config_info" && key.1.is_empty() {
                    config_for_all = Some(capacity(&sample));
                    continue;
                }
                let seen = engines.entry(key).or_default();
                seen.has_load |= name == "vllm:num_requests_running";
                take(&mut seen.engine, &sample);
                if engines.len() > MAX_ENGINES {
                    return Err(PageError::TooManyEngines);
                }
            }
            _ => {}
        }
    }
    for ((_, label), Seen { mut engine, has_load }) in engines {
        if !has_load {
            continue;
        }
        if engine.block_size == 0 {
            (engine.block_size, engine.capacity) = config_for_all.unwrap_or_default();
        }
        out.engines.push(Engine { label, ..engine });
    }
    if out.engines.is_empty() { Err(PageError::NoEngine) } else { Ok(out) }
}

/// An engine so far. One that has no load of its own is no engine: a version that leaves the label off one metric
/// must not look as if it had one more.
#[derive(Default)]
struct Seen {
    engine: Engine,
    has_load: bool,
}

fn is_read(name: &str) -> bool {
    matches!(
        name,
        "vllm:num_requests_running"
            | "vllm:num_requests_waiting"
            | "vllm:kv_cache_usage_perc"
            | "vllm:gpu_cache_usage_perc"
            | "vllm:prefix_cache_queries_total"
            | "vllm:prefix_cache_queries"
            | "vllm:gpu_prefix_cache_queries_total"
            | "vllm:gpu_prefix_cache_queries"
            | "vllm:prefix_cache_hits_total"
            | "vllm:prefix_cache_hits"
            | "vllm:gpu_prefix_cache_hits_total"
            | "vllm:gpu_prefix_cache_hits"
            | "vllm:cache_config_info"
            | "vllm:engine_sleep_state"
    )
}

fn take(engine: &mut Engine, sample: &Sample<'_>) {
    let value = if sample.value.is_finite() { sample.value.max(0.0) } else { 0.0 };
    match sample.name {
        // Several `model_name`s of one engine add up.
        "vllm:num_requests_running" => engine.load.running = engine.load.running.saturating_add(value as u32),
        "vllm:num_requests_waiting" => engine.load.waiting = engine.load.waiting.saturating_add(value as u32),
        // Versions between carry both names with the same value.
        "vllm:kv_cache_usage_perc" | "vllm:gpu_cache_usage_perc" => {
            engine.load.kv_usage = engine.load.kv_usage.max((value as f32).min(1.0));
        }
        "vllm:cache_config_info" => (engine.block_size, engine.capacity) = capacity(sample),
        "vllm:engine_sleep_state" if sample.label("sleep_state").as_deref() == Some("awake") => {
            engine.awake = value > 0.0
        }
        name if name.contains("queries") => engine.queries = engine.queries.max(value),
        name if name.contains("hits") => engine.hits = engine.hits.max(value),
        _ => {}
    }
}

/// Block size and capacity; "None", which stands there while vLLM does not know, is 0.
fn capacity(sample: &Sample<'_>) -> (u32, Tokens) {
    let number = |label: &str| sample.label(label).and_then(|v| v.parse::<u32>().ok()).unwrap_or(0);
    let block_size = number("block_size");
    (block_size, Tokens(u64::from(block_size) * u64::from(number("num_gpu_blocks"))))
}

fn adapters(sample: &Sample<'_>) -> Vec<String> {
    let mut out = Vec::new();
    for label in ["running_lora_adapters", "waiting_lora_adapters"] {
        for name in sample.label(label).iter().flat_map(|list| list.split(',')).map(str::trim) {
            if (1..=LONGEST_NAME).contains(&name.len())
                && out.len() < MAX_ADAPTERS
                && !out.iter().any(|known| known == name)
            {
                out.push(name.to_owned());
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_vllm_0_32() {
        let page = read(include_bytes!("../../fixtures/vllm-0.32.0.txt")).unwrap();
        assert_eq!(page.process_start.as_deref(), Some("1.79536928264e+09"));
        assert_eq!(page.engines.len(), 1);
        let engine = &page.engines[0];
        assert_eq!((engine.label.as_str(), engine.awake), ("0", true));
        assert_eq!((engine.block_size, engine.capacity), (32, Tokens(19_200)));
        assert_eq!((engine.queries, engine.hits), (43_699.0, 1088.0));
        assert_eq!(engine.load, Load::default());
    }

    #[test]
    fn a_page_with_the_older_names() {
        let page = read(include_bytes!("../../fixtures/vllm-0.10-style.txt")).unwrap();
        let engine = &page.engines[0];
        assert_eq!(engine.load, Load { running: 3, waiting: 2, kv_usage: 0.25 });
        assert_eq!((engine.queries, engine.hits), (1000.0, 400.0));
        assert_eq!((engine.block_size, engine.capacity), (16, Tokens(16 * 2048)));
        assert_eq!(page.adapters, ["sql-lora", "chat-lora"]);
    }

    #[test]
    fn each_engine_of_a_data_parallel_pod_is_told_apart_in_the_order_of_ranks() {
        let mut text = String::new();
        for n in [10, 0, 2] {
            text += &format!("vllm:num_requests_running{{engine=\"{n}\",model_name=\"m\"}} {n}\n");
            text += &format!("vllm:engine_sleep_state{{engine=\"{n}\",sleep_state=\"awake\"}} {}\n", u8::from(n != 2));
        }
        text += "vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"None\"} 1\n";
        let page = read(text.as_bytes()).unwrap();
        let got: Vec<_> = page.engines.iter().map(|e| (e.label.as_str(), e.load.running, e.awake)).collect();
        assert_eq!(got, [("0", 0, true), ("2", 2, false), ("10", 10, true)]);
        assert!(page.engines.iter().all(|e| e.block_size == 16 && e.capacity == Tokens(0)));
    }

    #[test]
    fn the_newest_entry_names_the_adapters() {
        let text = "vllm:num_requests_running 0\n\
            vllm:lora_requests_info{max_lora=\"4\",running_lora_adapters=\"b\",waiting_lora_adapters=\"c, b\"} 20\n\
            vllm:lora_requests_info{max_lora=\"4\",running_lora_adapters=\"a\",waiting_lora_adapters=\"\"} 10\n";
        let page = read(text.as_bytes()).unwrap();
        assert_eq!((page.adapters.as_slice(), page.max_adapters), (&["b".to_owned(), "c".to_owned()][..], 4));
    }

    #[test]
    fn values_that_cannot_be_are_bounded() {
        let text = "vllm:num_requests_running -3\nvllm:num_requests_waiting 1e300\nvllm:kv_cache_usage_perc NaN\n";
        let load = read(text.as_bytes()).unwrap().engines[0].load;
        assert_eq!((load.running, load.waiting, load.kv_usage), (0, u32::MAX, 0.0));
    }

    #[test]
    fn a_page_without_load_is_an_error() {
        for page in [&b""[..], b"<html>", b"up 1\n", b"vllm:cache_config_info{block_size=\"1\"} 1\n"] {
            assert_eq!(read(page), Err(PageError::NoEngine));
        }
        let many: String = (0..300).map(|n| format!("vllm:num_requests_running{{engine=\"{n}\"}} 0\n")).collect();
        assert_eq!(read(many.as_bytes()), Err(PageError::TooManyEngines));
    }
}
