//! The HTTP port of a service: probes, metrics, and what the service adds. It is there before the
//! model is loaded, and to the very end.

use super::Health;
use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{StatusCode, header::CONTENT_TYPE},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use std::{
    pin::pin,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt as _;

/// Most bytes of the head of a request.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// Time for the body of a request to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of that body.
const MAX_BODY_BYTES: usize = 64 << 10;
/// Rest after a connection could not be taken, as when file handles have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Bounds of the port's connections.
#[derive(Clone, Copy)]
struct Limits {
    /// Open ones; more wait in the system's queue.
    connections: usize,
    /// Time for the head of a request to come, and so the longest rest between two.
    head: Duration,
    /// After this time one takes no new request, and after it once more it is cut.
    age: Duration,
}

const LIMITS: Limits = Limits {
    connections: 256,
    head: Duration::from_secs(30),
    age: Duration::from_secs(600),
};

/// The HTTP port while it is open; dropping it closes it and its connections.
pub struct Http {
    more: Arc<OnceLock<Router>>,
    _end: DropGuard,
}

#[derive(Clone)]
struct Shown {
    ready: watch::Receiver<bool>,
    registry: Arc<Registry>,
    more: Arc<OnceLock<Router>>,
}

impl Http {
    /// Answers on `listener`, if there is one: `/livez` at all times, `/readyz` by `health`, and
    /// `/metrics` with what `registry` holds.
    pub fn start(listener: Option<TcpListener>, health: &Health, registry: Registry) -> Self {
        Self::within(LIMITS, listener, health, registry)
    }

    fn within(
        limits: Limits,
        listener: Option<TcpListener>,
        health: &Health,
        registry: Registry,
    ) -> Self {
        let end = CancellationToken::new();
        let more = Arc::new(OnceLock::new());
        let shown = Shown {
            ready: health.subscribe(),
            registry: Arc::new(registry),
            more: Arc::clone(&more),
        };
        if let Some(listener) = listener {
            tokio::spawn(accept(listener, router(shown), limits, end.clone()));
        }
        Self {
            more,
            _end: end.drop_guard(),
        }
    }

    /// Adds what else the service shows; to be called once, when that is ready. Until then its
    /// paths are unknown. Bodies that its handlers get are whole and small.
    pub fn mount(&self, router: Router) {
        // A second router would hide the first one.
        _ = self.more.set(router);
    }
}

fn router(shown: Shown) -> Router {
    Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .fallback(mounted)
        .layer(middleware::from_fn(gather_body))
        .with_state(shown)
}

async fn readyz(State(shown): State<Shown>) -> (StatusCode, &'static str) {
    match *shown.ready.borrow() {
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
    }
}

async fn metrics(State(shown): State<Shown>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &shown.registry) {
        Ok(()) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn mounted(State(shown): State<Shown>, request: Request) -> Response {
    let Some(router) = shown.more.get().cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    router.oneshot(request).await.into_response()
}

/// Reads bodies here, so that no handler waits for one.
async fn gather_body(request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    match timeout(BODY_TIMEOUT, to_bytes(body, MAX_BODY_BYTES)).await {
        Ok(Ok(bytes)) => next.run(Request::from_parts(head, Body::from(bytes))).await,
        Ok(Err(_)) => StatusCode::PAYLOAD_TOO_LARGE.into_response(),
        Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
    }
}

async fn accept(listener: TcpListener, router: Router, limits: Limits, end: CancellationToken) {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let accepting = async {
        while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let served = serve(stream, router.clone(), limits);
                    let end = end.clone();
                    tokio::spawn(async move {
                        end.run_until_cancelled(served).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "no connection to the HTTP port");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    end.run_until_cancelled(accepting).await;
}

async fn serve(stream: TcpStream, router: Router, limits: Limits) {
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(MAX_HEAD_BYTES);
    let service = TowerToHyperService::new(router);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    // How a connection ends is of no interest: clients vanish.
    if timeout(limits.age, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        _ = timeout(limits.age, connection).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::post;
    use std::{
        io::{ErrorKind, Read as _, Write as _},
        net::{SocketAddr, TcpStream as Client},
    };
    use tokio::task::spawn_blocking;

    const LONG: Duration = Duration::from_secs(20);

    async fn port(limits: Limits, health: &Health) -> (Http, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let registry = crate::serve::registry("tiny", "1.2.3");
        (
            Http::within(limits, Some(listener), health, registry),
            address,
        )
    }

    /// A connection that has sent `text`.
    fn sent(address: SocketAddr, text: &str) -> Client {
        let mut client = Client::connect(address).unwrap();
        client.set_read_timeout(Some(LONG)).unwrap();
        client.write_all(text.as_bytes()).unwrap();
        client
    }

    fn rest(mut client: Client) -> String {
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer
    }

    /// The whole answer to a request with this head and body.
    async fn ask(address: SocketAddr, head: &str, body: &str) -> String {
        let text = format!("{head} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n");
        let text = format!("{text}content-length: {}\r\n\r\n{body}", body.len());
        spawn_blocking(move || rest(sent(address, &text)))
            .await
            .unwrap()
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        ask(address, &format!("GET {path}"), "").await
    }

    #[tokio::test]
    async fn probes_tell_life_and_readiness() {
        let health = Health::default();
        let (_http, address) = port(LIMITS, &health).await;
        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200 "));
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 503 "));
        health.set_ready(true);
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200 "));
        health.set_ready(false);
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 503 "));
        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200 "));
    }

    #[tokio::test]
    async fn metrics_tell_the_version_that_runs() {
        let (_http, address) = port(LIMITS, &Health::default()).await;
        let answer = get(address, "/metrics").await;
        assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0"));
        let line = "dssd_build_info{model_name=\"tiny\",version=\"1.2.3\"} 1\n";
        assert!(answer.contains(line), "{answer}");
    }

    #[tokio::test]
    async fn what_is_mounted_is_there_and_gets_whole_small_bodies() {
        let (http, address) = port(LIMITS, &Health::default()).await;
        assert!(get(address, "/echo").await.starts_with("HTTP/1.1 404 "));
        http.mount(Router::new().route("/echo", post(|body: String| async { body })));
        assert!(ask(address, "POST /echo", "hello").await.ends_with("hello"));
        assert!(get(address, "/other").await.starts_with("HTTP/1.1 404 "));
        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200 "));
        let large = "x".repeat(MAX_BODY_BYTES + 1);
        let answer = ask(address, "POST /echo", &large).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    }

    #[tokio::test]
    async fn whoever_sends_no_whole_head_is_cut_off() {
        let limits = Limits {
            head: Duration::from_millis(50),
            ..LIMITS
        };
        let (_http, address) = port(limits, &Health::default()).await;
        let slow = spawn_blocking(move || rest(sent(address, "GET /livez HTTP/1.1\r\n")));
        assert!(!slow.await.unwrap().contains(" 200 "));
    }

    #[tokio::test]
    async fn connections_end_with_age_and_with_the_port() {
        let limits = Limits {
            age: Duration::from_millis(50),
            ..LIMITS
        };
        let request = "GET /livez HTTP/1.1\r\nhost: h\r\n\r\n";
        let (_http, address) = port(limits, &Health::default()).await;
        let aged = spawn_blocking(move || rest(sent(address, request)));
        assert!(aged.await.unwrap().contains(" 200 "));
        let (http, address) = port(LIMITS, &Health::default()).await;
        let kept = spawn_blocking(move || sent(address, request));
        let mut kept = kept.await.unwrap();
        drop(http);
        let ended = spawn_blocking(move || kept.read_to_end(&mut Vec::new()));
        if let Err(error) = ended.await.unwrap() {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
        }
    }

    #[tokio::test]
    async fn connections_beyond_the_limit_wait_for_their_turn() {
        let limits = Limits {
            connections: 1,
            ..LIMITS
        };
        let (_http, address) = port(limits, &Health::default()).await;
        let first = spawn_blocking(move || sent(address, "GET")).await.unwrap();
        let mut second = tokio::spawn(async move { get(address, "/livez").await });
        let early = timeout(Duration::from_millis(200), &mut second).await;
        assert!(
            early.is_err(),
            "there is one slot, and the first one has it"
        );
        drop(first);
        assert!(second.await.unwrap().starts_with("HTTP/1.1 200 "));
    }
}
