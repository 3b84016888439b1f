//! Configuration, ticks, and the callbacks of the feed's stream.

use crate::host::{Host, Level, StreamToken};
use crate::http::Http;
use crate::stats::Counter;
use crate::worker::Worker;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::ContextType;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use warmpath_core::config::{Config, Mode};

/// Between two ticks: bounds how late a VM without traffic folds, and how late the sidecar hears.
const TICK: Duration = Duration::from_millis(50);

/// The root context.
pub struct Root {
    host: Rc<dyn Host>,
    worker: Option<Rc<RefCell<Worker>>>,
    /// The configuration as it came, until the first tick keeps it for plugins configured worse later.
    accepted: Option<Vec<u8>>,
}

impl Root {
    /// A root that waits for its configuration.
    #[must_use]
    pub fn new(_id: u32, host: Rc<dyn Host>) -> Self {
        Self { host, worker: None, accepted: None }
    }

    /// Where the last good configuration stands, so that a bad one that comes live changes nothing.
    fn good_key(&self) -> String {
        let id = self.host.property(&["plugin_root_id"]).or_else(|| self.host.property(&["plugin_name"]));
        format!("warmpath/config/{}", String::from_utf8_lossy(&id.unwrap_or_default()))
    }

    fn configure(&mut self) {
        let json = self.host.configuration();
        let (config, json, refused) = match Config::parse(&json) {
            Ok(config) => {
                self.accepted = Some(json.clone());
                (config, json, false)
            }
            Err(error) => {
                let good = self.host.shared_get(&self.good_key()).ok().flatten();
                let good = good.and_then(|(bytes, _)| Some((Config::parse(&bytes).ok()?, bytes)));
                let doing = if good.is_some() { "keeping the configuration before" } else { "steering nothing" };
                self.host.log(Level::Critical, &format!("warmpath: {error}; {doing}"));
                let (config, json) =
                    good.unwrap_or_else(|| (Config { mode: Mode::Off, ..Config::default() }, Vec::new()));
                (config, json, true)
            }
        };
        let worker = Worker::new(Rc::clone(&self.host), Rc::new(config), &json);
        if refused {
            worker.stats.add(Counter::ConfigErrors, 1);
            // A VM that only tries a configuration has no ticks.
            worker.stats.flush();
        }
        self.worker = Some(Rc::new(RefCell::new(worker)));
    }

    pub(crate) fn with_worker(&self, act: impl FnOnce(&mut Worker)) {
        if let Some(worker) = &self.worker
            && let Ok(mut worker) = worker.try_borrow_mut()
        {
            act(&mut worker);
        }
    }
}

impl Context for Root {
    fn on_grpc_stream_message(&mut self, token: u32, size: usize) {
        if let Some(bytes) = self.host.message(size) {
            self.with_worker(|w| w.feed_message(StreamToken(token), &bytes));
        }
    }

    fn on_grpc_stream_close(&mut self, token: u32, _status: u32) {
        self.with_worker(|w| w.feed_closed(StreamToken(token)));
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        self.configure();
        self.host.set_tick(TICK);
        // A refused configuration must not stop traffic, whatever the plugin's failure policy is.
        true
    }

    fn on_tick(&mut self) {
        if let Some(json) = self.accepted.take() {
            // Not at configuration: Envoy runs that in a VM that it throws away, too.
            let _ = self.host.shared_set(&self.good_key(), &json, 0);
        }
        self.with_worker(Worker::tick);
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        // The SDK panics on None, so a root without a configuration gets a worker that does nothing.
        let worker = self.worker.clone().unwrap_or_else(|| {
            let off = Config { mode: Mode::Off, ..Config::default() };
            Rc::new(RefCell::new(Worker::new(Rc::clone(&self.host), Rc::new(off), b"")))
        });
        Some(Box::new(Http::new(Rc::clone(&self.host), worker)))
    }
}
