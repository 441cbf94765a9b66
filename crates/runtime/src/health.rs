//! `/healthz`, `/readyz`, `/metrics`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text::encode;
pub use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
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

#[derive(Clone)]
struct Served {
    readiness: Readiness,
    registry: Arc<Registry>,
}

/// Binds the address before it returns, so that a port in use is an error at the start, and serves until shutdown.
pub async fn serve(
    address: SocketAddr,
    readiness: Readiness,
    registry: Registry,
    shutdown: CancellationToken,
) -> std::io::Result<(SocketAddr, JoinHandle<std::io::Result<()>>)> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    let served = Served { readiness, registry: Arc::new(registry) };
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(served);
    let task = tokio::spawn(async move { axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await });
    Ok((bound, task))
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

    #[tokio::test]
    async fn ready_when_nothing_is_waited_for_and_alive_all_the_time() {
        let readiness = Readiness::default();
        readiness.wait("watch of pods", "connection refused");
        let mut registry = Registry::with_prefix("test");
        let counter = prometheus_client::metrics::counter::Counter::<u64>::default();
        registry.register("things", "Things", counter.clone());
        counter.inc();
        let shutdown = CancellationToken::new();
        let (address, task) = serve(([127, 0, 0, 1], 0).into(), readiness.clone(), registry, shutdown.clone()).await.unwrap();

        let waiting = get(address, "/readyz").await;
        assert!(waiting.starts_with("HTTP/1.1 503 "), "{waiting}");
        assert!(waiting.contains("watch of pods: connection refused"), "{waiting}");
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200 "));
        assert!(get(address, "/metrics").await.contains("test_things_total 1\n"));

        readiness.done("watch of pods");
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200 "));

        assert!(serve(address, readiness, Registry::default(), shutdown.clone()).await.is_err(), "a port in use is an error at once");
        shutdown.cancel();
        task.await.unwrap().unwrap();
    }
}
