//! The thinking part of warmpath: read a prompt, cut it at boundaries, hash it, know who holds it, place the request.
//!
//! Pure on purpose: no I/O, no clock (time comes in as an argument), no proxy-wasm, no async runtime. The same code runs
//! in Envoy's wasm VMs, in the metrics-sidecar and in benchmarks. Data flows one way:
//!
//! ```text
//! bytes ─▶ json ─▶ request ─▶ prefix ─▶ router ─▶ placement ─▶ decision
//!                                         │ ▲
//!                       journal ─▶ fold ─▶ view (index + load + learned + table)
//! ```
//!
//! | module | job |
//! | --- | --- |
//! | [`units`] | the types that carry meaning: identities, hashes, tokens, seconds |
//! | [`codec`] | bounds-checked reading and writing of bytes |
//! | [`json`] | a push scanner over JSON chunks |
//! | [`request`] | what of an LLM request decides the KV cache, over chunks |
//! | [`prefix`] | boundaries and their hashes |
//! | [`index`] | which endpoint holds which prefix, evicted as the pod would |
//! | [`load`] | what is in flight at each endpoint |
//! | [`failures`] | who fails again and again and is left alone for a while |
//! | [`learned`] | prefill rate and bytes per token, learned from answers |
//! | [`table`] | the endpoint table that the sidecar sends |
//! | [`journal`] | records, their codec, and the ring in shared data |
//! | [`view`] | folds journal and table into what a decision needs |
//! | [`placement`] | policies: who answers soonest, and why |
//! | [`router`] | one request's way through view and policy |
//! | [`explain`] | the same, with every endpoint and what speaks for and against it |
//! | [`answer`] | first generated token and usage, out of a response |
//! | [`config`] | the plugin's configuration, with errors that name the JSON path |
//!
//! No panic may be reachable here: one panic in a VM ends every stream in flight on that Envoy worker.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::unreachable,
        clippy::integer_division_remainder_used
    )
)]

pub mod answer;
pub mod codec;
pub mod config;
pub mod explain;
pub mod failures;
pub mod index;
pub mod journal;
pub mod json;
pub mod learned;
pub mod load;
pub mod misses;
pub mod placement;
pub mod prefix;
pub mod request;
pub mod router;
pub mod table;
pub mod units;
pub mod view;
