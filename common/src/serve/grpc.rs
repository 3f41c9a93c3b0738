//! Health and reflection beside a service, and the settings of its connections.

use super::{Door, Health, Switch, gate::Gate};
use crate::{Error, Result};
use std::time::Duration;
use tokio::sync::watch;
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

/// Services behind a gate.
pub type Router = server::Router<Stack<Gate, Identity>>;

/// What stands around one gRPC service.
pub struct Front {
    /// Health, and reflection if wanted; the service itself is still to be added.
    pub router: Router,
}

impl Front {
    /// The front of `S`, whose messages `descriptors` (an encoded `FileDescriptorSet`) describes.
    /// Under its name it tells what `health` says; the empty name tells that the process is alive.
    ///
    /// # Errors
    /// If the descriptors are no such set.
    pub async fn new<S: NamedService>(
        health: &Health,
        door: &Door,
        reflection: Switch,
        descriptors: &[u8],
    ) -> Result<Self> {
        let (reporter, health_service) = tonic_health::server::health_reporter();
        report(&reporter, S::NAME, false).await;
        tokio::spawn(follow(reporter, S::NAME, health.subscribe()));
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
        Ok(Self { router })
    }
}

/// Tells what `ready` says, as long as somebody may change it.
async fn follow(reporter: HealthReporter, service: &'static str, mut ready: watch::Receiver<bool>) {
    ready.mark_changed();
    while ready.changed().await.is_ok() {
        let now = *ready.borrow_and_update();
        report(&reporter, service, now).await;
    }
}

async fn report(reporter: &HealthReporter, service: &str, ready: bool) {
    let status = match ready {
        true => ServingStatus::Serving,
        false => ServingStatus::NotServing,
    };
    reporter.set_service_status(service, status).await;
}

fn fault(error: tonic_reflection::server::Error) -> Error {
    Error::Service {
        what: "server reflection",
        reason: error.to_string(),
    }
}
