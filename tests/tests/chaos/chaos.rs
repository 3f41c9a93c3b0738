//! Everything at once.

use crate::{
    ALONE, clients,
    cluster::{Cluster, EACH},
    faults::Schedule,
    ledger::Ledger,
    processes::Vitals,
    requests,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

/// How long faults go on; the long run sets `DSSD_CHAOS_SECONDS`.
const SECONDS: u64 = 20;
/// Another one is another run; `DSSD_CHAOS_SEED` sets it.
const SEED: u64 = 1;
const REQUESTS: u64 = 32;
const CLIENTS: usize = 12;
/// Open files beside those at the start: a verifier then has connections to both drafters, these
/// have them from both verifiers, and we ask on one.
const MORE_FILES: usize = 3;
/// Memory beside that at the start, when as much ran at once as ever does later.
const MORE_KIB: u64 = 48 << 10;
/// Time for a process to be as it was: threads that wait for blocking work live ten seconds.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn number(variable: &str, otherwise: u64) -> u64 {
    let said = std::env::var(variable);
    said.map_or(otherwise, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is a number"))
    })
}

/// Waits for clients to end what they have begun.
pub(crate) async fn finish(mut clients: JoinSet<()>, end: &CancellationToken) {
    end.cancel();
    let ended = async { while clients.join_next().await.transpose().unwrap().is_some() {} };
    timeout(Duration::from_secs(180), ended)
        .await
        .expect("every generation ends");
}

/// What each service has when it holds nothing: files and threads of a fresh one, and memory after
/// more at once than will ever be later, since blocks that were touched are kept.
async fn at_the_start(cluster: &Cluster, ledger: &Arc<Ledger>) -> Vec<(Vitals, u32)> {
    let mut start = Vec::new();
    for place in 0..2 * EACH {
        let free = cluster.is_idle(place, None).await;
        start.push((cluster.vitals(place).await, free));
    }
    let mut work = JoinSet::new();
    for (index, _) in ledger.entries.iter().enumerate() {
        for first in 0..EACH {
            let (mut client, ledger) = (cluster.client(first), Arc::clone(ledger));
            work.spawn(async move {
                let entry = &ledger.entries[index];
                let answer = client.generate(entry.request.clone(), &mut |_| ()).await;
                ledger.whole(entry, &answer.unwrap());
            });
        }
    }
    finish(work, &CancellationToken::new()).await;
    for (place, (vitals, free)) in start.iter_mut().enumerate() {
        cluster.is_idle(place, Some(*free)).await;
        vitals.own_kib = cluster.vitals(place).await.own_kib;
    }
    start
}

/// Waits until a service holds no more than at the start.
async fn settles(cluster: &Cluster, place: usize, start: (Vitals, u32)) -> Vitals {
    cluster.is_idle(place, Some(start.1)).await;
    let mut newest = start.0;
    let settled = async {
        loop {
            newest = cluster.vitals(place).await;
            if newest.files <= start.0.files + MORE_FILES
                && newest.threads <= start.0.threads
                && newest.own_kib <= start.0.own_kib + MORE_KIB
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let outcome = timeout(SETTLE_LIMIT, settled).await;
    let name = Cluster::name(place);
    outcome.unwrap_or_else(|_| panic!("{name} leaks: {newest:?} after {:?} at the start", start.0));
    newest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_fails_every_token_comes_once_and_nothing_is_left_behind() {
    let _alone = ALONE.lock().await;
    let seed = number("DSSD_CHAOS_SEED", SEED);
    let duration = Duration::from_secs(number("DSSD_CHAOS_SECONDS", SECONDS));
    let ledger = Arc::new(Ledger::of(requests::varied(REQUESTS, seed)).await);
    let cluster = Cluster::start(Duration::from_secs(3)).await;
    let start = at_the_start(&cluster, &ledger).await;

    let begun = Instant::now();
    let (end, schedule) = (CancellationToken::new(), Schedule::new(duration));
    let clients = clients::start(CLIENTS, seed, &cluster, &ledger, &end);
    schedule.run(&cluster, seed).await;
    finish(clients, &end).await;
    let lasted = begun.elapsed();

    let wrong = ledger.wrong();
    assert!(
        wrong.is_empty(),
        "seed {seed}, {} wrong:\n{}\nafter\n{}",
        wrong.len(),
        wrong.join("\n"),
        schedule.lines()
    );
    let counts = ledger.counts();
    println!("seed {seed}, {lasted:.0?}: {counts}");
    println!("faults: {:?}", schedule.counts());
    for (place, start) in start.into_iter().enumerate() {
        let settled = settles(&cluster, place, start).await;
        println!(
            "{}: {:?} at the start, {settled:?} at the end",
            Cluster::name(place),
            start.0
        );
    }
    let faults = cluster.faults().await;
    assert!(
        faults.is_empty(),
        "seed {seed}: {faults:#?}\nafter\n{}",
        schedule.lines()
    );
    assert!(
        counts.resumes > 0,
        "no client had to resume: nothing is proven"
    );
    assert!(counts.drafter_losses > 0 && counts.accepted > 0, "{counts}");
}
