//! The simulator's `/metrics`: vLLM's names, labels, buckets and number format.

pub mod buckets;
mod histogram;
mod number;
mod page;

pub use self::histogram::Histogram;
pub use self::page::{EngineView, PodView, render};
