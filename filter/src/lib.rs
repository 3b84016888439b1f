//! The filter: proxy-wasm callbacks around [`warmpath_core`], as thin as they can be. Bytes in, destination out.
//!
//! | module | job |
//! | --- | --- |
//! | [`host`] | Envoy, behind a trait whose calls return errors where the SDK's panic |
//! | [`stats`] | every Envoy stat of the filter, in one place |
//! | [`worker`] | what one VM knows and does: view, router, its place in the journal |
//! | [`feed`] | the stream to the sidecar, held by one VM of the process |
//! | [`explain`] | answers requests that ask why, in the pods' place |
//! | [`http`] | one request's way through the callbacks |
//! | [`root`] | configuration, ticks, and the callbacks of the stream |
//!
//! A panic ends every stream in flight on the worker, so none may be reachable.

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

pub mod explain;
pub mod feed;
pub mod host;
pub mod http;
pub mod placed;
pub mod root;
pub mod stats;
pub mod worker;

#[cfg(test)]
mod tests;

#[cfg(target_arch = "wasm32")]
#[allow(missing_docs)]
mod entry {
    proxy_wasm::main! {{
        proxy_wasm::set_root_context(|id| Box::new(crate::root::Root::new(id, std::rc::Rc::new(crate::host::Envoy))));
    }}
}
