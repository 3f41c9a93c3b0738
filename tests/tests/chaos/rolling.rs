//! Every service is replaced, one after another, while clients ask.

use crate::{
    ALONE,
    chaos::{finish, number},
    clients,
    cluster::{Cluster, EACH},
    ledger::Ledger,
    requests,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

const ROUNDS: u64 = 2;
/// Shorter than the longest generations take here, so that some are cut off and resumed.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(700);
/// What an end may take beyond it, on a busy machine.
const SLACK: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rolling_restart_loses_no_generation() {
    let _alone = ALONE.lock().await;
    let seed = number("DSSD_CHAOS_SEED", 2);
    let ledger = Arc::new(Ledger::of(requests::varied(16, seed)).await);
    let cluster = Cluster::start(DRAIN_TIMEOUT).await;
    let end = CancellationToken::new();
    let clients = clients::start(12, seed, &cluster, &ledger, &end);
    let mut longest = Duration::ZERO;
    for _ in 0..number("DSSD_ROLLING_ROUNDS", ROUNDS) {
        for place in [0, EACH, 1, EACH + 1] {
            let told = Instant::now();
            cluster.signal(place, "TERM").await;
            let status = cluster.empty(place, DRAIN_TIMEOUT + SLACK).await;
            longest = longest.max(told.elapsed());
            assert!(status.success(), "{}: {status}", Cluster::name(place));
            cluster.fill(place).await;
            cluster.serves(place).await;
        }
    }
    finish(clients, &end).await;
    let (counts, wrong) = (ledger.counts(), ledger.wrong());
    println!("seed {seed}: {counts}; the longest end took {longest:.2?}");
    assert!(
        wrong.is_empty(),
        "seed {seed}, {} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(
        counts.resumes > 0,
        "no client had to resume: nothing is proven"
    );
    let faults = cluster.faults().await;
    assert!(faults.is_empty(), "{faults:#?}");
}
