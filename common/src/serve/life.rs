//! The life of a service: it listens, serves, and ends in order.

use super::{Door, Health, Router, incoming::Entrance};
use crate::{Error, Result};
use std::{net::SocketAddr, pin::pin, thread, time::Duration};
use tokio::{
    net::TcpListener,
    signal,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// Time for the last answers to leave. Calls that never end by themselves, such as watching
/// health, are cut after it.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// Time for an engine to end at once: that of its longest step.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// The part of a service that has a thread of its own.
pub trait Engine {
    /// Take nothing new, and end when all that runs is done.
    fn drain(&self);
    /// End now.
    fn stop(&self);
}

/// A service that is ready to serve.
pub struct Service<E: Engine> {
    /// Everything that answers calls.
    pub router: Router,
    /// Who may call.
    pub door: Door,
    /// Where readiness is told.
    pub health: Health,
    /// What does the work.
    pub engine: E,
    /// The thread that it does it on.
    pub thread: thread::JoinHandle<()>,
    /// How it ends.
    pub drain: Drain,
}

/// How long the parts of an orderly end may take.
#[derive(Clone, Copy, Debug)]
pub struct Drain {
    /// From a shutdown until nothing new is taken: those who send work need time to hear that the
    /// service is not ready any more.
    pub delay: Duration,
    /// From then until what still runs is cut off.
    pub timeout: Duration,
}

impl<E: Engine> Service<E> {
    /// Serves until `shutdown`. Then it is not ready any more; it takes what arrives within the
    /// drain delay, lets what runs end within the drain timeout, and returns. Meanwhile new work is
    /// refused with UNAVAILABLE, and health is told, to the very end.
    ///
    /// # Errors
    /// If the server fails, or the engine ends by itself (that is a fault).
    pub async fn run(self, listener: TcpListener, shutdown: CancellationToken) -> Result<()> {
        // The engine ends also when this future is dropped.
        let engine = StopOnDrop(self.engine);
        let thread = self.thread;
        let mut ended = tokio::task::spawn_blocking(move || thread.join().is_ok());
        let entrance = Entrance::new(listener, self.door.tls, self.door.last_age);
        let serve = |until: &CancellationToken| {
            let router = self.router.clone();
            router
                .serve_with_incoming_shutdown(entrance.incoming(), until.clone().cancelled_owned())
        };
        let (closing, stop) = (CancellationToken::new(), CancellationToken::new());
        let mut serving = pin!(serve(&closing));
        self.health.set_ready(!shutdown.is_cancelled());
        let early = tokio::select! {
            early = attend(&mut ended, &mut serving) => Some(early),
            () = shutdown.cancelled() => {
                self.health.set_ready(false);
                tracing::info!(delay = ?self.drain.delay, "not ready any more, but still open");
                tokio::select! {
                    early = attend(&mut ended, &mut serving) => Some(early),
                    () = sleep(self.drain.delay) => None,
                }
            }
        };
        self.health.set_ready(false);
        let outcome = match early {
            None => Ok(()),
            Some(Early::Engine(error)) => Err(error),
            Some(Early::Server(served)) => return served,
        };
        tracing::info!("draining");
        // Those who are connected are told to go elsewhere, and newcomers are told why.
        closing.cancel();
        let serving = async { tokio::join!(serving, serve(&stop)) };
        let mut serving = pin!(serving);
        if outcome.is_ok() {
            engine.0.drain();
            tokio::select! {
                () = drain(&engine.0, &mut ended, self.drain.timeout) => {}
                // The listener is gone, and all connections with it.
                _ = &mut serving => return Ok(()),
            }
        }
        stop.cancel();
        _ = timeout(FLUSH_TIMEOUT, serving).await;
        tracing::info!("ended");
        outcome
    }
}

/// What ended before its time.
enum Early {
    Engine(Error),
    Server(Result<()>),
}

/// Watches over what should not end yet.
async fn attend(
    ended: &mut JoinHandle<bool>,
    serving: &mut (impl Future<Output = std::result::Result<(), tonic::transport::Error>> + Unpin),
) -> Early {
    tokio::select! {
        joined = ended => Early::Engine(engine_fault(joined.unwrap_or(false))),
        served = serving => Early::Server(served.map_err(server_fault)),
    }
}

/// Waits for the engine's end, and hastens it when the time is over.
async fn drain(engine: &impl Engine, ended: &mut JoinHandle<bool>, limit: Duration) {
    if timeout(limit, &mut *ended).await.is_err() {
        tracing::warn!("the drain timeout has passed: what still runs is cut off");
        engine.stop();
        _ = timeout(STOP_TIMEOUT, ended).await;
    }
}

struct StopOnDrop<E: Engine>(E);

impl<E: Engine> Drop for StopOnDrop<E> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

fn engine_fault(orderly: bool) -> Error {
    let how = if orderly { "ended" } else { "panicked" };
    Error::Service {
        what: "the engine",
        reason: format!("its thread {how}"),
    }
}

fn server_fault(error: tonic::transport::Error) -> Error {
    Error::Service {
        what: "the gRPC server",
        reason: error.to_string(),
    }
}

/// Listens on an address; warns if it is `open_to_all` who can reach it, and others can.
///
/// # Errors
/// If it cannot be had.
pub async fn listen(address: SocketAddr, open_to_all: bool) -> Result<TcpListener> {
    let fault = |error: std::io::Error| Error::Service {
        what: "the listen address",
        reason: format!("{address}: {error}"),
    };
    let listener = TcpListener::bind(address).await.map_err(fault)?;
    let bound = listener.local_addr().map_err(fault)?;
    tracing::info!(address = %bound, "listening");
    if open_to_all && !bound.ip().is_loopback() {
        tracing::warn!(address = %bound, "anyone who can reach this address may use it: there is no TLS and no token (see --tls-cert and --token-file)");
    }
    Ok(listener)
}

/// A token that SIGTERM or ctrl-c cancels; a second one of them ends the process at once.
///
/// # Errors
/// If the system takes no signal handler.
pub fn cancelled_on_signal() -> Result<CancellationToken> {
    let fault = |error: std::io::Error| Error::Service {
        what: "signals",
        reason: error.to_string(),
    };
    let mut terminate =
        signal::unix::signal(signal::unix::SignalKind::terminate()).map_err(fault)?;
    let mut interrupt =
        signal::unix::signal(signal::unix::SignalKind::interrupt()).map_err(fault)?;
    let shutdown = CancellationToken::new();
    let cancelled = shutdown.clone();
    tokio::spawn(async move {
        for second in [false, true] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if second {
                std::process::exit(1);
            }
            cancelled.cancel();
        }
    });
    Ok(shutdown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::{Front, Switch};
    use std::sync::mpsc;
    use tonic_health::{pb::health_server::HealthServer, server::HealthService};

    /// An engine that ends when it is told to, and panics on a false word.
    struct Fake(mpsc::Sender<bool>);

    impl Engine for Fake {
        fn drain(&self) {
            _ = self.0.send(true);
        }

        fn stop(&self) {
            self.drain();
        }
    }

    async fn fake_service() -> (Service<Fake>, TcpListener) {
        let health = Health::default();
        let door = Door::default();
        let front = Front::new::<HealthServer<HealthService>>(&health, &door, Switch::Off, &[]);
        let front = front.await.unwrap();
        let (sender, inbox) = mpsc::channel();
        let service = Service {
            router: front.router,
            health,
            door,
            engine: Fake(sender),
            thread: thread::spawn(move || assert!(inbox.recv().unwrap(), "a false word")),
            drain: Drain {
                delay: Duration::ZERO,
                timeout: Duration::from_secs(5),
            },
        };
        (service, TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    #[tokio::test]
    async fn a_shutdown_ends_the_service() {
        let (service, listener) = fake_service().await;
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        service.run(listener, shutdown).await.unwrap();
    }

    #[tokio::test]
    async fn an_engine_that_panics_ends_the_service_with_an_error() {
        let (service, listener) = fake_service().await;
        service.engine.0.send(false).unwrap();
        let ended = service.run(listener, CancellationToken::new());
        let error = timeout(Duration::from_secs(5), ended).await.unwrap();
        let error = error.unwrap_err().to_string();
        assert!(error.contains("panicked"), "{error}");
    }
}
