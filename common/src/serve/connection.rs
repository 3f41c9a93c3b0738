//! One connection of a server.

use super::incoming::GREETING_TIMEOUT;
use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep, sleep, sleep_until},
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Bytes with which every client of HTTP/2 begins.
const GREETING_BYTES: usize = 24;
/// Time between the end of a connection's calls and its own, for the last words to leave.
const PARTING_TIME: Duration = Duration::from_secs(5);

/// Bytes in and out. Whoever connects must begin to speak HTTP/2 soon, and leave in the end.
pub(super) struct Connection {
    stream: Stream,
    peer: Peer,
    /// Bytes of the greeting that are still to come.
    awaited: usize,
    /// When the connection ends, whatever it does.
    end: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

enum Stream {
    Plain(TcpStream),
    Encrypted(Box<TlsStream<TcpStream>>),
}

/// What calls may know of their connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) local: Option<SocketAddr>,
    pub(super) remote: Option<SocketAddr>,
    /// When calls must have ended.
    pub(super) last_call: Option<Instant>,
}

impl Connection {
    /// Of a client that says nothing secret.
    pub(super) fn plain(
        stream: TcpStream,
        max_age: Option<Duration>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let info = stream.connect_info();
        Self::new(Stream::Plain(stream), info, max_age, place)
    }

    /// After a TLS handshake.
    pub(super) fn encrypted(
        stream: TlsStream<TcpStream>,
        max_age: Option<Duration>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let info = stream.get_ref().0.connect_info();
        Self::new(Stream::Encrypted(Box::new(stream)), info, max_age, place)
    }

    fn new(
        stream: Stream,
        info: TcpConnectInfo,
        max_age: Option<Duration>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            stream,
            peer: Peer {
                local: info.local_addr,
                remote: info.remote_addr,
                last_call: max_age.and_then(|age| Instant::now().checked_add(age)),
            },
            awaited: GREETING_BYTES,
            end: Some(Box::pin(sleep(GREETING_TIMEOUT))),
            _place: place,
        }
    }

    /// Fails once the time is over. It is asked for in every direction: whoever takes nothing off
    /// the line makes the server write and not read.
    fn check_time(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let over = (self.end.as_mut()).is_some_and(|end| end.as_mut().poll(cx).is_ready());
        match over {
            true => Err(io::ErrorKind::TimedOut.into()),
            false => Ok(()),
        }
    }

    fn take_note(&mut self, read: usize) {
        if self.awaited == 0 {
            return;
        }
        self.awaited = self.awaited.saturating_sub(read);
        if self.awaited == 0 {
            let last = self.peer.last_call;
            let end = last.and_then(|last| last.checked_add(PARTING_TIME));
            self.end = end.map(|end| Box::pin(sleep_until(end)));
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_time(cx)?;
        let before = buffer.filled().len();
        let polled = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Encrypted(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        let read = buffer.filled().len() - before;
        self.take_note(read);
        // The new end must be known to the clock.
        self.check_time(cx)?;
        polled
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_time(cx)?;
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Encrypted(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_time(cx)?;
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Encrypted(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Encrypted(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Encrypted(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Encrypted(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
