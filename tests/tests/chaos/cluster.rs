//! Two verifiers and two drafters, with a way of its own between each pair, and one from the
//! clients to each verifier.

use crate::{
    processes::{Kind, Process, Vitals},
    proxy::{Mode, Way},
};
use dssd::client::Client;
use dssd_proto::v1::{
    GetDrafterInfoRequest, GetLoadRequest, drafting_client::DraftingClient,
    generation_client::GenerationClient,
};
use std::{process::ExitStatus, time::Duration};
use tokio::{sync::Mutex, time::timeout};
use tonic::transport::{Endpoint, Uri};

pub(crate) const EACH: usize = 2;
/// Generations that one service may have at once: those of all clients, and of clients that are
/// gone without its knowing yet.
const MOST_SEQUENCES: &str = "64";
/// Time for a process to be ready, or idle, on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// The place of one service: the process in it comes and goes.
pub(crate) struct Place {
    kind: Kind,
    flags: Vec<String>,
    process: Mutex<Option<Process>>,
    /// Faults in the logs of processes that are gone.
    faults: Mutex<Vec<String>>,
}

pub(crate) struct Cluster {
    /// Verifiers, then drafters.
    pub(crate) places: Vec<Place>,
    /// From clients to each verifier.
    pub(crate) client_ways: Vec<Way>,
    /// From each verifier to each drafter.
    pub(crate) draft_ways: Vec<Vec<Way>>,
}

/// Flags that every service of these tests has.
pub(crate) fn common_flags() -> Vec<String> {
    let flags = [
        "--threads",
        "1",
        "--max-sequences",
        MOST_SEQUENCES,
        "--kv-memory",
        "1GiB",
        "--http-listen",
        "off",
    ];
    flags.map(str::to_owned).to_vec()
}

impl Cluster {
    /// Starts all four, and waits until they serve.
    pub(crate) async fn start(drain_timeout: Duration) -> Self {
        let (mut client_ways, mut draft_ways, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..EACH {
            client_ways.push(Way::open().await);
            let ways = [Way::open().await, Way::open().await];
            let mut flags = common_flags();
            flags.extend(["--policy".into(), "fixed:0:2".into()]);
            flags.extend([
                "--drain-timeout".into(),
                drain_timeout.as_secs_f64().to_string(),
            ]);
            for way in &ways {
                flags.extend(["--draft".to_owned(), format!("http://{}", way.address)]);
            }
            draft_ways.push(Vec::from(ways));
            places.push(Place::new(Kind::Verifier, flags));
        }
        places.extend((0..EACH).map(|_| Place::new(Kind::Drafter, common_flags())));
        let cluster = Self {
            places,
            client_ways,
            draft_ways,
        };
        for place in 0..2 * EACH {
            cluster.fill(place).await;
        }
        for place in 0..2 * EACH {
            cluster.serves(place).await;
        }
        cluster
    }

    pub(crate) fn name(place: usize) -> String {
        match place {
            0..EACH => format!("verifier {place}"),
            _ => format!("drafter {}", place - EACH),
        }
    }

    /// All ways that lead to a place.
    pub(crate) fn ways_to(&self, place: usize) -> Vec<&Way> {
        match place {
            0..EACH => vec![&self.client_ways[place]],
            _ => self
                .draft_ways
                .iter()
                .map(|ways| &ways[place - EACH])
                .collect(),
        }
    }

    /// Starts a process in an empty place.
    pub(crate) async fn fill(&self, place: usize) {
        let Place {
            kind,
            flags,
            process,
            ..
        } = &self.places[place];
        let started = Process::start(*kind, flags).await;
        for way in self.ways_to(place) {
            way.lead_to(Some(started.address));
        }
        *process.lock().await = Some(started);
    }

    /// Waits for the process of a place to end, which a signal told it to.
    pub(crate) async fn empty(&self, place: usize, limit: Duration) -> ExitStatus {
        let mut process = self.places[place].process.lock().await.take().unwrap();
        let status = process.ended(limit).await;
        for way in self.ways_to(place) {
            way.lead_to(None);
        }
        self.places[place]
            .faults
            .lock()
            .await
            .extend(process.faults());
        status
    }

    pub(crate) async fn signal(&self, place: usize, name: &str) {
        let process = self.places[place].process.lock().await;
        process.as_ref().unwrap().signal(name);
    }

    pub(crate) async fn vitals(&self, place: usize) -> Vitals {
        let process = self.places[place].process.lock().await;
        process.as_ref().unwrap().vitals()
    }

    /// What stands in logs and should not.
    pub(crate) async fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for place in &self.places {
            faults.extend(place.faults.lock().await.clone());
            let process = place.process.lock().await;
            faults.extend(process.iter().flat_map(Process::faults));
        }
        faults
    }

    async fn direct(&self, place: usize) -> Endpoint {
        let process = self.places[place].process.lock().await;
        let address = process.as_ref().unwrap().address;
        Endpoint::from_shared(format!("http://{address}"))
            .unwrap()
            .connect_timeout(CONNECT_LIMIT)
            .timeout(ANSWER_LIMIT)
    }

    /// What a service holds: sequences that run or wait, and blocks that are not free. Nothing
    /// if it does not answer. A drafter does not tell its blocks in all; `free` are those of one
    /// that holds nothing.
    pub(crate) async fn load(&self, place: usize, free: Option<u32>) -> Option<(u32, u32, u32)> {
        let channel = self.direct(place).await.connect().await.ok()?;
        if self.places[place].kind == Kind::Verifier {
            let asked = GenerationClient::new(channel)
                .get_load(GetLoadRequest {})
                .await;
            let load = asked.ok()?.into_inner();
            let held = load.kv_blocks - load.free_kv_blocks;
            return Some((load.running + load.waiting, held, load.free_kv_blocks));
        }
        let asked = DraftingClient::new(channel)
            .get_drafter_info(GetDrafterInfoRequest {})
            .await;
        let load = asked.ok()?.into_inner().load?;
        let held = free.map_or(0, |free| free - load.free_kv_blocks);
        Some((load.sequences, held, load.free_kv_blocks))
    }

    /// Waits until a service answers.
    pub(crate) async fn serves(&self, place: usize) {
        let serving = async {
            while self.load(place, None).await.is_none() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let served = timeout(LIMIT, serving).await;
        served.unwrap_or_else(|_| panic!("{} does not serve", Self::name(place)));
    }

    /// Waits until a service holds nothing; returns its free blocks.
    pub(crate) async fn is_idle(&self, place: usize, free: Option<u32>) -> u32 {
        let mut newest = None;
        let idle = async {
            loop {
                newest = self.load(place, free).await;
                if let Some((0, 0, free)) = newest {
                    break free;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let outcome = timeout(LIMIT, idle).await;
        outcome.unwrap_or_else(|_| panic!("{} still holds {newest:?}", Self::name(place)))
    }

    /// A client of both verifiers, the given one first.
    pub(crate) fn client(&self, first: usize) -> Client {
        let uri = |i: usize| -> Uri {
            let way = &self.client_ways[(first + i) % EACH];
            format!("http://{}", way.address).parse().unwrap()
        };
        Client::new(&(0..EACH).map(uri).collect::<Vec<_>>())
    }

    /// Every way carries again.
    pub(crate) fn heal(&self) {
        let ways = self
            .client_ways
            .iter()
            .chain(self.draft_ways.iter().flatten());
        ways.for_each(|way| way.set(Mode::Open));
    }
}

impl Place {
    fn new(kind: Kind, flags: Vec<String>) -> Self {
        Self {
            kind,
            flags,
            process: Mutex::new(None),
            faults: Mutex::new(Vec::new()),
        }
    }
}
