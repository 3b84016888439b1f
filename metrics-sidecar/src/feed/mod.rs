//! The gRPC feed: one stream from each plugin of each Envoy process. Tables go down, journals come up, refills go down.
//!
//! [`stream`] is one stream's life, [`refill`] cuts a refill into paced messages.

pub mod refill;
pub mod stream;

use crate::hub::Hub;
use crate::proto::feed_server::Feed;
use crate::proto::{Down, Up};
use crate::shutdown::Shutdown;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use warmpath_core::units::{Millis, Origin};

/// Messages that may wait for one Envoy to read. Few: what waits here is old.
const QUEUE: usize = 4;

/// The service.
#[derive(Debug)]
pub struct FeedService {
    hub: Arc<Hub>,
    slots: Arc<Semaphore>,
    shutdown: Shutdown,
}

impl FeedService {
    /// A service for at most `max_streams` streams at once.
    #[must_use]
    pub fn new(hub: Arc<Hub>, max_streams: usize, shutdown: Shutdown) -> Self {
        Self { hub, slots: Arc::new(Semaphore::new(max_streams.min(Semaphore::MAX_PERMITS))), shutdown }
    }
}

#[tonic::async_trait]
impl Feed for FeedService {
    type ConnectStream = ReceiverStream<Result<Down, Status>>;

    async fn connect(&self, request: Request<Streaming<Up>>) -> Result<Response<Self::ConnectStream>, Status> {
        let slot = Arc::clone(&self.slots).try_acquire_owned().map_err(|_| {
            self.hub.metrics.refused.inc();
            Status::resource_exhausted("too many feed streams are open; see --feed-streams")
        })?;
        let peer = request.remote_addr().map_or_else(|| "unknown".to_owned(), |addr| addr.to_string());
        let (out, down) = mpsc::channel(QUEUE);
        let (hub, shutdown) = (Arc::clone(&self.hub), self.shutdown.clone());
        tokio::spawn(async move {
            let _slot = slot;
            stream::serve(&hub, peer, request.into_inner(), out, shutdown).await;
        });
        Ok(Response::new(ReceiverStream::new(down)))
    }
}

/// An open stream, for the status page.
#[derive(Debug)]
pub struct StreamInfo {
    /// Envoy's side of the connection.
    pub peer: String,
    /// The plugin's name.
    pub plugin: String,
    /// The Envoy process.
    pub origin: Origin,
    /// Since when.
    pub since: Millis,
    /// Journal slots that came.
    pub slots: AtomicU64,
    /// Records in them.
    pub records: AtomicU64,
    /// Tables sent.
    pub tables: AtomicU64,
    /// Refills sent.
    pub refills: AtomicU64,
}

/// The open streams.
#[derive(Debug, Default)]
pub struct OpenStreams {
    last: AtomicU64,
    open: Mutex<BTreeMap<u64, Arc<StreamInfo>>>,
}

impl OpenStreams {
    /// Lists a stream until the ticket is dropped.
    fn add(&self, info: StreamInfo) -> Ticket<'_> {
        let (number, info) = (self.last.fetch_add(1, Ordering::Relaxed), Arc::new(info));
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::clone(&info));
        Ticket { streams: self, number, info }
    }

    /// All of them, oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<StreamInfo>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

struct Ticket<'a> {
    streams: &'a OpenStreams,
    number: u64,
    info: Arc<StreamInfo>,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.streams.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}
