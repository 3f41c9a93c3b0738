//! Whether a service is ready, told in one place.

use std::sync::Arc;
use tokio::sync::watch;

/// Readiness of a service: not ready at first. `grpc.health.v1` and `/readyz` both follow it.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<watch::Sender<bool>>);

impl Health {
    /// Says whether the service takes calls.
    pub fn set_ready(&self, ready: bool) {
        self.0.send_replace(ready);
    }

    /// To read the state and to wait for its changes, until all values of this health are dropped.
    pub fn subscribe(&self) -> watch::Receiver<bool> {
        self.0.subscribe()
    }
}
