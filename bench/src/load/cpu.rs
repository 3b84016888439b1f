//! CPU time of other processes, from /proc.

use std::time::Duration;

/// Ticks a second in /proc, the same on all machines that Rust's Linux targets run on (`USER_HZ`).
const TICKS: u64 = 100;

/// What each process has taken so far, in user and kernel, all of its threads, also those that ended.
pub fn times(pids: &[u32]) -> Result<Vec<Duration>, String> {
    let read = |pid: &u32| {
        let path = format!("/proc/{pid}/stat");
        let line = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        parse(&line).ok_or_else(|| format!("{path}: not understood: {line}"))
    };
    pids.iter().map(read).collect()
}

fn parse(stat: &str) -> Option<Duration> {
    // The name stands in brackets and may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some(Duration::from_millis((ticks()? + ticks()?) * 1_000 / TICKS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_kernel_time_are_summed_whatever_the_name_is() {
        let line = "12 (a ) b) S 1 12 12 0 -1 4194560 118 0 0 0 150 25 9 9 20 0 1 0 100 1 1";
        assert_eq!(parse(line), Some(Duration::from_millis(1_750)));
        assert_eq!(parse("12 (a) S 1"), None);
    }

    #[test]
    fn this_process_has_a_time_and_a_wrong_one_an_error() {
        assert!(times(&[std::process::id()]).is_ok());
        assert!(times(&[u32::MAX]).is_err());
    }
}
