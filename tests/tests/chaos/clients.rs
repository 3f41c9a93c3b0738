//! Clients: they ask all the time, and some lose patience.

use crate::{
    cluster::Cluster,
    ledger::{Entry, Ledger},
};
use dssd::client::{Client, Update};
use rand::{Rng as _, SeedableRng as _, seq::IndexedRandom as _};
use rand_chacha::ChaCha8Rng;
use std::{
    future::poll_fn,
    pin::pin,
    sync::{Arc, Mutex},
    task::Poll,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What a client waits for a whole generation, attempts at all servers included: far beyond what
/// any fault here takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// What has come so far of a generation.
#[derive(Default)]
struct Part {
    tokens: Vec<u32>,
    text: String,
}

/// How a client behaves.
#[derive(Clone, Copy, Debug)]
enum Manner {
    /// Reads to the end.
    Patient,
    /// Goes after so many tokens.
    Leaves(usize),
    /// Gives the generation so much time.
    Hurried(Duration),
    /// Takes so long to read each message.
    Slow(Duration),
}

impl Manner {
    fn any(random: &mut ChaCha8Rng) -> Self {
        match random.random_range(0..100) {
            0..65 => Self::Patient,
            65..80 => Self::Leaves(random.random_range(0..60)),
            80..90 => Self::Hurried(Duration::from_millis(random.random_range(100..2000))),
            _ => Self::Slow(Duration::from_millis(random.random_range(2..30))),
        }
    }
}

/// Starts so many clients, who ask until `end`.
pub(crate) fn start(
    count: usize,
    seed: u64,
    cluster: &Cluster,
    ledger: &Arc<Ledger>,
    end: &CancellationToken,
) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    // Some share a connection, and some have one of their own.
    let shared = cluster.client(0);
    for number in 0..count {
        let client = match number % 3 {
            0 => shared.clone(),
            _ => cluster.client(number),
        };
        let (ledger, end) = (Arc::clone(ledger), end.clone());
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(1000 + number as u64);
        clients.spawn(async move {
            while !end.is_cancelled() {
                let manner = Manner::any(&mut random);
                let entry = ledger.entries.choose(&mut random).unwrap();
                ask(client.clone(), entry, manner, &ledger).await;
            }
        });
    }
    clients
}

async fn ask(client: Client, entry: &Entry, manner: Manner, ledger: &Ledger) {
    let limit = match manner {
        Manner::Hurried(time) => time,
        _ => PATIENCE,
    };
    let part = Mutex::new(Part::default());
    let mut watch = |update: Update<'_>| {
        let Update::Tokens(tokens) = update else {
            return;
        };
        let mut part = part.lock().unwrap();
        part.tokens.extend(&tokens.token_ids);
        part.text.push_str(&tokens.text);
        if let Manner::Slow(time) = manner {
            // The call that is watched reads nothing meanwhile; others go on.
            let pause = || tokio::runtime::Handle::current().block_on(tokio::time::sleep(time));
            tokio::task::block_in_place(pause);
        }
    };
    let begun = Instant::now();
    let mut client = client.within(Some(limit));
    let outcome = {
        let mut work = pin!(client.generate(entry.request.clone(), &mut watch));
        poll_fn(|context| match work.as_mut().poll(context) {
            Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
            Poll::Pending => match manner {
                Manner::Leaves(after) if part.lock().unwrap().tokens.len() >= after => {
                    Poll::Ready(None)
                }
                _ => Poll::Pending,
            },
        })
        .await
    };
    let part = part.into_inner().unwrap();
    match outcome {
        None => {
            ledger.part(entry, &part.tokens, &part.text);
            ledger.count(|counts| counts.cancelled += 1);
        }
        Some(Ok(answer)) => ledger.whole(entry, &answer),
        Some(Err(_)) if matches!(manner, Manner::Hurried(time) if begun.elapsed() + MARGIN >= time) =>
        {
            ledger.part(entry, &part.tokens, &part.text);
            ledger.count(|counts| counts.expired += 1);
        }
        Some(Err(error)) => ledger.complain(format!(
            "{manner:?} got no answer but {error:#} after {:?} and {} tokens, for {:?}",
            begun.elapsed(),
            part.tokens.len(),
            entry.request
        )),
    }
}

/// A server gives up so much before the time that it was given.
const MARGIN: Duration = Duration::from_millis(10);
