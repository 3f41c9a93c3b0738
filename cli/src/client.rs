//! A client of verify-svc that goes on where a lost stream ended.

use anyhow::{Context, Result, bail};
use dssd_proto::v1::{
    FinishInfo, FinishReason, GenerateRequest, GenerateStreamResponse, GetServerInfoRequest,
    PromptInfo, Resume, RoundTrace, Tokens, generate_stream_response::Event,
    generation_client::GenerationClient,
};
use std::{
    error::Error as _,
    time::{Duration, Instant},
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint, Uri},
};

/// Failures in a row, without a new token between them, after which a generation is given up.
const MOST_FAILURES: u32 = 8;
/// The same for a generation that no server has begun: an address may be wrong.
const MOST_FAILURES_AT_FIRST: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Servers of one model that stand in for each other. Clones share the connections.
#[derive(Clone)]
pub(crate) struct Client {
    servers: Vec<GenerationClient<Channel>>,
    current: usize,
}

/// What a caller may watch.
pub(crate) enum Update<'a> {
    /// The stream began, for the first time or again.
    Started(&'a PromptInfo),
    /// New tokens.
    Tokens(&'a Tokens),
    /// A round, before its tokens.
    Round(&'a RoundTrace),
}

/// A whole generation.
pub(crate) struct Generated {
    pub(crate) token_ids: Vec<u32>,
    pub(crate) text: String,
    pub(crate) prompt_info: PromptInfo,
    pub(crate) finish: FinishInfo,
    /// How often another stream went on where one was lost.
    pub(crate) resumed: u32,
    /// Tokens per second from the first token to the last; 0 for fewer than two arrivals.
    pub(crate) tokens_per_second: f64,
}

/// What has arrived of a generation.
#[derive(Default)]
struct Progress {
    token_ids: Vec<u32>,
    text: String,
    prompt_info: Option<PromptInfo>,
    resumed: u32,
    first: Option<(Instant, usize)>,
    last: Option<(Instant, usize)>,
}

impl Client {
    /// A client of one or more servers; connects when it first asks.
    pub(crate) fn new(servers: &[Uri]) -> Self {
        let channel = |server: &Uri| {
            Endpoint::from(server.clone())
                .connect_timeout(CONNECT_TIMEOUT)
                .tcp_nodelay(true)
                .connect_lazy()
        };
        let client = |server| GenerationClient::new(channel(server));
        Self {
            servers: servers.iter().map(client).collect(),
            current: 0,
        }
    }

    /// The server that is asked at present.
    pub(crate) fn server(&self) -> GenerationClient<Channel> {
        self.servers[self.current].clone()
    }

    /// Waits, with a bound, until the server answers.
    pub(crate) async fn ready(&self) -> Result<()> {
        let asked = Instant::now();
        loop {
            match self.server().get_server_info(GetServerInfoRequest {}).await {
                Ok(_) => return Ok(()),
                Err(status) if is_passing(&status) && asked.elapsed() < START_TIMEOUT => {
                    tokio::time::sleep(FIRST_PAUSE / 2).await;
                }
                Err(status) => return Err(failure(&status)).context("the server is not ready"),
            }
        }
    }

    /// Generates, on another server if one fails.
    pub(crate) async fn generate(
        &mut self,
        mut request: GenerateRequest,
        watch: &mut (dyn FnMut(Update<'_>) + Send),
    ) -> Result<Generated> {
        let mut progress = Progress::default();
        let mut failures = 0;
        loop {
            let before = progress.token_ids.len();
            let status = match self.attempt(&request, &mut progress, watch).await {
                Ok(finish) => return progress.finished(finish),
                Err(status) => status,
            };
            if let Some(finish) = progress.only_the_end_is_missing() {
                return progress.finished(finish);
            }
            failures = if progress.token_ids.len() > before {
                1
            } else {
                failures + 1
            };
            // Another server may have the arithmetic that this one has not.
            let elsewhere = self.servers.len() > 1 && status.code() == Code::FailedPrecondition;
            let most = match progress.prompt_info {
                Some(_) => MOST_FAILURES,
                None => MOST_FAILURES_AT_FIRST,
            };
            if failures > most || !(is_passing(&status) || elsewhere) {
                return Err(failure(&status));
            }
            self.current = (self.current + 1) % self.servers.len();
            request.resume = progress.resume().or(request.resume);
            tokio::time::sleep(FIRST_PAUSE * 2u32.pow(failures.min(5) - 1)).await;
        }
    }

    async fn attempt(
        &self,
        request: &GenerateRequest,
        progress: &mut Progress,
        watch: &mut (dyn FnMut(Update<'_>) + Send),
    ) -> Result<FinishInfo, Status> {
        let mut stream = self
            .server()
            .generate_stream(request.clone())
            .await?
            .into_inner();
        while let Some(GenerateStreamResponse { event }) = stream.message().await? {
            match event {
                Some(Event::PromptInfo(info)) => {
                    watch(Update::Started(&info));
                    progress.resumed += u32::from(progress.prompt_info.replace(info).is_some());
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

impl Progress {
    fn take(&mut self, tokens: Tokens) -> Result<(), Status> {
        if tokens.first_index as usize != self.token_ids.len() {
            return Err(Status::data_loss(format!(
                "token {} came where {} was expected",
                tokens.first_index,
                self.token_ids.len()
            )));
        }
        self.token_ids.extend(tokens.token_ids);
        self.text.push_str(&tokens.text);
        let arrival = (Instant::now(), self.token_ids.len());
        self.first.get_or_insert(arrival);
        self.last = Some(arrival);
        Ok(())
    }

    fn resume(&self) -> Option<Resume> {
        let info = self.prompt_info.as_ref()?;
        Some(Resume {
            token_ids: self.token_ids.clone(),
            seed: info.sampling.as_ref()?.seed,
            numerics_id: info.numerics_id.clone(),
        })
    }

    /// The end of a generation whose tokens all came, so that there is nothing to resume.
    fn only_the_end_is_missing(&self) -> Option<FinishInfo> {
        let sampling = self.prompt_info.as_ref()?.sampling.as_ref()?;
        let stop = self
            .token_ids
            .last()
            .is_some_and(|last| sampling.stop_token_ids.contains(last));
        let finish_reason = match stop {
            true => FinishReason::Stop,
            false if self.token_ids.len() >= sampling.max_new_tokens as usize => {
                FinishReason::Length
            }
            false => return None,
        };
        Some(FinishInfo {
            finish_reason: finish_reason.into(),
            generated_token_count: self.token_ids.len() as u32,
            ..FinishInfo::default()
        })
    }

    fn finished(self, finish: FinishInfo) -> Result<Generated> {
        let Some(prompt_info) = self.prompt_info else {
            bail!("the server sent no `prompt_info`");
        };
        let tokens_per_second = match (self.first, self.last) {
            (Some((begin, before)), Some((end, after))) if end > begin => {
                (after - before) as f64 / (end - begin).as_secs_f64()
            }
            _ => 0.0,
        };
        Ok(Generated {
            token_ids: self.token_ids,
            text: self.text,
            prompt_info,
            finish,
            resumed: self.resumed,
            tokens_per_second,
        })
    }
}

/// Whether another attempt, here or elsewhere, may fare better.
fn is_passing(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::ResourceExhausted => true,
        // A connection that breaks under a stream shows as one of these, with its cause.
        Code::Unknown | Code::Internal | Code::Cancelled => status.source().is_some(),
        _ => false,
    }
}

/// A status in words.
pub(crate) fn failure(status: &Status) -> anyhow::Error {
    anyhow::anyhow!("{:?}: {}", status.code(), status.message())
}

#[cfg(test)]
mod tests;
