//! Connections as they come in: encrypted or not, bounded in number, none of them silent for long.

use super::{connection::Connection, tls::ServerTls};
use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{AbortHandle, JoinSet},
    time::{Sleep, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream;
use tokio_util::sync::PollSemaphore;

/// Open connections; more wait in the system's queue.
const MAX_CONNECTIONS: usize = 4096;
/// TLS handshakes under way. One more ends the oldest of them: whoever means well is done in
/// milliseconds.
const MAX_HANDSHAKES: usize = 256;
/// Time for a handshake, and then for the greeting of HTTP/2.
pub(super) const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
/// Rest after a connection could not be taken, as when file handles have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What connections of one listener have in common. Clones share the bounds.
#[derive(Clone)]
pub(super) struct Entrance {
    listener: Arc<TcpListener>,
    tls: Option<Arc<ServerTls>>,
    places: Arc<Semaphore>,
    /// After so long a connection is cut.
    max_age: Option<Duration>,
}

impl Entrance {
    pub(super) fn new(
        listener: TcpListener,
        tls: Option<Arc<ServerTls>>,
        max_age: Option<Duration>,
    ) -> Self {
        Self {
            listener: Arc::new(listener),
            tls,
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            max_age,
        }
    }

    /// Takes connections as long as the stream lives.
    pub(super) fn incoming(&self) -> Incoming {
        Incoming {
            entrance: self.clone(),
            places: PollSemaphore::new(Arc::clone(&self.places)),
            place: None,
            handshakes: JoinSet::new(),
            oldest_first: VecDeque::new(),
            pause: None,
        }
    }
}

/// A stream of connections that are ready for HTTP/2.
pub(super) struct Incoming {
    entrance: Entrance,
    places: PollSemaphore,
    /// For the next connection.
    place: Option<OwnedSemaphorePermit>,
    handshakes: JoinSet<io::Result<Connection>>,
    oldest_first: VecDeque<AbortHandle>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Incoming {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<(TcpStream, OwnedSemaphorePermit)> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            if self.place.is_none() {
                // The semaphore is never closed.
                self.place = ready!(self.places.poll_acquire(cx));
            }
            match ready!(self.entrance.listener.poll_accept(cx)) {
                Ok((stream, _)) => {
                    if let Some(place) = self.place.take() {
                        return Poll::Ready((stream, place));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be taken");
                    self.pause = Some(Box::pin(sleep(ACCEPT_PAUSE)));
                }
            }
        }
    }

    fn start_handshake(&mut self, tls: &ServerTls, stream: TcpStream, place: OwnedSemaphorePermit) {
        if self.oldest_first.len() >= MAX_HANDSHAKES {
            self.oldest_first
                .retain(|handshake| !handshake.is_finished());
        }
        if self.oldest_first.len() >= MAX_HANDSHAKES
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            oldest.abort();
        }
        let acceptor = TlsAcceptor::from(tls.current());
        let max_age = self.entrance.max_age;
        let handshake = self.handshakes.spawn(async move {
            let encrypted = timeout(GREETING_TIMEOUT, acceptor.accept(stream)).await??;
            Ok(Connection::encrypted(encrypted, max_age, place))
        });
        self.oldest_first.push_back(handshake);
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            match this.handshakes.poll_join_next(cx) {
                Poll::Ready(Some(Ok(Ok(connection)))) => return Poll::Ready(Some(Ok(connection))),
                Poll::Ready(Some(Ok(Err(error)))) => {
                    tracing::debug!(%error, "a TLS handshake failed");
                    continue;
                }
                // Cut off for a newer one.
                Poll::Ready(Some(Err(_))) => continue,
                Poll::Ready(None) | Poll::Pending => {}
            }
            let (stream, place) = ready!(this.poll_accept(cx));
            // Small messages go back and forth here, and each is waited for.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY");
            }
            match this.entrance.tls.clone() {
                None => {
                    let max_age = this.entrance.max_age;
                    return Poll::Ready(Some(Ok(Connection::plain(stream, max_age, place))));
                }
                Some(tls) => this.start_handshake(&tls, stream, place),
            }
        }
    }
}
