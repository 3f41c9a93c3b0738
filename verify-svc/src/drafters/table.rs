//! What is known of each drafter.

use dssd_proto::v1;
use rand::seq::IndexedRandom as _;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};
use tonic::transport::{Channel, Endpoint, Uri};

const FIRST_EXCLUSION: Duration = Duration::from_millis(250);
const LONGEST_EXCLUSION: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// All drafters by address.
#[derive(Default)]
pub(super) struct Table {
    drafters: Mutex<BTreeMap<SocketAddr, Drafter>>,
    changed: Notify,
}

struct Drafter {
    channel: Channel,
    streams: usize,
    load: v1::DrafterLoad,
    vanished: bool,
    /// Failures in a row; each doubles the exclusion.
    failures: u32,
    excluded_until: Option<Instant>,
    reason: String,
    ready: bool,
}

impl Drafter {
    fn state(&self, now: Instant) -> v1::DrafterState {
        if self.vanished {
            v1::DrafterState::Vanished
        } else if self.excluded_until.is_some_and(|until| now < until) {
            v1::DrafterState::Excluded
        } else if self.ready {
            v1::DrafterState::Ready
        } else {
            v1::DrafterState::Connecting
        }
    }

    fn is_candidate(&self, now: Instant) -> bool {
        matches!(
            self.state(now),
            v1::DrafterState::Ready | v1::DrafterState::Connecting
        )
    }

    /// Streams that we opened since its last report may not be in the reported number.
    fn busyness(&self) -> usize {
        self.streams.max(self.load.sequences as usize)
    }
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Drafter>> {
        // No code panics while it holds the lock, and every state of the table is a valid one.
        self.drafters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of what the names resolve to now. Addresses that are gone are dropped when
    /// their streams end, and only if all names did resolve.
    pub(super) fn update(&self, found: &[(SocketAddr, Uri)], complete: bool) {
        let mut drafters = self.lock();
        for (address, name) in found {
            match drafters.get_mut(address) {
                Some(drafter) => drafter.vanished = false,
                None => match endpoint(*address, name) {
                    Ok(endpoint) => {
                        _ = drafters.insert(*address, Drafter::new(endpoint.connect_lazy()))
                    }
                    Err(error) => {
                        tracing::warn!(%address, %error, "drafter address cannot be dialled")
                    }
                },
            }
        }
        if complete {
            let known =
                |address: &SocketAddr| found.iter().any(|(candidate, _)| candidate == address);
            drafters
                .iter_mut()
                .for_each(|(address, drafter)| drafter.vanished = !known(address));
            drafters.retain(|_, drafter| !drafter.vanished || drafter.streams > 0);
        }
        drop(drafters);
        self.changed.notify_waiters();
    }

    /// The less busy of two random candidates; waits for one. The choice counts as a stream.
    pub(super) async fn choose(&self) -> (SocketAddr, Channel) {
        loop {
            let changed = self.changed.notified();
            if let Some(choice) = self.try_choose() {
                return choice;
            }
            // An exclusion that ends notifies nobody, hence the bound.
            _ = tokio::time::timeout(FIRST_EXCLUSION, changed).await;
        }
    }

    fn try_choose(&self) -> Option<(SocketAddr, Channel)> {
        let mut drafters = self.lock();
        let now = Instant::now();
        let candidates: Vec<SocketAddr> = drafters
            .iter()
            .filter(|(_, drafter)| drafter.is_candidate(now))
            .map(|(&address, _)| address)
            .collect();
        let pair = candidates.choose_multiple(&mut rand::rng(), 2);
        let address = *pair
            .min_by_key(|address| drafters.get(address).map_or(usize::MAX, Drafter::busyness))?;
        let drafter = drafters.get_mut(&address)?;
        drafter.streams += 1;
        Some((address, drafter.channel.clone()))
    }

    /// A stream has ended.
    pub(super) fn release(&self, address: SocketAddr) {
        let mut drafters = self.lock();
        if let Some(drafter) = drafters.get_mut(&address) {
            drafter.streams = drafter.streams.saturating_sub(1);
            if drafter.vanished && drafter.streams == 0 {
                drafters.remove(&address);
            }
        }
    }

    /// A drafter answered.
    pub(super) fn report(&self, address: SocketAddr, load: Option<v1::DrafterLoad>) {
        if let Some(drafter) = self.lock().get_mut(&address) {
            drafter.ready = true;
            drafter.failures = 0;
            drafter.load = load.unwrap_or(drafter.load);
        }
    }

    /// Leaves a drafter out, twice as long with every failure in a row.
    pub(super) fn exclude(&self, address: SocketAddr, reason: &str) {
        tracing::warn!(%address, reason, "drafter is left out for a while");
        if let Some(drafter) = self.lock().get_mut(&address) {
            let backoff = FIRST_EXCLUSION * 2u32.saturating_pow(drafter.failures.min(10));
            drafter.failures += 1;
            drafter.ready = false;
            drafter.reason = reason.to_owned();
            drafter.excluded_until = Some(Instant::now() + backoff.min(LONGEST_EXCLUSION));
        }
    }

    pub(super) fn status(&self) -> Vec<v1::DrafterStatus> {
        let now = Instant::now();
        let status = |(address, drafter): (&SocketAddr, &Drafter)| v1::DrafterStatus {
            address: address.to_string(),
            state: drafter.state(now).into(),
            reason: drafter.reason.clone(),
            load: Some(drafter.load),
        };
        self.lock().iter().map(status).collect()
    }
}

impl Drafter {
    fn new(channel: Channel) -> Self {
        Self {
            channel,
            streams: 0,
            load: v1::DrafterLoad::default(),
            vanished: false,
            failures: 0,
            excluded_until: None,
            reason: String::new(),
            ready: false,
        }
    }
}

fn endpoint(address: SocketAddr, name: &Uri) -> Result<Endpoint, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .origin(name.clone())
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    Ok(endpoint)
}
