//! What people and monitors see of the sidecar: its own metrics, the status page, and the HTTP server for both.

pub mod metrics;
pub mod report;
pub mod status;
pub mod wasm;
pub mod web;
