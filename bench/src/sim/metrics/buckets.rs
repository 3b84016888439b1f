//! Upper bounds of vLLM's histograms, as in the recorded page (`bench/fixtures/`).

/// `vllm:time_to_first_token_seconds`.
pub const FIRST_TOKEN: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
];

/// `vllm:inter_token_latency_seconds`.
pub const INTER_TOKEN: [f64; 19] =
    [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0];

/// Latencies of whole requests and of their phases.
pub const REQUEST: [f64; 21] = [
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
];

/// Token counts: 1, 2, 5, 10, ... up to the longest request.
pub fn lengths(max_len: usize) -> Vec<f64> {
    let powers = std::iter::successors(Some(1usize), |power| power.checked_mul(10));
    powers
        .flat_map(|power| [1, 2, 5].map(|digit| power.saturating_mul(digit)))
        .take_while(|&bound| bound <= max_len)
        .map(|bound| bound as f64)
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn lengths_stop_at_the_longest_request() {
        assert_eq!(super::lengths(25), [1.0, 2.0, 5.0, 10.0, 20.0]);
    }
}
