//! What every call passes before it reaches a service: who calls, and how much that one may.

use super::{
    ClientId,
    connection::Peer,
    seats::{Seat, Seats},
    tokens::Keyring,
};
use http_body::{Frame, SizeHint};
use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::{
    Code, Status,
    body::Body,
    codegen::{
        BoxFuture, Bytes,
        http::{HeaderMap, Request, Response},
    },
    metadata::MetadataMap,
    transport::server::TcpConnectInfo,
};
use tonic_types::{ErrorDetails, StatusExt as _};
use tower::{Layer, Service};

/// Calls that need no token, as those who ask for health have none.
const HEALTH: &str = "/grpc.health.v1.Health/";
/// When a client with too many open calls may try again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// A layer around all services of a server. Clones share what they count.
#[derive(Clone, Default)]
pub struct Gate(Arc<Rules>);

/// What a gate looks at.
#[derive(Default)]
pub(super) struct Rules {
    /// The tokens; without any, everybody may call and is the same client.
    pub(super) keyring: Option<Keyring>,
    /// The bound on each client's open calls.
    pub(super) seats: Option<Arc<Seats>>,
    /// The paths of the calls that are counted for it.
    pub(super) counted: Vec<String>,
}

impl Gate {
    pub(super) fn new(rules: Rules) -> Self {
        Self(Arc::new(rules))
    }

    /// Lets a caller of `path` in, or tells why not. The seat is to be held for as long as the call
    /// is open.
    ///
    /// # Errors
    /// UNAUTHENTICATED without a known token; RESOURCE_EXHAUSTED if the client has no seat left.
    pub fn enter(
        &self,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<(ClientId, Option<Seat>), Status> {
        let client = match &self.0.keyring {
            None => ClientId::default(),
            Some(keyring) => keyring.client(&MetadataMap::from_headers(headers.clone()))?,
        };
        let counted = self.0.counted.iter().any(|counted| counted == path);
        let seat = match &self.0.seats {
            Some(seats) if counted => {
                let seat = seats.take(client);
                Some(seat.ok_or_else(|| too_many(seats.most()))?)
            }
            _ => None,
        };
        Ok((client, seat))
    }

    /// Whether calls need a token.
    pub fn is_locked(&self) -> bool {
        self.0.keyring.is_some()
    }

    fn admit(&self, request: &mut Request<Body>) -> Result<Option<Seat>, Status> {
        if request.uri().path().starts_with(HEALTH) {
            return Ok(None);
        }
        let (client, seat) = self.enter(request.uri().path(), request.headers())?;
        request.extensions_mut().insert(client);
        Ok(seat)
    }
}

fn too_many(most: usize) -> Status {
    Status::with_error_details(
        Code::ResourceExhausted,
        format!("{most} calls are open with this token, the most that it may have"),
        ErrorDetails::with_retry_info(Some(RETRY_DELAY)),
    )
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated {
            gate: self.clone(),
            inner,
        }
    }
}

/// Services behind a gate.
#[derive(Clone)]
pub struct Gated<S> {
    gate: Gate,
    inner: S,
}

impl<S> Service<Request<Body>> for Gated<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let seat = match self.gate.admit(&mut request) {
            Ok(seat) => seat,
            Err(status) => {
                tracing::debug!(path = request.uri().path(), code = ?status.code(), "refused");
                return Box::pin(async { Ok(status.into_http()) });
            }
        };
        let peer = request.extensions().get::<Peer>().copied();
        if let Some(peer) = peer {
            request.extensions_mut().insert(TcpConnectInfo {
                local_addr: peer.local,
                remote_addr: peer.remote,
            });
        }
        let end = peer.and_then(|peer| peer.last_call);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = match end {
                None => answer.await?,
                Some(end) => tokio::select! {
                    biased;
                    answer = answer => answer?,
                    () = sleep_until(end) => return Ok(too_old().into_http()),
                },
            };
            Ok(answer.map(|body| Body::new(Bounded::new(body, seat, end))))
        })
    }
}

fn too_old() -> Status {
    Status::unavailable("the connection has lived its time: go on with another one")
}

/// The body of an answer, which holds its seat, and ends with its connection's time.
struct Bounded {
    /// None after the end.
    body: Option<Body>,
    _seat: Option<Seat>,
    end: Option<Pin<Box<Sleep>>>,
}

impl Bounded {
    fn new(body: Body, seat: Option<Seat>, end: Option<Instant>) -> Self {
        Self {
            body: Some(body),
            _seat: seat,
            end: end.map(|end| Box::pin(sleep_until(end))),
        }
    }
}

impl http_body::Body for Bounded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        match &mut self.end {
            None => return Poll::Pending,
            Some(end) => ready!(end.as_mut().poll(cx)),
        }
        // The call is cancelled for its service, and told of to its client.
        self.body = None;
        let mut trailers = HeaderMap::new();
        let told = too_old().add_header(&mut trailers);
        Poll::Ready(Some(told.map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.body
            .as_ref()
            .is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(SizeHint::new, http_body::Body::size_hint)
    }
}
