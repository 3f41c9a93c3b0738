//! The closed loop: so many streams, each of which asks again as soon as it has its answer.

use super::{
    Load,
    call::{Answer, Call, End, Outcome},
    measures::{Belongs, Measures},
    window::Window,
    workload::{Work, fresh_salt},
};
use anyhow::Result;
use dssd_common::policy::PolicySpec;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, oneshot},
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

/// How long a stream rests after a refusal or an error that tells no time.
const REST: Duration = Duration::from_millis(100);
/// The longest that it rests, whatever is told.
const LONGEST_REST: Duration = Duration::from_secs(5);

/// Answers that one measurement keeps; those beyond are not compared.
const MOST_KEPT: usize = 1 << 16;

/// How long is measured.
#[derive(Clone, Copy, Debug)]
pub(super) enum Span {
    Time(Duration),
    /// Until so many calls have ended.
    Calls(u64),
}

/// One measurement.
#[derive(Clone, Copy)]
pub(super) struct Turn {
    pub(super) streams: usize,
    pub(super) policy: PolicySpec,
    /// Number of its first request.
    pub(super) first: u64,
    /// Whether answers are kept.
    pub(super) keeps: bool,
}

/// What came of it.
pub(super) struct Measured {
    pub(super) measures: Measures,
    /// Length of the window.
    pub(super) seconds: f64,
    /// By number of the request; none unless they were to be kept.
    pub(super) answers: HashMap<u64, Answer>,
}

/// What the streams share.
struct Shared {
    load: Arc<Load>,
    turn: Turn,
    salt: String,
    next: AtomicU64,
    window: Window,
    ended: CancellationToken,
    enough: Notify,
    ledger: Mutex<Ledger>,
}

struct Ledger {
    measures: Measures,
    answers: HashMap<u64, Answer>,
}

/// Runs the streams until each has begun, warms up, measures, and lets them come to their ends.
///
/// # Errors
/// If a stream panicked.
pub(super) async fn measure(load: &Arc<Load>, turn: Turn) -> Result<Measured> {
    let shared = Arc::new(Shared {
        load: Arc::clone(load),
        turn,
        salt: fresh_salt(),
        next: AtomicU64::new(turn.first + turn.streams as u64),
        window: Window::default(),
        ended: CancellationToken::new(),
        enough: Notify::new(),
        ledger: Mutex::new(Ledger {
            measures: Measures::new(Belongs::ByEnd, load.settings.objectives)?,
            answers: HashMap::new(),
        }),
    });
    let mut streams = JoinSet::new();
    let mut begun = Vec::with_capacity(turn.streams);
    for number in turn.first..turn.first + turn.streams as u64 {
        let (first, token) = oneshot::channel();
        begun.push(token);
        streams.spawn(Arc::clone(&shared).stream(number, first));
    }
    for token in begun {
        // A stream that was refused, or failed, has begun as well.
        _ = token.await;
    }
    sleep(load.settings.warm_up).await;
    shared.window.begin(Instant::now());
    match load.settings.span {
        Span::Time(time) => sleep(time).await,
        Span::Calls(_) => shared.enough.notified().await,
    }
    shared.window.end(Instant::now());
    shared.ended.cancel();
    while let Some(stream) = streams.join_next().await {
        stream?;
    }
    let seconds = shared.window.seconds();
    let mut ledger = shared.ledger();
    Ok(Measured {
        measures: ledger.measures.clone(),
        seconds,
        answers: std::mem::take(&mut ledger.answers),
    })
}

impl Shared {
    /// Call after call, until the window has ended.
    async fn stream(self: Arc<Self>, first: u64, begun: oneshot::Sender<()>) {
        let work = self.load.workload.first_work(first);
        let call = self.call(first, work);
        self.note(first, call.run(Some(begun)).await).await;
        while !self.ended.is_cancelled() {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let work = self.load.workload.work(number);
            let call = self.call(number, work);
            self.note(number, call.run(None).await).await;
        }
    }

    fn call(&self, number: u64, work: Work) -> Call {
        Call {
            server: self.load.target.server(number),
            request: work.request(self.turn.policy, &self.salt),
            due: Instant::now(),
            limit: self.load.settings.timeout,
        }
    }

    /// Counts the call, and rests if it was refused or failed, but not beyond the end.
    async fn note(&self, number: u64, outcome: Outcome) {
        let rest = match &outcome.end {
            End::Finished(_) => None,
            End::Refused(told) => Some(told.unwrap_or(REST).clamp(REST, LONGEST_REST)),
            End::Failed(..) | End::Wrong(_) => Some(REST),
        };
        self.count(number, outcome);
        if let Some(rest) = rest {
            self.ended.run_until_cancelled(sleep(rest)).await;
        }
    }

    fn count(&self, number: u64, outcome: Outcome) {
        let mut ledger = self.ledger();
        ledger.measures.add(&outcome, &self.window);
        if let Span::Calls(most) = self.load.settings.span
            && ledger.measures.ended() >= most
        {
            self.enough.notify_one();
        }
        let keeps = self.turn.keeps && ledger.answers.len() < MOST_KEPT;
        if keeps && matches!(outcome.end, End::Finished(_)) {
            ledger.answers.insert(number, outcome.answer);
        }
    }

    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
