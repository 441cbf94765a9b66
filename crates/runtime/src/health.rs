//! `/healthz`, `/readyz`, `/metrics`.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::info::Info;
pub use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// What a program still waits for; it is ready when there is nothing. Clones share one list.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    waits: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Readiness {
    /// Not ready before `what` is [`done`](Self::done); `why` is shown by `/readyz`.
    pub fn wait(&self, what: &str, why: impl Into<String>) {
        self.lock().insert(what.to_string(), why.into());
    }

    /// No longer waiting for `what`.
    pub fn done(&self, what: &str) {
        self.lock().remove(what);
    }

    /// What is waited for and why; empty: ready.
    pub fn waits(&self) -> BTreeMap<String, String> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        // No code panics while it holds this lock, and half a change cannot be seen.
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Signs of life of a program's main loop; clones share one.
#[derive(Clone, Debug)]
pub struct Heartbeat(Arc<Mutex<Instant>>);

impl Default for Heartbeat {
    /// Alive now.
    fn default() -> Self {
        Heartbeat(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Heartbeat {
    /// How often a loop gives one although nothing happens.
    pub const PULSE: Duration = Duration::from_secs(10);
    /// A loop that has given none for so long is stuck: the largest table takes the kernel seconds.
    pub const SILENCE: Duration = Duration::from_secs(60);

    /// The loop goes round.
    pub fn beat(&self) {
        *self.last() = Instant::now();
    }

    /// Ticks for [`Heartbeat::beat`].
    pub fn pulse() -> Interval {
        let mut pulse = interval(Heartbeat::PULSE);
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        pulse
    }

    /// How long it has been silent, where that is too long.
    fn stuck(&self) -> Option<Duration> {
        Some(self.last().elapsed()).filter(|silence| *silence > Heartbeat::SILENCE)
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The registry of a program: its prefix, and `build_info` with its version.
pub fn registry(prefix: &str, version: &'static str) -> Registry {
    let mut registry = Registry::with_prefix(prefix);
    registry.register("build", "The program's version", Info::new(vec![("version", version)]));
    registry
}

/// What is served. Clones are the same.
#[derive(Clone, Debug)]
pub struct Served {
    /// `/readyz`.
    pub readiness: Readiness,
    /// `/healthz`.
    pub heartbeat: Heartbeat,
    /// `/metrics`.
    pub registry: Arc<Registry>,
}

impl Served {
    /// Binds the address before it returns, so that a port in use is an error at the start, and serves until shutdown.
    pub async fn serve(&self, address: SocketAddr, shutdown: CancellationToken) -> std::io::Result<Server> {
        let health = Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz));
        self.run(address, health.route("/metrics", get(metrics)), shutdown).await
    }

    /// The same, and `/metrics` alone at another address if there is one; the first as it was bound.
    pub async fn open(
        &self,
        address: SocketAddr,
        metrics: Option<SocketAddr>,
        shutdown: &CancellationToken,
    ) -> std::io::Result<SocketAddr> {
        let (bound, _) = self.serve(address, shutdown.clone()).await?;
        if let Some(metrics) = metrics {
            let (address, _) = self.serve_metrics(metrics, shutdown.clone()).await?;
            tracing::info!(%address, "metrics are open to whoever reaches this address");
        }
        Ok(bound)
    }

    /// The same of `/metrics` alone, for an address that others reach.
    pub async fn serve_metrics(&self, address: SocketAddr, shutdown: CancellationToken) -> std::io::Result<Server> {
        self.run(address, Router::new().route("/metrics", get(metrics)), shutdown).await
    }

    async fn run(&self, address: SocketAddr, router: Router<Served>, shutdown: CancellationToken) -> std::io::Result<Server> {
        let cannot = |error: Error| Error::new(error.kind(), format!("cannot listen on {address}: {error}"));
        let listener = bind(address).await.map_err(cannot)?;
        let bound = listener.local_addr()?;
        let router = router.with_state(self.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await });
        Ok((bound, task))
    }
}

/// `[::]` is every address, of IPv4 too: also where the kernel has no IPv6 (`ipv6.disable=1`).
async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && error.kind() != ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    }
}

/// Where it listens, and the task that does.
pub type Server = (SocketAddr, JoinHandle<std::io::Result<()>>);

async fn healthz(State(served): State<Served>) -> Response {
    match served.heartbeat.stuck() {
        None => "ok\n".into_response(),
        Some(silence) => (StatusCode::SERVICE_UNAVAILABLE, format!("main loop: stuck for {} s\n", silence.as_secs())).into_response(),
    }
}

async fn readyz(State(served): State<Served>) -> Response {
    let waits = served.readiness.waits();
    if waits.is_empty() {
        return "ok\n".into_response();
    }
    let lines: String = waits.iter().map(|(what, why)| format!("{what}: {why}\n")).collect();
    (StatusCode::SERVICE_UNAVAILABLE, lines).into_response()
}

async fn metrics(State(served): State<Served>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &served.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_goes_round_no_more_is_not_alive() {
        let served = Served { readiness: Readiness::default(), heartbeat: Heartbeat::default(), registry: Arc::default() };
        let ask = || async { healthz(State(served.clone())).await.status().as_u16() };
        tokio::time::sleep(Heartbeat::SILENCE).await;
        assert_eq!(ask().await, 200);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(ask().await, 503);
        served.heartbeat.beat();
        assert_eq!(ask().await, 200, "it was slow, not stuck");
    }

    #[tokio::test]
    async fn ready_when_nothing_is_waited_for_and_alive_all_the_time() {
        let readiness = Readiness::default();
        readiness.wait("watch of pods", "connection refused");
        let mut registry = registry("test", "1.2.3");
        let counter = prometheus_client::metrics::counter::Counter::<u64>::default();
        registry.register("things", "Things", counter.clone());
        counter.inc();
        let shutdown = CancellationToken::new();
        let served = Served { readiness: readiness.clone(), heartbeat: Heartbeat::default(), registry: Arc::new(registry) };
        let (address, task) = served.serve(([127, 0, 0, 1], 0).into(), shutdown.clone()).await.unwrap();

        let waiting = get(address, "/readyz").await;
        assert!(waiting.starts_with("HTTP/1.1 503 "), "{waiting}");
        assert!(waiting.contains("watch of pods: connection refused"), "{waiting}");
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200 "));
        let metrics = get(address, "/metrics").await;
        assert!(metrics.contains("test_things_total 1\n") && metrics.contains("test_build_info{version=\"1.2.3\"} 1\n"), "{metrics}");

        readiness.done("watch of pods");
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200 "));

        assert!(served.serve(address, shutdown.clone()).await.is_err(), "a port in use is an error at once");

        let (open, _) = served.serve_metrics(([127, 0, 0, 1], 0).into(), shutdown.clone()).await.unwrap();
        assert!(get(open, "/metrics").await.contains("test_things_total 1\n"));
        assert!(get(open, "/readyz").await.starts_with("HTTP/1.1 404 "), "metrics alone");
        shutdown.cancel();
        task.await.unwrap().unwrap();
    }
}
