//! A client of verify-svc that goes on where a lost stream ended.

mod progress;

use anyhow::{Context, Result, bail};
use dssd_common::serve::{Dialer, MAX_MESSAGE_BYTES, Wire};
use dssd_proto::v1::{
    FinishInfo, GenerateRequest, GenerateStreamResponse, GetServerInfoRequest, PromptInfo,
    RoundTrace, Tokens, generate_stream_response::Event, generation_client::GenerationClient,
};
use progress::Progress;
pub use progress::{Cut, Generated, bits};
use std::{
    error::Error as _,
    iter,
    time::{Duration, Instant},
};
use tonic::{Code, Request, Status, transport::Uri};

/// Failures in a row, without a new token between them, after which a generation is given up.
const MOST_FAILURES: u32 = 8;
/// The same for a generation that no server has begun: an address may be wrong.
const MOST_FAILURES_AT_FIRST: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Servers of one model that stand in for each other. Clones share the connections.
#[derive(Clone)]
pub struct Client {
    servers: Vec<Server>,
    current: usize,
    time_limit: Option<Duration>,
}

#[derive(Clone)]
struct Server {
    uri: Uri,
    generation: GenerationClient<Wire>,
}

/// What a caller may watch.
pub enum Update<'a> {
    /// The stream began, for the first time or again.
    Started(&'a PromptInfo),
    /// New tokens.
    Tokens(&'a Tokens),
    /// A round, before its tokens.
    Round(&'a RoundTrace),
}

impl Client {
    /// A client of one or more servers; connects when it first asks.
    pub fn new(servers: &[Uri]) -> Self {
        Self::with(&Dialer::default(), servers)
    }

    /// The same, of servers that `dialer` reaches.
    pub fn with(dialer: &Dialer, servers: &[Uri]) -> Self {
        let server = |uri: &Uri| Server {
            uri: uri.clone(),
            generation: GenerationClient::new(dialer.wire(uri))
                .max_decoding_message_size(MAX_MESSAGE_BYTES),
        };
        Self {
            servers: servers.iter().map(server).collect(),
            current: 0,
            time_limit: None,
        }
    }

    /// Gives every generation so much time, attempts at other servers included.
    pub fn within(self, time_limit: Option<Duration>) -> Self {
        Self { time_limit, ..self }
    }

    /// The server that is asked at present.
    pub fn server(&self) -> GenerationClient<Wire> {
        self.servers[self.current].generation.clone()
    }

    /// What went wrong at the present server.
    fn failure(&self, status: &Status) -> anyhow::Error {
        failure(status).context(self.servers[self.current].uri.to_string())
    }

    /// Waits, with a bound, until the server answers.
    pub async fn ready(&self) -> Result<()> {
        let asked = Instant::now();
        loop {
            match self.server().get_server_info(GetServerInfoRequest {}).await {
                Ok(_) => return Ok(()),
                Err(status) if is_passing(&status) && asked.elapsed() < START_TIMEOUT => {
                    tokio::time::sleep(FIRST_PAUSE / 2).await;
                }
                Err(status) => {
                    return Err(self.failure(&status)).context("the server is not ready");
                }
            }
        }
    }

    /// Generates, on another server if one fails.
    pub async fn generate(
        &mut self,
        request: GenerateRequest,
        watch: &mut (dyn FnMut(Update<'_>) + Send),
    ) -> Result<Generated> {
        let mut progress = Progress::of(&request);
        let Some(limit) = self.time_limit else {
            let finish = self.persist(request, &mut progress, watch, None).await?;
            return progress.finished(finish);
        };
        let end = Instant::now() + limit;
        let work = self.persist(request, &mut progress, watch, Some(end));
        match tokio::time::timeout_at(end.into(), work).await {
            Ok(finish) => progress.finished(finish?),
            Err(_) => bail!("not finished after {limit:?}, the time given by --deadline"),
        }
    }

    /// Attempts until one comes to the end.
    async fn persist(
        &mut self,
        mut request: GenerateRequest,
        progress: &mut Progress,
        watch: &mut (dyn FnMut(Update<'_>) + Send),
        end: Option<Instant>,
    ) -> Result<FinishInfo> {
        let mut failures = 0;
        loop {
            let before = progress.len();
            let mut asked = Request::new(request.clone());
            if let Some(end) = end {
                asked.set_timeout(end.saturating_duration_since(Instant::now()));
            }
            let status = match self.attempt(asked, progress, watch).await {
                Ok(finish) => return Ok(finish),
                Err(status) => status,
            };
            if let Some(finish) = progress.only_the_end_is_missing() {
                return Ok(finish);
            }
            failures = if progress.len() > before {
                1
            } else {
                failures + 1
            };
            // Another server may have the arithmetic that this one has not.
            let elsewhere = self.servers.len() > 1 && status.code() == Code::FailedPrecondition;
            let most = match progress.has_begun() {
                true => MOST_FAILURES,
                false => MOST_FAILURES_AT_FIRST,
            };
            if failures > most || !(is_passing(&status) || elsewhere) {
                return Err(self.failure(&status));
            }
            self.current = (self.current + 1) % self.servers.len();
            request.resume = progress.resume().or(request.resume);
            tokio::time::sleep(FIRST_PAUSE * 2u32.pow(failures.min(5) - 1)).await;
        }
    }

    async fn attempt(
        &self,
        request: Request<GenerateRequest>,
        progress: &mut Progress,
        watch: &mut (dyn FnMut(Update<'_>) + Send),
    ) -> Result<FinishInfo, Status> {
        let mut stream = self.server().generate_stream(request).await?.into_inner();
        while let Some(GenerateStreamResponse { event }) = stream.message().await? {
            match event {
                Some(Event::PromptInfo(info)) => {
                    watch(Update::Started(&info));
                    progress.begin(info);
                }
                Some(Event::Round(round)) => watch(Update::Round(&round)),
                Some(Event::Tokens(tokens)) => {
                    watch(Update::Tokens(&tokens));
                    progress.take(tokens)?;
                }
                Some(Event::FinishInfo(finish)) => return Ok(finish),
                None => {}
            }
        }
        Err(Status::unavailable("the stream ended before its end"))
    }
}

/// Whether another attempt, here or elsewhere, may fare better.
fn is_passing(status: &Status) -> bool {
    match status.code() {
        // ABORTED: what came was not read in time.
        Code::Unavailable | Code::ResourceExhausted | Code::Aborted => true,
        // A connection that breaks under a stream shows as one of these, with its cause.
        Code::Unknown | Code::Internal | Code::Cancelled => status.source().is_some(),
        _ => false,
    }
}

/// Whether the call of this status never left this process: its connection was about to close, as
/// one that grew old does. gRPC clients send such calls again by themselves ("transparent retry" in
/// [gRPC's retry design](https://github.com/grpc/proposal/blob/master/A6-client-retries.md)), tonic's
/// leave it to their caller.
pub fn never_left(status: &Status) -> bool {
    iter::successors(status.source(), |&cause| cause.source())
        .filter_map(|cause| cause.downcast_ref::<hyper::Error>())
        .any(hyper::Error::is_canceled)
}

/// A status in words, with its first cause where it has one.
pub fn failure(status: &Status) -> anyhow::Error {
    let cause = iter::successors(status.source(), |&cause| cause.source()).last();
    match cause.map(ToString::to_string) {
        Some(cause) if !status.message().contains(&cause) => {
            anyhow::anyhow!("{:?}: {}: {cause}", status.code(), status.message())
        }
        _ => anyhow::anyhow!("{:?}: {}", status.code(), status.message()),
    }
}
