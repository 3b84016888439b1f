//! The real host: proxy-wasm 0.2's imports, called directly.
//!
//! The SDK declares the same imports, but its wrappers panic on statuses that they do not list. Memory that the host
//! hands over was allocated by the SDK's `proxy_on_memory_allocate`, as a `Vec<u8>` of that capacity.

#![allow(unsafe_code)]

use super::headers::encode;
use super::{Headers, Host, HostError, Level, MetricId, MetricKind, StreamToken};
use std::ptr::null_mut;
use std::time::Duration;
use warmpath_core::journal::StoreError;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_log(level: u32, message: *const u8, size: usize) -> u32;
    fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
    fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
    fn proxy_get_buffer_bytes(kind: u32, start: usize, max: usize, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_replace_header_map_value(
        map: u32,
        key: *const u8,
        key_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_remove_header_map_value(map: u32, key: *const u8, key_size: usize) -> u32;
    fn proxy_add_header_map_value(
        map: u32,
        key: *const u8,
        key_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_size: usize,
        body: *const u8,
        body_size: usize,
        headers: *const u8,
        headers_size: usize,
        grpc_status: i32,
    ) -> u32;
    fn proxy_get_property(path: *const u8, path_size: usize, value: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_set_property(path: *const u8, path_size: usize, value: *const u8, size: usize) -> u32;
    fn proxy_get_shared_data(
        key: *const u8,
        key_size: usize,
        value: *mut *mut u8,
        size: *mut usize,
        cas: *mut u32,
    ) -> u32;
    fn proxy_set_shared_data(key: *const u8, key_size: usize, value: *const u8, size: usize, cas: u32) -> u32;
    fn proxy_define_metric(kind: u32, name: *const u8, name_size: usize, id: *mut u32) -> u32;
    fn proxy_increment_metric(id: u32, offset: i64) -> u32;
    fn proxy_record_metric(id: u32, value: u64) -> u32;
    fn proxy_grpc_send(token: u32, message: *const u8, size: usize, end: u32) -> u32;
    fn proxy_grpc_close(token: u32) -> u32;
}

const OK: u32 = 0;
const NOT_FOUND: u32 = 1;
const CAS_MISMATCH: u32 = 8;

const NO_GRPC_STATUS: i32 = -1;

const REQUEST_BODY: u32 = 0;
const RESPONSE_BODY: u32 = 1;
const GRPC_MESSAGE: u32 = 5;
const CONFIGURATION: u32 = 7;

const REQUEST_HEADERS: u32 = 0;
const RESPONSE_HEADERS: u32 = 2;

/// The Envoy that runs this VM.
#[derive(Debug)]
pub struct Envoy;

fn check(status: u32) -> Result<(), HostError> {
    if status == OK { Ok(()) } else { Err(HostError(status)) }
}

/// Takes over memory that the host filled.
fn taken(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Result<Option<Vec<u8>>, u32> {
    let (mut data, mut size) = (null_mut(), 0);
    let status = call(&raw mut data, &raw mut size);
    if status != OK {
        return Err(status);
    }
    if data.is_null() {
        return Ok(None);
    }
    // SAFETY: the host allocated `size` bytes through `proxy_on_memory_allocate`, which leaks a `Vec<u8>` of exactly
    // that capacity, and gives them up to us.
    Ok(Some(unsafe { Vec::from_raw_parts(data, size, size) }))
}

fn buffer(kind: u32, start: usize, size: usize) -> Option<Vec<u8>> {
    // SAFETY: both pointers are to live locals of `taken`.
    taken(|data, n| unsafe { proxy_get_buffer_bytes(kind, start, size, data, n) }).ok().flatten()
}

fn headers(map: u32) -> Headers {
    // SAFETY: both pointers are to live locals of `taken`.
    taken(|data, n| unsafe { proxy_get_header_map_pairs(map, data, n) })
        .ok()
        .flatten()
        .map(Headers::new)
        .unwrap_or_default()
}

impl Host for Envoy {
    fn nanos(&self) -> u64 {
        let mut time = 0;
        // SAFETY: the pointer is to a live local.
        unsafe { proxy_get_current_time_nanoseconds(&raw mut time) };
        time
    }

    fn log(&self, level: Level, message: &str) {
        let level = match level {
            Level::Info => 2,
            Level::Warn => 3,
            Level::Critical => 5,
        };
        // SAFETY: `message` lives over the call.
        unsafe { proxy_log(level, message.as_ptr(), message.len()) };
    }

    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        let path = path.join("\0");
        // SAFETY: `path` lives over the call, the out-pointers are to live locals.
        taken(|data, n| unsafe { proxy_get_property(path.as_ptr(), path.len(), data, n) }).ok().flatten()
    }

    fn set_property(&self, path: &[&str], value: &[u8]) -> Result<(), HostError> {
        let path = path.join("\0");
        // SAFETY: both slices live over the call.
        check(unsafe { proxy_set_property(path.as_ptr(), path.len(), value.as_ptr(), value.len()) })
    }

    fn request_headers(&self) -> Headers {
        headers(REQUEST_HEADERS)
    }

    fn set_request_header(&self, name: &str, value: Option<&str>) -> Result<(), HostError> {
        // SAFETY: all slices live over the calls.
        check(unsafe {
            match value {
                Some(v) => {
                    proxy_replace_header_map_value(REQUEST_HEADERS, name.as_ptr(), name.len(), v.as_ptr(), v.len())
                }
                None => proxy_remove_header_map_value(REQUEST_HEADERS, name.as_ptr(), name.len()),
            }
        })
    }

    fn response_headers(&self) -> Headers {
        headers(RESPONSE_HEADERS)
    }

    fn add_response_header(&self, name: &str, v: &str) -> Result<(), HostError> {
        // SAFETY: both slices live over the call.
        check(unsafe { proxy_add_header_map_value(RESPONSE_HEADERS, name.as_ptr(), name.len(), v.as_ptr(), v.len()) })
    }

    fn reply(&self, status: u32, headers: &[(&str, &str)], body: &[u8]) -> Result<(), HostError> {
        let map = encode(headers);
        let details = "warmpath";
        // SAFETY: all slices live over the call.
        check(unsafe {
            proxy_send_local_response(
                status,
                details.as_ptr(),
                details.len(),
                body.as_ptr(),
                body.len(),
                map.as_ptr(),
                map.len(),
                NO_GRPC_STATUS,
            )
        })
    }

    fn request_body(&self, start: usize, size: usize) -> Option<Vec<u8>> {
        buffer(REQUEST_BODY, start, size)
    }

    fn response_body(&self, start: usize, size: usize) -> Option<Vec<u8>> {
        buffer(RESPONSE_BODY, start, size)
    }

    fn configuration(&self) -> Vec<u8> {
        buffer(CONFIGURATION, 0, usize::MAX).unwrap_or_default()
    }

    fn set_tick(&self, every: Duration) {
        // SAFETY: no pointers.
        unsafe { proxy_set_tick_period_milliseconds(u32::try_from(every.as_millis()).unwrap_or(u32::MAX)) };
    }

    fn define_metric(&self, kind: MetricKind, name: &str) -> Result<MetricId, HostError> {
        let kind = match kind {
            MetricKind::Counter => 0,
            MetricKind::Gauge => 1,
            MetricKind::Histogram => 2,
        };
        let mut id = 0;
        // SAFETY: `name` lives over the call, the out-pointer is to a live local.
        check(unsafe { proxy_define_metric(kind, name.as_ptr(), name.len(), &raw mut id) })?;
        Ok(MetricId(id))
    }

    fn increment(&self, metric: MetricId, by: i64) {
        // SAFETY: no pointers.
        unsafe { proxy_increment_metric(metric.0, by) };
    }

    fn record(&self, metric: MetricId, value: u64) {
        // SAFETY: no pointers.
        unsafe { proxy_record_metric(metric.0, value) };
    }

    fn open_stream(&self, cluster: &str, service: &str, method: &str) -> Result<StreamToken, HostError> {
        // Through the SDK, which must know the token to hand on its callbacks. Envoy answers ParseFailure (no such
        // cluster) or InternalFailure here, both of which the SDK returns.
        proxy_wasm::hostcalls::open_grpc_stream(cluster, service, method, Vec::new())
            .map(StreamToken)
            .map_err(|status| HostError(status as u32))
    }

    fn send(&self, stream: StreamToken, message: &[u8]) -> Result<(), HostError> {
        // SAFETY: `message` lives over the call.
        check(unsafe { proxy_grpc_send(stream.0, message.as_ptr(), message.len(), 0) })
    }

    fn close(&self, stream: StreamToken) {
        // SAFETY: no pointers.
        unsafe { proxy_grpc_close(stream.0) };
    }

    fn message(&self, size: usize) -> Option<Vec<u8>> {
        buffer(GRPC_MESSAGE, 0, size)
    }

    fn shared_get(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, StoreError> {
        let mut cas = 0;
        let out = &raw mut cas;
        // SAFETY: `key` lives over the call, the out-pointers are to live locals.
        match taken(|data, n| unsafe { proxy_get_shared_data(key.as_ptr(), key.len(), data, n, out) }) {
            Ok(value) => Ok(Some((value.unwrap_or_default(), cas))),
            Err(NOT_FOUND) => Ok(None),
            Err(_) => Err(StoreError::Failed),
        }
    }

    fn shared_set(&self, key: &str, value: &[u8], cas: u32) -> Result<(), StoreError> {
        // SAFETY: both slices live over the call.
        match unsafe { proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), cas) } {
            OK => Ok(()),
            CAS_MISMATCH => Err(StoreError::Mismatch),
            _ => Err(StoreError::Failed),
        }
    }
}
