//! Mooncake's traces: `{"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": […]}`, an id a block of 512
//! tokens, the last one partial. <https://github.com/kvcache-ai/Mooncake>, `FAST25-release/traces`.

use super::segments::Chains;
use super::trace::{Line, Trace};
use super::{Arrival, PodShape, Prompt, Request, Workload};
use serde::Deserialize;
use warmpath_core::units::mix;

/// Tokens that an id stands for.
const BLOCK: u32 = 512;
/// Longest prompt that is believed; none is near it, and four bytes for each must fit into 32 bits.
const LONGEST: u32 = 1 << 28;
/// Longest tick that is believed, in milliseconds: those of the conversation trace.
const TICK: f64 = 3_000.0;

#[derive(Deserialize)]
struct Recorded {
    timestamp: f64,
    input_length: u32,
    output_length: u32,
    hash_ids: Vec<u64>,
}

/// Reads all lines.
pub fn read(lines: impl Iterator<Item = Result<Line, String>>) -> Result<Trace, String> {
    let mut all = Vec::new();
    let mut chains = Chains::new(BLOCK);
    for line in lines {
        let line = line?;
        let request: Recorded = line.parse()?;
        if !(request.timestamp.is_finite() && request.timestamp >= 0.0) {
            return Err(line.wrong("`timestamp` must be a time in milliseconds from 0"));
        }
        if !(1..=LONGEST).contains(&request.input_length) {
            return Err(line.wrong(format_args!("`input_length` must be from 1 to {LONGEST}")));
        }
        all.push(request);
    }
    all.sort_by(|a, b| a.timestamp.total_cmp(&b.timestamp));
    let mut tails = Vec::with_capacity(all.len());
    for request in &all {
        // The last token is always computed, and so its block.
        let full = ((request.input_length - 1) / BLOCK) as usize;
        let (full, rest) = request.hash_ids.split_at(full.min(request.hash_ids.len()));
        // Ids should stand for all before them too; chained once more, they do in any case.
        let mut hash = 0;
        chains.add(full.iter().map(|id| {
            hash = mix(hash, *id);
            hash
        }));
        tails.push(rest.iter().fold(u64::from(request.input_length), |hash, id| mix(hash, *id)));
    }
    let tick = tick(&all);
    let (segments, _) = chains.finish();
    let request = |((recorded, segments), tail): ((&Recorded, _), _)| Request {
        arrival: Arrival::At(recorded.timestamp * 0.001),
        prompt: Prompt::synthetic(segments, recorded.input_length, tail),
        output: recorded.output_length.max(1),
    };
    let workload = Workload {
        name: String::new(),
        requests: all.iter().zip(segments).zip(tails).map(request).collect(),
        endpoints: 8,
        pod: PodShape { capacity: 1_024_000, ..PodShape::default() },
        events: Vec::new(),
    };
    Ok(Trace { workload, tick: tick * 0.001 })
}

/// How long the clock stands still at a time, in milliseconds: the usual gap of two times, where most requests share
/// theirs with others. The published times are up to 3 ms off their tick.
fn tick(sorted: &[Recorded]) -> f64 {
    let gaps = sorted.windows(2).map(|w| w[1].timestamp - w[0].timestamp);
    let mut gaps: Vec<_> = gaps.filter(|gap| *gap > 0.0).collect();
    if gaps.len() * 2 > sorted.len() {
        return 0.0;
    }
    gaps.sort_by(f64::total_cmp);
    gaps.get(gaps.len() / 2).map_or(0.0, |gap| gap.min(TICK))
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::Kind;
    use super::super::measure::{infinite_hit_ratio, shared};
    use super::*;

    fn trace(lines: &[&str]) -> Result<Trace, String> {
        read((1..).zip(lines).map(|(number, text)| Ok(Line::test(number, text))))
    }

    fn at(request: &Request) -> f64 {
        if let Arrival::At(at) = request.arrival { at } else { f64::NAN }
    }

    #[test]
    fn a_block_that_holds_the_last_token_is_not_cached() {
        let lines = [
            r#"{"timestamp": 6000, "input_length": 1025, "output_length": 0, "hash_ids": [0, 1, 2]}"#,
            r#"{"timestamp": 0, "input_length": 1024, "output_length": 9, "hash_ids": [0, 1]}"#,
            r#"{"timestamp": 9000, "input_length": 1025, "output_length": 3, "hash_ids": [0, 1, 2]}"#,
            r#"{"timestamp": 9000, "input_length": 1025, "output_length": 3, "hash_ids": [0, 1, 3]}"#,
        ];
        let workload = trace(&lines).expect("a trace").workload;
        let prompts: Vec<_> = workload.requests.iter().map(|r| &r.prompt).collect();
        assert_eq!(workload.requests[1].output, 1);
        assert_eq!((shared(prompts[0], prompts[1]), shared(prompts[1], prompts[2])), (512, 1_024));
        assert_eq!((prompts[0].tokens, prompts[0].bytes), (1_024, 4_096));
        assert_eq!(prompts[1].boundaries, prompts[2].boundaries);
        assert_eq!(prompts[2].segments, prompts[3].segments);
    }

    #[test]
    fn only_times_that_stand_still_are_spread() {
        let tick = |times: &[u32]| {
            let line = |t| format!(r#"{{"timestamp": {t}, "input_length": 9, "output_length": 1, "hash_ids": [0]}}"#);
            let lines: Vec<_> = times.iter().map(line).collect();
            trace(&lines.iter().map(String::as_str).collect::<Vec<_>>()).expect("a trace").tick
        };
        assert_eq!(tick(&[0, 0, 0, 2_000, 2_000, 2_000, 3_999, 4_000, 4_000, 6_000, 6_000, 6_000]), 2.0);
        assert_eq!(tick(&[0, 10, 35, 35, 70]), 0.0);
        assert_eq!(tick(&[5, 5, 5]), 0.0);
    }

    #[test]
    fn lengths_and_times_that_cannot_be_are_errors() {
        for wrong in [r#""timestamp": -1, "input_length": 9"#, r#""timestamp": 1, "input_length": 0"#] {
            let line = format!(r#"{{{wrong}, "output_length": 1, "hash_ids": []}}"#);
            assert!(trace(&[&line]).expect_err("an error").starts_with("test.jsonl, line 1: `"));
        }
    }

    #[test]
    fn the_conversation_trace_is_read_as_published() {
        let workload = Kind::Mooncake.make(1.0, 1, 0).expect("the trace in bench/data");
        assert_eq!(workload.requests.len(), 12_031);
        let ratio = infinite_hit_ratio(&workload);
        assert!((ratio - 0.373).abs() < 0.002, "{ratio}");
        assert!(workload.requests.is_sorted_by(|a, b| at(a) <= at(b)));
        // The first of a tick's three seconds gets a third of its requests.
        let early = workload.requests.iter().filter(|r| at(r) % 3.0 < 1.0).count();
        assert!((3_850..4_170).contains(&early), "{early}");
        let faster = Kind::Mooncake.make(2.0, 1, 0).expect("a workload");
        let other = Kind::Mooncake.make(1.0, 2, 0).expect("a workload");
        assert_eq!(at(&faster.requests[7]) * 2.0, at(&workload.requests[7]));
        assert_ne!(at(&other.requests[7]), at(&workload.requests[7]));
        assert!((at(&workload.requests[12_030]) - 3_540.0).abs() < 15.0, "{}", at(&workload.requests[12_030]));
    }
}
