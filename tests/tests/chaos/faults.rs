//! What happens to services and to the ways between them, by a seed.

use crate::{
    cluster::{Cluster, EACH},
    proxy::{Mode, Way},
};
use rand::{Rng as _, SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;
use std::{
    collections::BTreeMap,
    sync::Mutex,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Beyond the keepalive of clients, so that they resume elsewhere.
const LONG_FREEZE: Duration = Duration::from_secs(12);
/// Beyond the keepalive of servers, so that they notice that clients have vanished.
const LONG_STALL: Duration = Duration::from_secs(35);
/// Runs at least so long have the two above.
const LONG_RUN: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Kill,
    Terminate,
    Freeze,
    LongFreeze,
    Cut,
    Refuse,
    Delay,
    Stall,
    LongStall,
}

const SHORT: [Fault; 7] = [
    Fault::Kill,
    Fault::Stall,
    Fault::Freeze,
    Fault::Cut,
    Fault::Terminate,
    Fault::Refuse,
    Fault::Delay,
];

impl Fault {
    /// Whether the process is another one afterwards.
    fn replaces(self) -> bool {
        matches!(self, Self::Kill | Self::Terminate)
    }
}

/// What happened when.
pub(crate) struct Schedule {
    begun: Instant,
    /// How long faults go on.
    duration: Duration,
    lines: Mutex<Vec<String>>,
    counts: Mutex<BTreeMap<String, u32>>,
}

impl Schedule {
    pub(crate) fn new(duration: Duration) -> Self {
        Self {
            begun: Instant::now(),
            duration,
            lines: Mutex::default(),
            counts: Mutex::default(),
        }
    }

    fn note(&self, place: usize, fault: Fault, what: &str) {
        let at = self.begun.elapsed().as_secs_f64();
        let name = Cluster::name(place);
        let line = format!("{at:7.2} s  {name}: {fault:?}{what}");
        self.lines.lock().unwrap().push(line);
        let kind = name.split(' ').next().unwrap_or_default();
        let mut counts = self.counts.lock().unwrap();
        *counts.entry(format!("{kind} {fault:?}")).or_default() += 1;
    }

    pub(crate) fn lines(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    pub(crate) fn counts(&self) -> BTreeMap<String, u32> {
        self.counts.lock().unwrap().clone()
    }

    /// Whether processes may still be replaced: those of the last part are to be seen to have
    /// borne everything else without leaking.
    fn replaces(&self) -> bool {
        self.begun.elapsed() < self.duration.mul_f64(0.6)
    }

    /// Faults of every kind in random order, then again, until the time is over. One verifier at
    /// a time has one, so that clients find the other; drafters have theirs at the same time.
    pub(crate) async fn run(&self, cluster: &Cluster, seed: u64) {
        let verifiers = self.run_on(cluster, 0, seed);
        let drafters = self.run_on(cluster, EACH, seed ^ 1);
        tokio::join!(verifiers, drafters);
        cluster.heal();
    }

    async fn run_on(&self, cluster: &Cluster, first: usize, seed: u64) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let end = CancellationToken::new();
        let over = end.clone();
        let left = self.duration.saturating_sub(self.begun.elapsed());
        let timer = tokio::spawn(async move {
            tokio::time::sleep(left).await;
            over.cancel();
        });
        while !end.is_cancelled() {
            let mut deck = SHORT.to_vec();
            if self.duration >= LONG_RUN {
                deck.extend([Fault::LongFreeze, Fault::LongStall]);
            }
            deck.shuffle(&mut random);
            for fault in deck {
                let place = first + random.random_range(0..EACH);
                let pause = Duration::from_millis(random.random_range(100..800));
                let strength = Duration::from_millis(random.random_range(300..3000));
                if fault.replaces() && !self.replaces() {
                    continue;
                }
                if end
                    .run_until_cancelled(tokio::time::sleep(pause))
                    .await
                    .is_none()
                {
                    break;
                }
                let way = random.random_range(0..EACH);
                let cut = random.random();
                self.happen(cluster, place, way, fault, strength, cut).await;
            }
        }
        timer.abort();
    }

    async fn happen(
        &self,
        cluster: &Cluster,
        place: usize,
        way: usize,
        fault: Fault,
        strength: Duration,
        cut: bool,
    ) {
        let ways = cluster.ways_to(place);
        let way = ways[way % ways.len()];
        match fault {
            Fault::Kill | Fault::Terminate => {
                self.note(place, fault, "");
                let signal = if fault == Fault::Kill { "KILL" } else { "TERM" };
                cluster.signal(place, signal).await;
                let status = cluster.empty(place, Duration::from_secs(60)).await;
                let orderly = fault == Fault::Terminate;
                assert_eq!(
                    status.success(),
                    orderly,
                    "{}: {status}",
                    Cluster::name(place)
                );
                tokio::time::sleep(strength / 4).await;
                cluster.fill(place).await;
            }
            Fault::Freeze | Fault::LongFreeze => {
                let time = if fault == Fault::Freeze {
                    strength
                } else {
                    LONG_FREEZE
                };
                self.note(place, fault, &format!(" for {time:?}"));
                cluster.signal(place, "STOP").await;
                tokio::time::sleep(time).await;
                cluster.signal(place, "CONT").await;
            }
            Fault::Cut => {
                self.note(place, fault, "");
                way.cut();
            }
            Fault::Refuse => {
                self.hold(place, way, fault, Mode::Refuse, strength, true)
                    .await
            }
            Fault::Delay => {
                let mode = Mode::Delay(strength / 20);
                self.hold(place, way, fault, mode, strength, false).await;
            }
            Fault::Stall => {
                self.hold(place, way, fault, Mode::Stall, strength, cut)
                    .await
            }
            Fault::LongStall => {
                self.hold(place, way, fault, Mode::Stall, LONG_STALL, cut)
                    .await
            }
        }
        cluster.serves(place).await;
    }

    /// A way is so for a time; with `cut`, all connections are reset: for a refusal at its
    /// beginning, else at its end.
    async fn hold(
        &self,
        place: usize,
        way: &Way,
        fault: Fault,
        mode: Mode,
        time: Duration,
        cut: bool,
    ) {
        let then = if cut { ", then cut" } else { "" };
        self.note(place, fault, &format!(" for {time:?}{then}"));
        way.set(mode);
        if cut && mode == Mode::Refuse {
            way.cut();
        }
        tokio::time::sleep(time).await;
        if cut {
            way.cut();
        }
        way.set(Mode::Open);
    }
}
