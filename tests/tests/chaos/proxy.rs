//! A way between two services, or between clients and one, on which things go wrong.

use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{self, AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    time::timeout,
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long a connection to the far end may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Bytes that are carried at once.
const PIECE: usize = 4096;

/// What a way does to connections.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mode {
    /// Carries everything.
    Open,
    /// Carries every piece so much later.
    Delay(Duration),
    /// Takes connections and carries nothing: a black hole.
    Stall,
    /// Resets every new connection.
    Refuse,
}

#[derive(Clone, Copy, Debug)]
struct State {
    /// Where the way leads, while somebody is there.
    target: Option<SocketAddr>,
    mode: Mode,
    /// How often all connections were cut.
    cuts: u64,
}

/// A way with an address that stays, whoever is behind it.
pub(crate) struct Way {
    pub(crate) address: SocketAddr,
    state: watch::Sender<State>,
    _end: DropGuard,
}

impl Way {
    /// A way that leads nowhere yet.
    pub(crate) async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (state, watched) = watch::channel(State {
            target: None,
            mode: Mode::Open,
            cuts: 0,
        });
        let end = CancellationToken::new();
        let accepting = accept(listener, watched, end.clone());
        tokio::spawn(end.clone().run_until_cancelled_owned(accepting));
        Self {
            address,
            state,
            _end: end.drop_guard(),
        }
    }

    pub(crate) fn lead_to(&self, target: Option<SocketAddr>) {
        self.state.send_modify(|state| state.target = target);
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.state.send_modify(|state| state.mode = mode);
    }

    /// Resets every connection.
    pub(crate) fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }
}

async fn accept(listener: TcpListener, state: watch::Receiver<State>, end: CancellationToken) {
    loop {
        let (near, _) = listener.accept().await.unwrap();
        let now = *state.borrow();
        match now.target.filter(|_| now.mode != Mode::Refuse) {
            Some(target) => {
                let carried = carry(near, target, state.clone(), now.cuts);
                tokio::spawn(end.clone().run_until_cancelled_owned(carried));
            }
            None => _ = near.set_zero_linger(),
        }
    }
}

/// Carries one connection until either end closes it, breaks it, or the way is cut.
async fn carry(
    mut near: TcpStream,
    target: SocketAddr,
    mut state: watch::Receiver<State>,
    cuts: u64,
) {
    let Ok(Ok(mut far)) = timeout(CONNECT_LIMIT, TcpStream::connect(target)).await else {
        _ = near.set_zero_linger();
        return;
    };
    _ = (near.set_nodelay(true), far.set_nodelay(true));
    let broken = {
        let ((from_near, to_near), (from_far, to_far)) = (near.split(), far.split());
        let forth = pump(from_near, to_far, state.clone());
        let back = pump(from_far, to_near, state.clone());
        tokio::select! {
            done = async { tokio::try_join!(forth, back) } => done.is_err(),
            _ = state.wait_for(|state| state.cuts > cuts) => true,
        }
    };
    if broken {
        _ = (near.set_zero_linger(), far.set_zero_linger());
    }
}

/// Carries one direction to its end.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut state: watch::Receiver<State>,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let length = from.read(&mut piece).await?;
        let carries = state.wait_for(|state| state.mode != Mode::Stall).await;
        let mode = carries.map_err(io::Error::other)?.mode;
        if length == 0 {
            return to.shutdown().await;
        }
        if let Mode::Delay(delay) = mode {
            tokio::time::sleep(delay).await;
        }
        to.write_all(&piece[..length]).await?;
    }
}
