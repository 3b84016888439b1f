//! What all requests to one pod share.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::header::HeaderValue;

use super::debug::{Behaviour, RequestLog};
use super::engine::Engine;
use super::options::Options;

/// A running pod.
pub struct Pod {
    /// Names of the base model, the first is its own name.
    pub models: Vec<String>,
    /// Names of adapters.
    pub loras: Vec<Arc<str>>,
    /// One a data-parallel rank.
    pub engines: Vec<Arc<Engine>>,
    /// Tokens in a block.
    pub block_size: usize,
    /// The last requests.
    pub log: RequestLog,
    /// Start, in unix seconds.
    pub started: f64,
    /// Value of `x-sim-pod`.
    pub name: HeaderValue,
    behaviour: RwLock<Behaviour>,
    turn: AtomicUsize,
    answers: AtomicU64,
}

/// A served name.
pub enum Served {
    /// The base model.
    Base,
    /// An adapter on it.
    Lora(Arc<str>),
}

impl Pod {
    /// Starts the engines.
    pub fn start(options: &Options, address: SocketAddr) -> Arc<Self> {
        let shape = options.shape();
        let name = HeaderValue::from_str(&address.to_string());
        Arc::new(Self {
            models: options.models.clone(),
            loras: options.loras.iter().map(|name| name.as_str().into()).collect(),
            engines: (0..options.ranks).map(|_| Engine::start(shape.clone())).collect(),
            block_size: shape.block_size,
            log: RequestLog::default(),
            started: unix_seconds(),
            name: name.unwrap_or_else(|_| HeaderValue::from_static("sim")),
            behaviour: RwLock::default(),
            turn: AtomicUsize::new(0),
            answers: AtomicU64::new(0),
        })
    }

    /// How to answer now.
    pub fn behaviour(&self) -> Behaviour {
        *self.behaviour.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes how to answer.
    pub fn behave(&self, behaviour: Behaviour) {
        let factor = match behaviour {
            Behaviour::Slow { factor } => factor,
            _ => 1.0,
        };
        for engine in &self.engines {
            engine.set_slowness(factor);
        }
        *self.behaviour.write().unwrap_or_else(PoisonError::into_inner) = behaviour;
    }

    /// What `name` stands for; `None` for an unknown model.
    pub fn served(&self, name: &str) -> Option<Served> {
        if self.models.iter().any(|model| model == name) {
            return Some(Served::Base);
        }
        let lora = self.loras.iter().find(|lora| ***lora == *name);
        lora.cloned().map(Served::Lora)
    }

    /// The engine whose turn it is.
    pub fn next_engine(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed) % self.engines.len()
    }

    /// A number for the next answer's id.
    pub fn next_answer(&self) -> u64 {
        self.answers.fetch_add(1, Ordering::Relaxed)
    }
}

/// Now.
pub fn unix_seconds() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}
