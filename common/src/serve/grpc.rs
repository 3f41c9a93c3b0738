//! Health and reflection beside a service, and the settings of its connections.

use super::{Door, Switch, gate::Gate};
use crate::{Error, Result};
use std::time::Duration;
use tonic::{
    server::NamedService,
    transport::{Server, server},
};
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::layer::util::{Identity, Stack};

/// Largest message that is read: the tokens of the longest contexts, and far below what hurts.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;
/// Most bytes of a call's metadata, names included.
const MAX_METADATA_BYTES: u32 = 16 << 10;
/// Open calls of one connection; more wait.
const MAX_STREAMS: u32 = 1024;
/// A peer that vanished without a word is noticed within these two.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Tells whether a service is ready. The empty name tells that the process is alive.
#[derive(Clone)]
pub struct Health {
    reporter: HealthReporter,
    service: &'static str,
}

impl Health {
    /// Whether the service takes calls.
    pub async fn set_ready(&self, ready: bool) {
        let status = match ready {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        self.reporter.set_service_status(self.service, status).await;
    }
}

/// Services behind a gate.
pub type Router = server::Router<Stack<Gate, Identity>>;

/// What stands around one gRPC service.
pub struct Front {
    /// Its state; not ready at first.
    pub health: Health,
    /// Health, and reflection if wanted; the service itself is still to be added.
    pub router: Router,
}

impl Front {
    /// The front of `S`, whose messages `descriptors` (an encoded `FileDescriptorSet`) describes.
    ///
    /// # Errors
    /// If the descriptors are no such set.
    pub async fn new<S: NamedService>(
        door: &Door,
        reflection: Switch,
        descriptors: &[u8],
    ) -> Result<Self> {
        let (reporter, health_service) = tonic_health::server::health_reporter();
        let health = Health {
            reporter,
            service: S::NAME,
        };
        health.set_ready(false).await;
        let builder = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .http2_max_pending_accept_reset_streams(Some(MAX_STREAMS as usize))
            .http2_max_header_list_size(MAX_METADATA_BYTES)
            .max_concurrent_streams(Some(MAX_STREAMS));
        let builder = match door.age {
            Some(age) => builder.max_connection_age(age),
            None => builder,
        };
        let mut router = builder.layer(door.gate.clone()).add_service(health_service);
        if reflection == Switch::On {
            let builder = || {
                tonic_reflection::server::Builder::configure()
                    .register_encoded_file_descriptor_set(descriptors)
                    .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                    .with_service_name(S::NAME)
                    .with_service_name("grpc.health.v1.Health")
            };
            router = router
                .add_service(builder().build_v1().map_err(fault)?)
                .add_service(builder().build_v1alpha().map_err(fault)?);
        }
        Ok(Self { health, router })
    }
}

fn fault(error: tonic_reflection::server::Error) -> Error {
    Error::Service {
        what: "server reflection",
        reason: error.to_string(),
    }
}
