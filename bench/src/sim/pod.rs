//! What all requests to one pod share.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::header::HeaderValue;

use super::debug::{Behaviour, RequestLog};
use super::engine::Engine;
use super::options::Options;
use crate::hash::fnv;

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
    /// Where chats are answered unread: the share of each that is told to be cached.
    pub drain: Option<f64>,
    /// The last requests.
    pub log: RequestLog,
    /// Start, in unix seconds.
    pub started: f64,
    /// Value of `x-sim-pod`.
    pub name: HeaderValue,
    behaviour: RwLock<Behaviour>,
    turn: AtomicUsize,
    answers: AtomicU64,
    stored: Mutex<HashSet<String>>,
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
            drain: options.drain,
            log: RequestLog::default(),
            started: unix_seconds(),
            name: name.unwrap_or_else(|_| HeaderValue::from_static("sim")),
            behaviour: RwLock::default(),
            turn: AtomicUsize::new(0),
            // Ids of answers differ between pods, as vLLM's random ones do.
            answers: AtomicU64::new(fnv(address.to_string().as_bytes()) << 32),
            stored: Mutex::default(),
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
            engine.take_memory(behaviour == Behaviour::OutOfMemory);
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

    /// Keeps an answer of `/v1/responses`: only its id, for nobody reads it.
    pub fn store(&self, id: String) {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
    }

    /// Whether it keeps that answer.
    pub fn has_stored(&self, id: &str) -> bool {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
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
