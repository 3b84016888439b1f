//! `warmpath-bench replay`: workloads against rules of placement, in simulated time.
//!
//! The pods are simulated (`pod.rs`, `cache.rs`), the gateways are not: warmpath's are the very `core` code of the filter.

mod cache;
mod options;
mod pod;
mod policy;
mod report;
mod runs;
mod sim;
mod workload;

pub use options::Options;

/// Runs the benchmark, writes its rows, prints its tables.
pub fn run(options: &Options) -> Result<(), String> {
    let mut all = if options.append { report::read(&options.out)? } else { Vec::new() };
    let rows = runs::all(options)?;
    report::print(&rows);
    all.extend(rows);
    report::write(&options.out, &all)?;
    Ok(())
}

#[cfg(test)]
mod tests;
