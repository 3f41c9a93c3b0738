//! The page to look at: one document on the HTTP port that sends a prompt and shows which tokens
//! were drafted, and the two calls that it makes. They go through the gRPC service, in this process.

mod failure;
mod generate;
mod guard;
mod pieces;
mod request;
mod server;
mod transcript;
mod view;

use crate::server::Server;
use axum::{
    Router,
    http::{
        HeaderName, HeaderValue,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
    middleware::{self, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use dssd_common::{serve::Gate, tokenizer::Tokenizer};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Everything comes from here, and nothing that is written in the document runs.
const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// The files of the page: path, type, content.
const FILES: [(&str, &str, &str); 8] = [
    ("/", HTML, include_str!("index.html")),
    ("/page.css", CSS, include_str!("page.css")),
    ("/icon.svg", SVG, include_str!("icon.svg")),
    ("/page.js", JS, include_str!("page.js")),
    ("/api.js", JS, include_str!("api.js")),
    ("/answer.js", JS, include_str!("answer.js")),
    ("/rounds.js", JS, include_str!("rounds.js")),
    ("/server.js", JS, include_str!("server.js")),
];

/// What the calls of the page are answered from.
#[derive(Clone)]
pub(crate) struct Page {
    server: Arc<Server>,
    tokenizer: Option<Arc<Tokenizer>>,
    /// Who may call: the same as through gRPC.
    gate: Gate,
    /// Answers that may begin yet.
    answers: Arc<Semaphore>,
}

impl Page {
    pub(crate) fn new(server: Arc<Server>, tokenizer: Option<Arc<Tokenizer>>, gate: Gate) -> Self {
        Self {
            server,
            tokenizer,
            gate,
            answers: Arc::new(Semaphore::new(generate::MOST_ANSWERS)),
        }
    }

    /// The page and its calls, to be mounted on the HTTP port.
    pub(crate) fn router(self) -> Router {
        let calls = Router::new()
            .route("/api/generate", post(generate::generate))
            .route("/api/server", get(server::server))
            .route_layer(from_fn_with_state(self.gate.clone(), guard::check_token))
            .with_state(self.clone());
        FILES
            .into_iter()
            .fold(calls, |router, (path, kind, content)| {
                router.route(
                    path,
                    get(move || async move { ([(CONTENT_TYPE, kind)], content) }),
                )
            })
            .layer(from_fn_with_state(self.gate, guard::check_host))
            .layer(middleware::map_response(guarded))
    }
}

/// Tells the browser to distrust whatever it gets.
async fn guarded(response: Response) -> Response {
    const HEADERS: [(HeaderName, &str); 4] = [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ];
    let mut response = response.into_response();
    for (name, value) in HEADERS {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}
