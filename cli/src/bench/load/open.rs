//! The open loop: requests arrive when they arrive, whatever became of those before.

use super::{
    Load,
    arrivals::Arrivals,
    call::Call,
    measures::{Belongs, Measures, Times},
    window::Window,
    workload::fresh_salt,
};
use anyhow::{Context as _, Result};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// What is to be run.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    /// Requests per second.
    pub(super) rate: f64,
    pub(super) duration: Duration,
    /// Most calls that may be under way.
    pub(super) most_outstanding: usize,
    /// Number of the first request.
    pub(super) first: u64,
}

/// What came of it.
pub(super) struct Measured {
    pub(super) measures: Measures,
    pub(super) seconds: f64,
    /// Requests that arrived in the window.
    pub(super) offered: u64,
    /// Those that the client did not send, as too many were under way.
    pub(super) unsent: u64,
    /// From the moment that a request was due to the one that it was sent.
    pub(super) lateness: Times,
}

/// Sends requests at their times, and waits for the last answers.
///
/// # Errors
/// If a task panicked.
pub(super) async fn run(load: &Arc<Load>, plan: Plan) -> Result<Measured> {
    let measures = Measures::new(Belongs::ByDue, load.settings.objectives)?;
    let measures = Arc::new(Mutex::new(measures));
    let places = Arc::new(Semaphore::new(plan.most_outstanding));
    let (begin, warm_up) = (Instant::now(), load.settings.warm_up);
    let window = Arc::new(Window::default());
    window.begin(begin + warm_up);
    window.end(begin + warm_up + plan.duration);
    let (mut offered, mut unsent, mut lateness) = (0, 0, Times::new()?);
    let (salt, mut calls) = (fresh_salt(), JoinSet::new());
    let arrivals = Arrivals::new(plan.rate, load.workload.seed());
    let all = arrivals.take_while(|&at| at < warm_up + plan.duration);
    for (number, at) in (plan.first..).zip(all) {
        let due = begin + at;
        let work = load.workload.work(number);
        sleep_until(due).await;
        // Calls that are over are forgotten: the set holds no more than are under way.
        while let Some(call) = calls.try_join_next() {
            call?;
        }
        let counts = window.contains(due);
        offered += u64::from(counts);
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            unsent += u64::from(counts);
            continue;
        };
        if counts {
            lateness.add(due.elapsed(), 1);
        }
        let call = Call {
            server: load.target.server(number),
            request: work.request(load.settings.policy, &salt),
            due,
            limit: load.settings.timeout,
        };
        let (measures, window) = (Arc::clone(&measures), Arc::clone(&window));
        calls.spawn(async move {
            let outcome = call.run(None).await;
            let mut measures = measures.lock().unwrap_or_else(PoisonError::into_inner);
            measures.add(&outcome, &window);
            drop(place);
        });
    }
    sleep_until(begin + warm_up + plan.duration).await;
    while let Some(call) = calls.join_next().await {
        call?;
    }
    let measures = Arc::into_inner(measures).context("a call is still under way")?;
    Ok(Measured {
        measures: measures
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner),
        seconds: window.seconds(),
        offered,
        unsent,
        lateness,
    })
}
