//! warmpath: the very `core` code that the filter runs, with a view for each worker VM that folds its gateway's journal
//! before it decides.

use super::{Answered, Asked, Place, Policy, Scrape, Setting};
use std::collections::VecDeque;
use std::rc::Rc;
use warmpath_core::config::Config;
use warmpath_core::journal::{Body, Record};
use warmpath_core::placement::{Priority, Reason};
use warmpath_core::request::Prompt;
use warmpath_core::router::{Request, Router};
use warmpath_core::table::{Endpoint, Load, State, Table};
use warmpath_core::units::{EndpointId, Millis, Origin, RequestId, Seconds, Tokens};
use warmpath_core::view::View;

/// Seconds between two scrapes, as the sidecar's default.
const SCRAPE: f64 = 1.0;

/// What stands in a gateway's journal.
enum Entry {
    Record(Rc<Record>),
    Table(usize),
}

struct Worker {
    view: View,
    router: Router,
    /// How much of the journal it has folded.
    folded: usize,
}

struct Gateway {
    journal: Vec<Entry>,
    workers: Vec<Worker>,
    /// Records of other gateways on their way here, with the moment of their arrival.
    coming: VecDeque<(f64, Rc<Record>)>,
}

/// See the module's text.
pub struct Warmpath {
    config: Config,
    gateways: Vec<Gateway>,
    tables: Vec<Table>,
    gossip: f64,
    capacity: u64,
    ids: Vec<EndpointId>,
    believed: u64,
    /// How often each reason was given, in the order of [`Reason::ALL`].
    pub reasons: [u64; Reason::ALL.len()],
}

fn millis(seconds: f64) -> Millis {
    Millis((seconds * 1000.0) as u64)
}

impl Warmpath {
    /// With this configuration.
    pub fn with(config: Config, setting: &Setting) -> Self {
        let worker = |_| Worker { view: View::new(config.view_limits()), router: Router::new(&config), folded: 0 };
        let gateway = |_| Gateway {
            journal: Vec::new(),
            workers: (0..setting.workers).map(worker).collect(),
            coming: VecDeque::new(),
        };
        Self {
            gateways: (0..setting.gateways).map(gateway).collect(),
            tables: Vec::new(),
            gossip: setting.gossip,
            capacity: setting.capacity,
            ids: Vec::new(),
            believed: 0,
            reasons: [0; Reason::ALL.len()],
            config,
        }
    }

    /// With the defaults.
    pub fn new(setting: &Setting) -> Self {
        Self::with(setting.config.clone(), setting)
    }

    /// Writes to a gateway's journal, and sends it on to the others.
    fn journal(&mut self, place: Place, number: usize, now: f64, body: Body) {
        let request = RequestId { origin: Origin(place.gateway as u64 + 1), number: number as u64 + 1 };
        let record = Rc::new(Record { request, at: millis(now), body });
        for (i, gateway) in self.gateways.iter_mut().enumerate() {
            if i == place.gateway {
                gateway.journal.push(Entry::Record(Rc::clone(&record)));
            } else if self.gossip.is_finite() {
                gateway.coming.push_back((now + self.gossip, Rc::clone(&record)));
            }
        }
    }

    fn receive(&mut self, gateway: usize, now: f64) {
        let gateway = &mut self.gateways[gateway];
        while gateway.coming.front().is_some_and(|(at, _)| *at <= now) {
            gateway.journal.extend(gateway.coming.pop_front().map(|(_, record)| Entry::Record(record)));
        }
    }
}

impl Policy for Warmpath {
    fn choose(&mut self, asked: &Asked<'_>) -> usize {
        self.receive(asked.place.gateway, asked.now);
        let now = millis(asked.now);
        let Gateway { journal, workers, .. } = &mut self.gateways[asked.place.gateway];
        let worker = &mut workers[asked.place.worker];
        for entry in &journal[worker.folded..] {
            match entry {
                Entry::Record(record) => worker.view.fold(record, now),
                Entry::Table(at) => worker.view.apply_table(&self.tables[*at], now),
            }
        }
        worker.folded = journal.len();
        let prompt = Prompt {
            boundaries: asked.prompt.boundaries.clone(),
            bytes: asked.prompt.bytes,
            stream: true,
            ..Prompt::default()
        };
        let request = Request::Prompt(&prompt);
        let decision = worker.router.decide(&self.config, &worker.view, request, Priority::default(), now);
        let choice = &decision.choices[0];
        self.believed = choice.matched.0;
        self.reasons[decision.reason as usize] += 1;
        let (endpoint, pod) = (choice.id, self.ids.iter().position(|id| *id == choice.id));
        let body =
            Body::Route { endpoint, bytes: prompt.bytes, stream: true, boundaries: prompt.boundaries, late_ms: 0 };
        self.journal(asked.place, asked.number, asked.now, body);
        pod.unwrap_or(0)
    }

    fn first_token(&mut self, number: usize, place: Place, _: usize, ttft: f64, now: f64) {
        self.journal(place, number, now, Body::FirstToken { ttft: Seconds(ttft) });
    }

    fn answered(&mut self, a: &Answered) {
        let tokens = |n: u32| Some(Tokens(u64::from(n)));
        let body = Body::Done { prompt: tokens(a.prompt), cached: tokens(a.cached), output: tokens(a.output) };
        self.journal(a.place, a.number, a.now, body);
    }

    fn scraped(&mut self, pods: &[Scrape], now: f64) {
        let endpoint = |(i, pod): (usize, &Scrape)| {
            let address = format!("10.0.0.{i}:8000");
            let load = Load { running: pod.running, waiting: pod.waiting, kv_usage: pod.kv_usage as f32 };
            Endpoint {
                id: EndpointId::new(&address, None, &pod.incarnation.to_string()),
                state: if pod.choosable { State::Ready } else { State::Draining },
                address,
                block_size: 16,
                capacity: Tokens(self.capacity),
                load,
                ..Endpoint::default()
            }
        };
        let endpoints: Vec<_> = pods.iter().enumerate().map(endpoint).collect();
        self.ids = endpoints.iter().map(|e| e.id).collect();
        let endpoints = endpoints.into_iter().zip(pods).filter(|(_, pod)| pod.present).map(|(e, _)| e).collect();
        let version = self.tables.len() as u64 + 1;
        self.tables.push(Table { version, written_at: millis(now), endpoints });
        for gateway in &mut self.gateways {
            gateway.journal.push(Entry::Table(self.tables.len() - 1));
        }
    }

    fn scrape_interval(&self) -> f64 {
        SCRAPE
    }

    fn believed(&self) -> Option<u64> {
        Some(self.believed)
    }
}
