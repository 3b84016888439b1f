//! `warmpath sidecar`: puts the parts together, says where they listen, and stops them within a second.

use crate::cli::{PeersArgs, SidecarArgs, Sources};
use crate::clock::Clock;
use crate::discovery::file::FileDiscovery;
use crate::discovery::kubernetes::{self, KubernetesDiscovery, Target};
use crate::discovery::names::Names;
use crate::discovery::standing::Standing;
use crate::discovery::{Discovery, merge};
use crate::exchange::Exchange;
use crate::feed::{FeedService, OpenStreams};
use crate::hub::Hub;
use crate::keeper::Keeper;
use crate::memory::Memories;
use crate::observe::Pages;
use crate::observe::events;
use crate::observe::explain::Guard;
use crate::observe::host::Names as HostNames;
use crate::observe::metrics::{FeedMetrics, PeerMetrics, Present, ScrapeMetrics, registry};
use crate::observe::traffic::{self, Traffic};
use crate::observe::wasm::Wasm;
use crate::observe::web::router;
use crate::peers::proto::peers_server::PeersServer;
use crate::peers::serve::Serving;
use crate::peers::{self, Peers, Secret};
use crate::pods::client::Client;
use crate::pods::task::{Timing, Tools};
use crate::proto::feed_server::FeedServer;
use crate::shutdown::Shutdown;
use crate::table::Publisher;
use prometheus_client::metrics::counter::Counter;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use warmpath_core::units::Origin;

/// HTTP/2 pings to Envoy, and how long an answer may take: a half-open stream ends after both.
const PING: Duration = Duration::from_secs(5);

/// How long open connections may finish after the end was asked for.
const FINISH: Duration = Duration::from_millis(700);

/// A sidecar whose listeners are open.
pub struct Sidecar {
    http: TcpListener,
    feed: TcpListener,
    hub: Arc<Hub>,
    pages: Arc<Pages>,
    keeper: Keeper,
    sources: Vec<Followed>,
    feed_streams: usize,
    peers: Option<PeersPart>,
}

/// A source of endpoints, and how it stands.
type Followed = (Box<dyn Discovery>, Arc<Standing>);

/// What there is only with peers.
struct PeersPart {
    listener: TcpListener,
    sources: Vec<Followed>,
    secret: Secret,
}

impl Sidecar {
    /// Opens the listeners and reads the filter.
    ///
    /// # Errors
    /// A sentence naming the option that cannot be met.
    pub async fn open(args: &SidecarArgs) -> Result<Self, String> {
        let clock = Clock::start();
        let http = listen("--http-listen", args.http_listen).await?;
        let feed = listen("--feed-listen", args.feed_listen).await?;
        let wasm = args.filter.as_deref().map(Wasm::read).transpose()?;
        let mut registry = registry();
        let discovery_errors = Counter::<u64>::default();
        registry.register("discovery_errors", "Failures of sources of endpoints", discovery_errors.clone());
        let followed = |source: Box<dyn Discovery>| {
            let standing = Arc::new(Standing::new(source.name(), clock, discovery_errors.clone()));
            (source, standing)
        };
        let sources: Vec<Followed> = sources(&args.sources).await?.into_iter().map(followed).collect();
        let peers = match args.peers.are_named() {
            true => Some(PeersPart {
                listener: listen("--peers-listen", args.peers.peers_listen).await?,
                sources: peer_sources(&args.peers).await?.into_iter().map(followed).collect(),
                secret: Secret::new(args.peers.peers_token.clone()),
            }),
            false => None,
        };
        let all = sources.iter().chain(peers.iter().flat_map(|peers| &peers.sources));
        let standings: Arc<[Arc<Standing>]> = all.map(|(_, standing)| Arc::clone(standing)).collect();
        let tools = Tools {
            client: Client::new(args.connect_timeout, args.pod_api_key.as_deref(), args.pod_certificates.as_deref())?,
            timing: Timing {
                interval: args.scrape_interval,
                timeout: args.scrape_timeout,
                confirm_after: args.confirm_after,
                late_limit: args.late_limit,
                models_interval: args.models_interval,
            },
            clock,
            metrics: Arc::new(ScrapeMetrics::register(&mut registry)),
        };
        let (publisher, tables) = Publisher::new(clock.started_at());
        let hub = Arc::new(Hub {
            tables,
            memories: Memories::default(),
            exchange: Exchange::default(),
            open: OpenStreams::default(),
            peers: Peers::default(),
            peer_metrics: Arc::new(PeerMetrics::register(&mut registry)),
            metrics: Arc::new(FeedMetrics::register(&mut registry)),
            clock,
            refill_rate: args.refill_rate,
            own: Origin(rand::random()),
        });
        let traffic = Arc::new(Traffic::register(&mut registry));
        registry.register_collector(Box::new(Present { hub: Arc::clone(&hub), sources: Arc::clone(&standings) }));
        let address = http.local_addr().map_err(|error| format!("--http-listen: {error}"))?;
        let pages = Pages {
            hub: Arc::clone(&hub),
            sources: standings,
            traffic,
            events: Arc::default(),
            guard: Guard::new(address, args.explain_token.clone()),
            names: HostNames::new(&args.http_hosts),
            registry,
            wasm,
        };
        Ok(Self {
            http,
            feed,
            pages: Arc::new(pages),
            hub,
            keeper: Keeper::new(tools, publisher, args.table_delay),
            sources,
            feed_streams: args.feed_streams,
            peers,
        })
    }

    /// Where it listens, as one line of JSON: `{"http":"ip:port","feed":"ip:port","peers":"ip:port"}`.
    ///
    /// # Errors
    /// When the operating system does not tell.
    pub fn listening(&self) -> std::io::Result<String> {
        let (http, feed) = (self.http.local_addr()?, self.feed.local_addr()?);
        let peers = self.peers.as_ref().map(|peers| peers.listener.local_addr()).transpose()?;
        Ok(serde_json::json!({"http": http, "feed": feed, "peers": peers}).to_string())
    }

    /// Serves until shutdown.
    ///
    /// # Errors
    /// When a server fails.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), String> {
        let (found, discovered) = watch::channel(None);
        let discovery = tokio::spawn(merge::run(self.sources, found, merge::PATIENCE));
        let keeper = tokio::spawn(self.keeper.run(discovered, shutdown.clone()));
        let (traffic, events) = (Arc::clone(&self.pages.traffic), Arc::clone(&self.pages.events));
        let counting = tokio::spawn(traffic::follow(Arc::clone(&self.hub), traffic, events, shutdown.clone()));
        let telling = tokio::spawn(events::run(Arc::clone(&self.pages), shutdown.clone()));
        let http = axum::serve(self.http, router(self.pages)).with_graceful_shutdown(shutdown.wait());
        let feed = FeedServer::new(FeedService::new(Arc::clone(&self.hub), self.feed_streams, shutdown.clone()));
        let feed =
            grpc().add_service(feed).serve_with_incoming_shutdown(TcpListenerStream::new(self.feed), shutdown.wait());
        let peers = serve_peers(self.hub, self.peers, shutdown.clone());
        let all = async {
            tokio::try_join!(
                async { http.await.map_err(|error| format!("HTTP server: {error}")) },
                async { feed.await.map_err(|error| format!("feed server: {error}")) },
                peers,
            )
        };
        let result = tokio::select! {
            result = all => result.map(drop),
            // Connections that Envoy or a browser keeps open would otherwise hold the process.
            () = async { shutdown.wait().await; tokio::time::sleep(FINISH).await } => Ok(()),
        };
        discovery.abort();
        keeper.abort();
        counting.abort();
        telling.abort();
        result
    }
}

/// Serves peers and follows them, if there are to be any, until shutdown.
async fn serve_peers(hub: Arc<Hub>, part: Option<PeersPart>, shutdown: Shutdown) -> Result<(), String> {
    let Some(PeersPart { listener, sources, secret }) = part else {
        shutdown.wait().await;
        return Ok(());
    };
    let (found, discovered) = watch::channel(None);
    let service = PeersServer::new(Serving::new(Arc::clone(&hub), secret.clone(), shutdown.clone()));
    let server =
        grpc().add_service(service).serve_with_incoming_shutdown(TcpListenerStream::new(listener), shutdown.wait());
    let discovery = merge::run(sources, found, merge::PATIENCE);
    let (served, (), ()) = tokio::join!(server, discovery, peers::run(hub, discovered, secret, shutdown));
    served.map_err(|error| format!("peers server: {error}"))
}

fn grpc() -> Server {
    Server::builder().http2_keepalive_interval(Some(PING)).http2_keepalive_timeout(Some(PING)).tcp_nodelay(true)
}

/// The sources of peers that the options name.
async fn peer_sources(named: &PeersArgs) -> Result<Vec<Box<dyn Discovery>>, String> {
    let mut all: Vec<Box<dyn Discovery>> = Vec::new();
    if !named.peers.is_empty() {
        all.push(Box::new(Names::new("--peers", named.peers.clone())));
    }
    if let Some(service) = &named.peers_service {
        let client = kubernetes::client().await?;
        all.push(Box::new(KubernetesDiscovery::new(client, "--peers-service", Target::Service(service.clone()))));
    }
    Ok(all)
}

/// The sources that the options name, in the order in which the options stand in the help.
async fn sources(named: &Sources) -> Result<Vec<Box<dyn Discovery>>, String> {
    let mut all: Vec<Box<dyn Discovery>> = Vec::new();
    if let Some(path) = &named.endpoints {
        all.push(Box::new(FileDiscovery::new(path.clone())));
    }
    let services = named.kubernetes_service.iter().cloned().map(|t| ("--kubernetes-service", Target::Service(t)));
    let pods = named.kubernetes_pods.iter().cloned().map(|t| ("--kubernetes-pods", Target::Pods(t)));
    let pools = named.kubernetes_inference_pool.iter().cloned();
    let pools = pools.map(|t| ("--kubernetes-inference-pool", Target::InferencePool(t)));
    let targets: Vec<(&'static str, Target)> = services.chain(pods).chain(pools).collect();
    if !targets.is_empty() {
        // One client, and so one set of connections, for all of them.
        let client = kubernetes::client().await?;
        for (option, target) in targets {
            all.push(Box::new(KubernetesDiscovery::new(client.clone(), option, target)));
        }
    }
    Ok(all)
}

async fn listen(option: &str, address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| format!("{option} {address}: {error}"))
}
