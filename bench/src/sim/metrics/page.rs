//! Writes the `/metrics` page.

use std::fmt::Write;

use super::Histogram;
use super::number::number;
use crate::sim::engine::{Finish, Stats};

/// What the page says about one engine.
pub struct EngineView<'a> {
    /// Requests being computed.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Share of KV memory in use.
    pub kv_usage: f64,
    /// Counters.
    pub stats: &'a Stats,
}

/// What the page says about the pod.
pub struct PodView<'a> {
    /// The label `model_name`: the first served name.
    pub model: &'a str,
    /// Tokens in a block.
    pub block_size: usize,
    /// Blocks of each engine.
    pub blocks: usize,
    /// Adapters: `(most at once, running, waiting)`; absent where the pod serves none, as in vLLM.
    pub lora: Option<(usize, String, String)>,
    /// Start of the process, unix seconds.
    pub started: f64,
    /// Resident memory, bytes.
    pub memory: f64,
    /// The engines in order.
    pub engines: &'a [EngineView<'a>],
}

/// The whole page.
pub fn render(pod: &PodView<'_>) -> String {
    let mut page = Page { out: String::with_capacity(16 * 1024), pod };
    page.process();
    page.gauges();
    page.counters();
    page.histograms();
    page.config();
    page.out
}

struct Page<'a> {
    out: String,
    pod: &'a PodView<'a>,
}

impl Page<'_> {
    fn process(&mut self) {
        let (memory, started) = (self.pod.memory, self.pod.started);
        self.head("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.");
        self.sample("process_resident_memory_bytes", "", memory);
        let help = "Start time of the process since unix epoch in seconds.";
        self.head("process_start_time_seconds", "gauge", help);
        self.sample("process_start_time_seconds", "", started);
    }

    fn gauges(&mut self) {
        let help = "Number of requests in model execution batches.";
        self.each("num_requests_running", "gauge", help, |engine| engine.running as f64);
        let help = "Number of requests waiting to be processed.";
        self.each("num_requests_waiting", "gauge", help, |engine| engine.waiting as f64);
        let help = "Engine sleep state; awake = 0 means engine is sleeping; awake = 1 means engine is awake; \
                    weights_offloaded = 1 means sleep level 1; discard_all = 1 means sleep level 2.";
        self.head("vllm:engine_sleep_state", "gauge", help);
        for index in 0..self.pod.engines.len() {
            for (state, value) in [("awake", 1.0), ("weights_offloaded", 0.0), ("discard_all", 0.0)] {
                let labels = format!("{},sleep_state=\"{state}\"", self.labels(index, ""));
                self.sample("vllm:engine_sleep_state", &labels, value);
            }
        }
        let help = "KV-cache usage. 1 means 100 percent usage.";
        self.each("kv_cache_usage_perc", "gauge", help, |engine| engine.kv_usage);
    }

    fn counters(&mut self) {
        let help = "Prefix cache queries, in terms of number of queried tokens.";
        self.counter("prefix_cache_queries", help, |stats| stats.prefix_queries);
        let help = "Prefix cache hits, in terms of number of cached tokens.";
        self.counter("prefix_cache_hits", help, |stats| stats.prefix_hits);
        let help = "Cumulative number of preemption from the engine.";
        self.counter("num_preemptions", help, |stats| stats.preemptions);
        let help = "Number of prefill tokens processed.";
        self.counter("prompt_tokens", help, |stats| stats.prompt_tokens);
        let help = "Number of cached prompt tokens (local + external).";
        self.counter("prompt_tokens_cached", help, |stats| stats.prompt_tokens_cached);
        let help = "Number of generation tokens processed.";
        self.counter("generation_tokens", help, |stats| stats.generation_tokens);
        self.request_success();
    }

    fn request_success(&mut self) {
        let help = "Count of successfully processed requests.";
        for (name, kind) in [("vllm:request_success_total", "counter"), ("vllm:request_success_created", "gauge")] {
            self.head(name, kind, help);
            for (index, engine) in self.pod.engines.iter().enumerate() {
                for (reason, label) in Finish::ALL {
                    let labels = self.labels(index, &format!("finished_reason=\"{label}\","));
                    let count = engine.stats.finished[reason as usize] as f64;
                    let value = if kind == "counter" { count } else { self.pod.started };
                    self.sample(name, &labels, value);
                }
            }
        }
    }

    fn histograms(&mut self) {
        let help = "Number of prefill tokens processed.";
        self.histogram("request_prompt_tokens", help, |stats| &stats.request_prompt_tokens);
        let help = "Number of generation tokens processed.";
        self.histogram("request_generation_tokens", help, |stats| &stats.request_generation_tokens);
        let help = "Histogram of time to first token in seconds.";
        self.histogram("time_to_first_token_seconds", help, |stats| &stats.first_token);
        let help = "Histogram of inter-token latency in seconds.";
        self.histogram("inter_token_latency_seconds", help, |stats| &stats.inter_token);
        let help = "Histogram of e2e request latency in seconds.";
        self.histogram("e2e_request_latency_seconds", help, |stats| &stats.e2e);
        let help = "Histogram of time spent in WAITING phase for request.";
        self.histogram("request_queue_time_seconds", help, |stats| &stats.queue);
    }

    fn config(&mut self) {
        let name = "vllm:cache_config_info";
        self.head(name, "gauge", "Information of the LLMEngine CacheConfig");
        for index in 0..self.pod.engines.len() {
            let labels = cache_config(index, self.pod.block_size, self.pod.blocks);
            self.sample(name, &labels, 1.0);
        }
        if let Some((most, running, waiting)) = &self.pod.lora {
            let name = "vllm:lora_requests_info";
            self.head(name, "gauge", "Running stats on lora requests.");
            let labels = format!(
                "max_lora=\"{most}\",running_lora_adapters=\"{}\",waiting_lora_adapters=\"{}\"",
                escaped(running),
                escaped(waiting)
            );
            self.sample(name, &labels, self.pod.started);
        }
    }

    fn each(&mut self, name: &str, kind: &str, help: &str, value: impl Fn(&EngineView<'_>) -> f64) {
        let name = format!("vllm:{name}");
        self.head(&name, kind, help);
        for (index, engine) in self.pod.engines.iter().enumerate() {
            let labels = self.labels(index, "");
            self.sample(&name, &labels, value(engine));
        }
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Fn(&Stats) -> u64) {
        let total = format!("{name}_total");
        self.each(&total, "counter", help, |engine| value(engine.stats) as f64);
        self.created(name, help);
    }

    fn created(&mut self, name: &str, help: &str) {
        let started = self.pod.started;
        self.each(&format!("{name}_created"), "gauge", help, |_| started);
    }

    fn histogram(&mut self, name: &str, help: &str, of: impl Fn(&Stats) -> &Histogram) {
        let full = format!("vllm:{name}");
        self.head(&full, "histogram", help);
        for (index, engine) in self.pod.engines.iter().enumerate() {
            let histogram = of(engine.stats);
            for (bound, count) in histogram.cumulative() {
                let labels = self.labels(index, &format!("le=\"{}\",", number(bound)));
                self.sample(&format!("{full}_bucket"), &labels, count as f64);
            }
            let labels = self.labels(index, "");
            self.sample(&format!("{full}_count"), &labels, histogram.count() as f64);
            self.sample(&format!("{full}_sum"), &labels, histogram.sum());
        }
        self.created(name, help);
    }

    /// Labels in alphabetical order, as vLLM writes them; `between` sorts after `engine` and before `model_name`.
    fn labels(&self, engine: usize, between: &str) -> String {
        format!("engine=\"{engine}\",{between}model_name=\"{}\"", escaped(self.pod.model))
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: f64) {
        let value = number(value);
        let _ = match labels {
            "" => writeln!(self.out, "{name} {value}"),
            labels => writeln!(self.out, "{name}{{{labels}}} {value}"),
        };
    }
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The labels of vLLM 0.32.0, with the values of a default GPU engine.
fn cache_config(engine: usize, block_size: usize, blocks: usize) -> String {
    let tokens = block_size * blocks;
    let values = [
        ("_block_size_resolved", "True".to_owned()),
        ("block_size", block_size.to_string()),
        ("cache_dtype", "auto".to_owned()),
        ("cache_hit_alignment_tokens", "None".to_owned()),
        ("effective_attention_block_size", block_size.to_string()),
        ("enable_mamba_shared_prefix_checkpoint", "False".to_owned()),
        ("enable_prefix_caching", "True".to_owned()),
        ("engine", engine.to_string()),
        ("gpu_memory_utilization", "0.92".to_owned()),
        ("hash_block_size", "None".to_owned()),
        ("is_attention_free", "False".to_owned()),
        ("kv_cache_dtype_skip_layers", "[]".to_owned()),
        ("kv_cache_layout", "None".to_owned()),
        ("kv_cache_max_concurrency", "1.0".to_owned()),
        ("kv_cache_memory_bytes", "None".to_owned()),
        ("kv_cache_size_tokens", tokens.to_string()),
        ("kv_offloading_backend", "native".to_owned()),
        ("kv_offloading_size", "None".to_owned()),
        ("kv_sharing_fast_prefill", "False".to_owned()),
        ("mamba_block_size", "None".to_owned()),
        ("mamba_cache_dtype", "auto".to_owned()),
        ("mamba_cache_mode", "none".to_owned()),
        ("mamba_page_size_padded", "None".to_owned()),
        ("mamba_ssm_cache_dtype", "auto".to_owned()),
        ("num_cpu_blocks", "None".to_owned()),
        ("num_gpu_blocks", blocks.to_string()),
        ("num_gpu_blocks_override", "None".to_owned()),
        ("prefix_cache_retention_interval", "0".to_owned()),
        ("prefix_caching_hash_algo", "sha256".to_owned()),
        ("prefix_match_unit", "None".to_owned()),
        ("replayssm_buffer_len", "16".to_owned()),
        ("skip_page_size_padded", "None".to_owned()),
        ("sliding_window", "None".to_owned()),
        ("swa_bounded_replay", "True".to_owned()),
        ("use_kda_recoverssm", "False".to_owned()),
        ("use_replayssm", "False".to_owned()),
        ("user_specified_block_size", "True".to_owned()),
    ];
    let pairs = values.iter().map(|(name, value)| format!("{name}=\"{value}\""));
    pairs.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    const RECORDED: &str = include_str!("../../../fixtures/vllm-0.32.0-metrics.txt");

    fn simulated() -> String {
        let stats = Stats::new(16384);
        let engine = EngineView { running: 0, waiting: 0, kv_usage: 0.0, stats: &stats };
        render(&PodView {
            model: "tiny",
            block_size: 32,
            blocks: 512,
            lora: Some((4, "a".to_owned(), String::new())),
            started: 1795369282.64,
            memory: 974921728.0,
            engines: &[engine],
        })
    }

    /// Sample name to the label-name sets seen with it, and each label's values.
    type Samples = BTreeMap<String, (BTreeSet<Vec<String>>, BTreeSet<(String, String)>)>;

    fn samples(page: &str) -> Samples {
        let mut all = Samples::new();
        for line in page.lines().filter(|line| line.starts_with("vllm:")) {
            let (series, _value) = line.rsplit_once(' ').expect("a value");
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let pairs: Vec<(String, String)> = labels
                .trim_end_matches('}')
                .split(',')
                .filter_map(|pair| pair.split_once('='))
                .map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()))
                .collect();
            let (names, values) = all.entry(name.to_owned()).or_default();
            names.insert(pairs.iter().map(|(name, _)| name.clone()).collect());
            values.extend(pairs);
        }
        all
    }

    /// vLLM writes adapters only where LoRA is on, and the recorded server had it off.
    const NOT_RECORDED: &str = "vllm:lora_requests_info";

    #[test]
    fn every_sample_has_the_name_and_the_labels_that_vllm_gave_it() {
        let recorded = samples(RECORDED);
        for (name, (labels, _)) in samples(&simulated()) {
            if name != NOT_RECORDED {
                let expected = recorded.get(&name).map(|(labels, _)| labels);
                assert_eq!(Some(&labels), expected, "{name}");
            }
        }
    }

    #[test]
    fn every_recorded_sample_and_bound_is_emitted() {
        let simulated = samples(&simulated());
        for (name, (_, values)) in samples(RECORDED) {
            let (_, emitted) = simulated.get(&name).unwrap_or_else(|| panic!("{name} is missing"));
            for value in values.iter().filter(|(label, _)| label == "le") {
                assert!(emitted.contains(value), "{name} lacks {value:?}");
            }
        }
    }

    #[test]
    fn first_token_bounds_are_exactly_those_recorded() {
        let name = "vllm:time_to_first_token_seconds_bucket";
        assert_eq!(samples(&simulated()).get(name), samples(RECORDED).get(name));
    }

    #[test]
    fn help_and_type_lines_are_those_recorded() {
        let recorded: BTreeSet<&str> = RECORDED.lines().collect();
        let page = simulated();
        let comments = page.lines().filter(|line| line.starts_with('#'));
        for line in comments.filter(|line| !line.contains(NOT_RECORDED)) {
            assert!(recorded.contains(line), "{line}");
        }
    }
}
