//! All workloads by name.

use super::trace::Trace;
use super::{Workload, adversarial, agents, b2b, restart};
use std::path::{Path, PathBuf};

/// A workload that can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Mooncake's conversation trace: an hour of a chat service.
    Mooncake,
    /// Recorded agents of an airline, as `make demo` plays them.
    TauBench,
    /// Tenants with a few prompts each.
    B2b,
    /// Sessions of agents.
    Agents,
    /// One long beginning that all share.
    HugeSystem,
    /// A crowd on one new prompt.
    FlashCrowd,
    /// Nothing is shared.
    OneOff,
    /// Agents whose pods come, go and lose their caches.
    Restart,
    /// Agents, one of whose pods becomes ten times slower.
    SlowPod,
    /// A trace of the user's own.
    Trace(PathBuf),
}

const MOONCAKE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/mooncake/conversation_trace.jsonl.gz");
const TAU_BENCH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/tau-bench-slice.jsonl.gz");

impl Kind {
    /// All that need nothing from the user.
    pub fn all() -> Vec<Self> {
        use Kind::{Agents, B2b, FlashCrowd, HugeSystem, Mooncake, OneOff, Restart, SlowPod, TauBench};
        vec![Mooncake, TauBench, B2b, Agents, HugeSystem, FlashCrowd, OneOff, Restart, SlowPod]
    }

    /// By its name.
    pub fn parse(name: &str) -> Result<Self, String> {
        Self::all().into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let names: Vec<_> = Self::all().iter().map(|kind| kind.name().to_owned()).collect();
            format!("no workload has this name; there are {}", names.join(", "))
        })
    }

    /// The name; of a trace its path.
    pub fn name(&self) -> &str {
        match self {
            Self::Mooncake => "mooncake",
            Self::TauBench => "tau-bench",
            Self::B2b => "b2b",
            Self::Agents => "agents",
            Self::HugeSystem => "huge-system",
            Self::FlashCrowd => "flash-crowd",
            Self::OneOff => "one-off",
            Self::Restart => "restart",
            Self::SlowPod => "slow-pod",
            Self::Trace(path) => path.to_str().unwrap_or("trace"),
        }
    }

    /// The file that it is read from, if it is not generated.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Mooncake => Some(Path::new(MOONCAKE)),
            Self::TauBench => Some(Path::new(TAU_BENCH)),
            Self::Trace(path) => Some(path),
            _ => None,
        }
    }

    /// A rate to begin with: requests a second, or for what is read from a file the speed-up.
    pub fn base_rate(&self) -> f64 {
        match self {
            Self::Mooncake | Self::Trace(_) => 1.0,
            Self::TauBench => 16.0,
            Self::B2b | Self::Agents | Self::Restart | Self::SlowPod => 16.0,
            Self::HugeSystem => 32.0,
            Self::FlashCrowd | Self::OneOff => 16.0,
        }
    }

    /// One seed of it. `rate` is in the unit of [`Kind::base_rate`]; files come whole, whatever `requests` says.
    pub fn make(&self, rate: f64, seed: u64, requests: usize) -> Result<Workload, String> {
        if !(rate.is_finite() && rate > 0.0) {
            return Err(format!("{}: a rate must be above 0, not {rate}", self.name()));
        }
        if let Some(path) = self.file() {
            let mut workload = Trace::once(path)?.play(rate, seed);
            if !matches!(self, Self::Trace(_)) {
                workload.name = self.name().to_owned();
            }
            return Ok(workload);
        }
        let make = match self {
            Self::B2b => b2b::b2b,
            Self::HugeSystem => adversarial::huge_system,
            Self::FlashCrowd => adversarial::flash_crowd,
            Self::OneOff => adversarial::one_off,
            Self::Restart => restart::restart,
            Self::SlowPod => restart::slow_pod,
            _ => agents::agents,
        };
        Ok(make(rate, seed, requests))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Arrival, BLOCK};
    use super::*;

    #[test]
    fn each_has_a_name_that_finds_it() {
        for kind in Kind::all() {
            assert_eq!(Kind::parse(kind.name()).as_ref(), Ok(&kind));
            assert_eq!(kind.make(kind.base_rate(), 1, 100).map(|w| w.name), Ok(kind.name().to_owned()));
        }
        assert!(Kind::parse("b3b").expect_err("an error").ends_with("restart, slow-pod"));
        assert!(Kind::B2b.make(0.0, 1, 1).is_err());
    }

    #[test]
    fn a_seed_decides_everything() {
        for kind in Kind::all() {
            let requests = |seed| format!("{:?}", kind.make(kind.base_rate(), seed, 300).expect("a workload").requests);
            assert_eq!(requests(3), requests(3), "{kind:?}");
            // The times of bodies are exact.
            assert_eq!(requests(3) == requests(4), kind == Kind::TauBench, "{kind:?}");
        }
    }

    #[test]
    fn all_are_well_formed() {
        for kind in Kind::all() {
            let workload = kind.make(kind.base_rate(), 2, 2_000).expect("a workload");
            let mut last = 0.0;
            for (number, request) in workload.requests.iter().enumerate() {
                match request.arrival {
                    Arrival::At(at) => assert!(at >= std::mem::replace(&mut last, at)),
                    Arrival::After(before, think) => assert!(before < number && think >= 0.0),
                }
                let prompt = &request.prompt;
                let blocks: u32 = prompt.segments.iter().map(|s| s.tokens).sum();
                assert!(blocks <= prompt.tokens && prompt.tokens > 0 && request.output > 0);
                assert!(prompt.segments.iter().all(|s| s.tokens % BLOCK == 0 && s.tokens > 0));
                assert!(prompt.boundaries.is_sorted_by(|a, b| a.end < b.end));
                assert!(prompt.boundaries.last().is_some_and(|b| b.end <= prompt.bytes));
                assert!(u64::from(prompt.tokens + request.output) <= workload.pod.capacity);
            }
            if kind.file().is_none() {
                assert_eq!(workload.requests.len(), 2_000);
            }
        }
    }
}
