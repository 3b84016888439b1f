//! The sidecar beside Envoy: it finds the pods, reads their vLLM metrics, and feeds the filter. Data flows one way:
//!
//! ```text
//! discovery ─▶ keeper ─▶ pods (one scrape task each) ─▶ keeper ─▶ table ─▶ feed ─▶ filter
//!                                                                   │        ▲
//!                                                                   ▼        │ journal, refill
//!                                                                 memory ◀───┘ ◀──▶ peers
//! ```
//!
//! | module | job |
//! | --- | --- |
//! | [`cli`] | options and their environment variables |
//! | [`discovery`] | which pods there are, behind one trait |
//! | [`pods`] | scrape one pod, judge its health, read vLLM's metrics page |
//! | [`keeper`] | one scrape task for each discovered pod; puts their reports into a table |
//! | [`table`] | builds and publishes the endpoint table |
//! | [`memory`] | what was routed where, folded from journals: one view for each plugin |
//! | [`exchange`], [`records`] | the same as it becomes known, for those who have not seen it |
//! | [`feed`] | the gRPC stream to each Envoy |
//! | [`peers`] | the sidecars of the gateway's other replicas |
//! | [`hub`] | what all streams share |
//! | [`observe`] | own metrics, traffic, status page, HTTP server; `warmpath status` |
//! | [`sidecar`] | puts all of it together and stops it again |
//! | [`validate`] | a client of the gateway: `warmpath validate`; runs without a sidecar |
//! | [`why`] | a client of sidecar or gateway: `warmpath explain` |
//! | [`top`] | a client of the sidecar: `warmpath top` |
//! | [`text`] | tables and numbers for people |
//!
//! Why a process of its own: Envoy's wasm VMs have no sockets to scrape with and forget everything at a restart.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod cli;
pub mod clock;
pub mod discovery;
pub mod exchange;
pub mod feed;
pub mod hub;
pub mod keeper;
pub mod memory;
pub mod observe;
pub mod peers;
pub mod pods;
pub mod records;
pub mod shutdown;
pub mod sidecar;
pub mod table;
pub mod text;
pub mod top;
pub mod validate;
pub mod why;

/// Messages, client and server of `proto/feed.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod proto {
    tonic::include_proto!("warmpath.feed.v1");
}
