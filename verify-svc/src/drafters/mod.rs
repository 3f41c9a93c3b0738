//! The drafters that this verifier knows: found by name, balanced, left out for a while when
//! they fail, and found again.

mod args;
mod exclusion;
mod link;
mod table;

pub use args::DialArgs;
pub use link::{LinkEvent, LinkSender};

use crate::{
    engine::{EngineHandle, LinkKey},
    metrics::{DrafterError, Metrics},
};
use dssd_common::serve::{Dialer, Identity};
use dssd_proto::v1::{self, drafting_client::DraftingClient};
use exclusion::Failure;
use futures::future::join_all;
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};
use table::Table;
use tokio::{runtime::Handle, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Uri;

/// How often names are resolved again.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(3);
/// Time for one name; what is known of it stays meanwhile.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for a drafter to say how its heads fare.
const INFO_TIMEOUT: Duration = Duration::from_secs(1);

/// A handle on all drafters; clones share them.
#[derive(Clone)]
pub struct Drafters {
    table: Arc<Table>,
    /// Where streams are carried; the engine's thread is none of its own.
    runtime: Handle,
}

impl Drafters {
    /// Starts to resolve `names` (`http://host:port`) until `shutdown`, on the runtime that this
    /// is called on. `dialer` reaches what they resolve to.
    pub fn start(
        names: Vec<Uri>,
        dialer: Dialer,
        metrics: Arc<Metrics>,
        shutdown: CancellationToken,
    ) -> Self {
        let table = Arc::new(Table::new(dialer, metrics));
        let resolving = Arc::clone(&table);
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(RESOLVE_INTERVAL);
            while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
                resolve_all(&names, &resolving).await;
                ask_all(&resolving).await;
            }
        });
        Self {
            table,
            runtime: Handle::current(),
        }
    }

    /// Finds a drafter for a generation, as soon as there is one, and connects it: the engine
    /// hears of it by [`LinkEvent`]s, and the drafter what the generation is known by. Ends when
    /// `end` is cancelled.
    pub(crate) fn attach(
        &self,
        engine: EngineHandle,
        link: LinkKey,
        end: CancellationToken,
        identity: Identity,
    ) {
        let table = Arc::clone(&self.table);
        self.runtime.spawn(async move {
            let stream = link::run(&table, &engine, link, &end, &identity);
            end.run_until_cancelled(identity.logged(stream)).await;
        });
    }

    /// Leaves a drafter out for a while because of a fault of its own.
    pub(crate) fn exclude(&self, address: SocketAddr, error: DrafterError, reason: &str) {
        self.table.exclude(address, (Failure::Fault, error), reason);
    }

    /// A token that a drafter proposed was right.
    pub(crate) fn accepted(&self, address: SocketAddr) {
        self.table.accepted(address);
    }

    /// How the heads of ready drafters fare against their calibration: by head, observed minus
    /// calibrated acceptance, over all judged tokens.
    pub(crate) fn drift(&self) -> BTreeMap<u32, f64> {
        self.table.drift()
    }

    /// Every known drafter, for `GetServerInfo`.
    pub fn status(&self) -> Vec<v1::DrafterStatus> {
        self.table.status()
    }
}

/// Asks every ready drafter how its heads fare.
async fn ask_all(table: &Table) {
    let ask = |(address, wire)| async move {
        let mut client = DraftingClient::new(wire);
        let info = client.get_drafter_info(v1::GetDrafterInfoRequest {});
        // One that does not say is none the worse for it: drafts are judged by themselves.
        if let Ok(Ok(info)) = timeout(INFO_TIMEOUT, info).await {
            table.inform(address, info.into_inner().exit_heads);
        }
    };
    join_all(table.ready_wires().into_iter().map(ask)).await;
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
