//! What is known of each drafter.

use super::exclusion::{self, Failure, Record};
use crate::metrics::{DrafterError, Metrics};
use dssd_common::serve::{Dialer, Wire};
use dssd_proto::v1;
use rand::seq::IndexedRandom as _;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{sync::Notify, time::Instant};
use tonic::transport::Uri;

/// Heads of a drafter of which anything is kept.
const MOST_HEADS: usize = 16;

/// All drafters by address.
pub(super) struct Table {
    dialer: Dialer,
    drafters: Mutex<BTreeMap<SocketAddr, Drafter>>,
    changed: Notify,
    metrics: Arc<Metrics>,
}

struct Drafter {
    wire: Wire,
    streams: usize,
    load: v1::DrafterLoad,
    vanished: bool,
    record: Record,
    excluded_until: Option<Instant>,
    /// Why, in the newest exclusion.
    excluded_as: Failure,
    reason: String,
    ready: bool,
    /// How its heads fare.
    heads: Vec<v1::ExitHeadAgreement>,
}

impl Drafter {
    fn state(&self, now: Instant) -> v1::DrafterState {
        if self.vanished {
            v1::DrafterState::Vanished
        } else if self.is_excluded(now) {
            v1::DrafterState::Excluded
        } else if self.ready {
            v1::DrafterState::Ready
        } else {
            v1::DrafterState::Connecting
        }
    }

    fn is_excluded(&self, now: Instant) -> bool {
        self.excluded_until.is_some_and(|until| now < until)
    }

    /// Whether it is left out already for something as bad. A fault is worse than a loss.
    fn excluded_for(&self, failure: Failure, now: Instant) -> bool {
        let as_bad = self.excluded_as == Failure::Fault || failure == Failure::Loss;
        self.is_excluded(now) && as_bad
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
    /// No drafters yet; `dialer` is to reach those that come.
    pub(super) fn new(dialer: Dialer, metrics: Arc<Metrics>) -> Self {
        Self {
            dialer,
            drafters: Mutex::default(),
            changed: Notify::new(),
            metrics,
        }
    }

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
                None => match self.dialer.wire_at(*address, name) {
                    Ok(wire) => _ = drafters.insert(*address, Drafter::new(wire)),
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
    pub(super) async fn choose(&self) -> (SocketAddr, Wire) {
        loop {
            let changed = self.changed.notified();
            if let Some(choice) = self.try_choose() {
                return choice;
            }
            // An exclusion that ends notifies nobody, hence the bound.
            _ = tokio::time::timeout(exclusion::FIRST, changed).await;
        }
    }

    fn try_choose(&self) -> Option<(SocketAddr, Wire)> {
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
        Some((address, drafter.wire.clone()))
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

    /// A drafter told its load.
    pub(super) fn report(&self, address: SocketAddr, load: v1::DrafterLoad) {
        if let Some(drafter) = self.lock().get_mut(&address) {
            drafter.load = load;
        }
    }

    /// A drafter is ready.
    pub(super) fn ready(&self, address: SocketAddr) {
        if let Some(drafter) = self.lock().get_mut(&address) {
            drafter.ready = true;
            drafter.record.ready();
        }
    }

    /// A token that a drafter proposed was right.
    pub(super) fn accepted(&self, address: SocketAddr) {
        if let Some(drafter) = self.lock().get_mut(&address) {
            drafter.record.accepted();
        }
    }

    /// Leaves a drafter out, twice as long with every failure of this kind in a row. What its
    /// other streams do while it is left out lengthens nothing: they end for one cause.
    pub(super) fn exclude(
        &self,
        address: SocketAddr,
        (failure, error): (Failure, DrafterError),
        reason: &str,
    ) {
        self.metrics.drafter_failed(error);
        let now = Instant::now();
        let mut drafters = self.lock();
        let Some(drafter) = drafters.get_mut(&address) else {
            return;
        };
        if drafter.excluded_for(failure, now) {
            return;
        }
        let until = now + drafter.record.failed(failure);
        drafter.ready = false;
        drafter.reason = reason.to_owned();
        drafter.excluded_until = drafter.excluded_until.max(Some(until));
        drafter.excluded_as = failure;
        drop(drafters);
        tracing::warn!(%address, reason, "drafter is left out for a while");
    }

    /// A drafter does not do what a generation asks for.
    pub(super) fn refused(&self) {
        self.metrics.drafter_failed(DrafterError::Refused);
    }

    /// The ways to all ready drafters.
    pub(super) fn ready_wires(&self) -> Vec<(SocketAddr, Wire)> {
        let drafters = self.lock();
        let ready = drafters.iter().filter(|(_, drafter)| drafter.ready);
        ready
            .map(|(&address, drafter)| (address, drafter.wire.clone()))
            .collect()
    }

    /// A drafter told how its heads fare.
    pub(super) fn inform(&self, address: SocketAddr, mut heads: Vec<v1::ExitHeadAgreement>) {
        heads.truncate(MOST_HEADS);
        if let Some(drafter) = self.lock().get_mut(&address) {
            drafter.heads = heads;
        }
    }

    /// By head, the mean drift at ready drafters, weighted by judged tokens.
    pub(super) fn drift(&self) -> BTreeMap<u32, f64> {
        let mut sums: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
        let drafters = self.lock();
        for drafter in drafters.values().filter(|drafter| drafter.ready) {
            for (head, told) in (0..).zip(&drafter.heads) {
                let drift = told.drift.filter(|drift| drift.is_finite());
                let (Some(drift), tokens) = (drift, told.judged_tokens as f64) else {
                    continue;
                };
                let sum = sums.entry(head).or_default();
                *sum = (sum.0 + drift * tokens, sum.1 + tokens);
            }
        }
        let known = sums.into_iter().filter(|(_, (_, tokens))| *tokens > 0.0);
        known
            .map(|(head, (drift, tokens))| (head, drift / tokens))
            .collect()
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
    fn new(wire: Wire) -> Self {
        Self {
            wire,
            streams: 0,
            load: v1::DrafterLoad::default(),
            vanished: false,
            record: Record::default(),
            excluded_until: None,
            excluded_as: Failure::Loss,
            reason: String::new(),
            ready: false,
            heads: Vec::new(),
        }
    }
}
