//! The drafters that this verifier knows: found by name, balanced, left out for a while when
//! they fail, and found again.

mod exclusion;
mod link;
mod table;

pub use link::{LinkEvent, LinkSender};

use crate::engine::{EngineHandle, LinkKey};
use dssd_proto::v1;
use exclusion::Failure;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use table::Table;
use tokio::{runtime::Handle, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Uri;

/// How often names are resolved again.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(3);
/// Time for one name; what is known of it stays meanwhile.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A handle on all drafters; clones share them.
#[derive(Clone)]
pub struct Drafters {
    table: Arc<Table>,
    /// Where streams are carried; the engine's thread is none of its own.
    runtime: Handle,
}

impl Drafters {
    /// Starts to resolve `names` (`http://host:port`) until `shutdown`, on the runtime that this
    /// is called on.
    pub fn start(names: Vec<Uri>, shutdown: CancellationToken) -> Self {
        let table = Arc::new(Table::default());
        let resolving = Arc::clone(&table);
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(RESOLVE_INTERVAL);
            while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
                resolve_all(&names, &resolving).await;
            }
        });
        Self {
            table,
            runtime: Handle::current(),
        }
    }

    /// Finds a drafter for a generation, as soon as there is one, and connects it: the engine
    /// hears of it by [`LinkEvent`]s. Ends when `end` is cancelled.
    pub(crate) fn attach(&self, engine: EngineHandle, link: LinkKey, end: CancellationToken) {
        let table = Arc::clone(&self.table);
        self.runtime.spawn(async move {
            let stream = link::run(&table, &engine, link, &end);
            end.run_until_cancelled(stream).await;
        });
    }

    /// Leaves a drafter out for a while because of a fault of its own.
    pub(crate) fn exclude(&self, address: SocketAddr, reason: &str) {
        self.table.exclude(address, Failure::Fault, reason);
    }

    /// A token that a drafter proposed was right.
    pub(crate) fn accepted(&self, address: SocketAddr) {
        self.table.accepted(address);
    }

    /// Every known drafter, for `GetServerInfo`.
    pub fn status(&self) -> Vec<v1::DrafterStatus> {
        self.table.status()
    }
}

async fn resolve_all(names: &[Uri], table: &Table) {
    let mut found = Vec::new();
    let mut complete = true;
    for name in names {
        let host = name.host().unwrap_or_default().trim_matches(['[', ']']);
        let lookup = tokio::net::lookup_host((host, name.port_u16().unwrap_or(50052)));
        match timeout(RESOLVE_TIMEOUT, lookup)
            .await
            .unwrap_or_else(|late| Err(late.into()))
        {
            Ok(addresses) => found.extend(addresses.map(|address| (address, name.clone()))),
            Err(error) => {
                complete = false;
                tracing::warn!(%name, %error, "drafter name does not resolve");
            }
        }
    }
    table.update(&found, complete);
}
