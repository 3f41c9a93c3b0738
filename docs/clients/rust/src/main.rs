//! A complete client of verify-svc: streams, cancels, keeps a deadline, goes on after a failure.

mod generation;
mod status;
mod tls;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use dssd_proto::v1::{
    FinishInfo, GenerateRequest, GenerateStreamResponse, PlainReason, RoundTrace, Speculation,
    generate_request::Prompt, generate_stream_response::Event, generation_client::GenerationClient,
};
use generation::Generation;
use std::{
    fs,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};
use tonic::{
    Request, Status,
    metadata::AsciiMetadataValue,
    transport::{Channel, Endpoint},
};

const MAX_MESSAGE_BYTES: usize = 16 << 20;
/// Failures in a row, without a new token between them, after which a generation is given up.
const MOST_FAILURES: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A complete client of verify-svc
#[derive(Parser)]
struct Arguments {
    prompt: String,
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50051")]
    endpoint: String,
    /// Encrypt; CAs in PEM
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Its first line is the token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_new_tokens: u32,
    /// 0: greedy
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f32,
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Unset: the server draws one
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Go on after the end of the text
    #[arg(long)]
    ignore_eos: bool,
    /// Draft policy; unset: the server's
    #[arg(long, default_value = "")]
    policy: String,
    /// For all attempts
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    deadline: f64,
    #[arg(long, value_name = "TOKENS")]
    cancel_after: Option<usize>,
    /// Tell how each token came
    #[arg(long)]
    trace: bool,
}

impl Arguments {
    fn request(&self) -> GenerateRequest {
        GenerateRequest {
            prompt: Some(Prompt::Text(self.prompt.clone())),
            max_new_tokens: Some(self.max_new_tokens),
            temperature: Some(self.temperature),
            top_p: self.top_p,
            seed: self.seed,
            ignore_eos: self.ignore_eos,
            speculation: Some(Speculation {
                policy: self.policy.clone(),
                trace: self.trace,
                ..Speculation::default()
            }),
            ..GenerateRequest::default()
        }
    }

    /// Connects with the first call, and anew with the next one after a failure.
    fn channel(&self) -> Result<Channel> {
        let scheme = if self.tls_ca.is_some() {
            "https"
        } else {
            "http"
        };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{}", self.endpoint))?
            // Finds out that a server vanished without a word.
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .connect_timeout(Duration::from_secs(5));
        match &self.tls_ca {
            Some(file) => tls::channel(&endpoint, file),
            None => Ok(endpoint.connect_lazy()),
        }
    }

    fn authorization(&self) -> Result<Option<AsciiMetadataValue>> {
        let Some(file) = &self.token_file else {
            return Ok(None);
        };
        let lines = fs::read_to_string(file)?;
        let token = lines
            .lines()
            .find(|line| !line.is_empty() && !line.starts_with('#'))
            .context("the token file holds no token")?;
        Ok(Some(format!("Bearer {token}").parse()?))
    }
}

struct Client {
    server: GenerationClient<Channel>,
    authorization: Option<AsciiMetadataValue>,
    arguments: Arguments,
    /// All attempts share it.
    deadline: Instant,
}

impl Client {
    fn new(arguments: Arguments) -> Result<Self> {
        Ok(Self {
            server: GenerationClient::new(arguments.channel()?)
                .max_decoding_message_size(MAX_MESSAGE_BYTES),
            authorization: arguments.authorization()?,
            deadline: Instant::now() + Duration::try_from_secs_f64(arguments.deadline)?,
            arguments,
        })
    }

    fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Reads one stream to its end. False: it was cancelled.
    async fn attempt(&self, generation: &mut Generation) -> Result<bool, Status> {
        let mut request = Request::new(generation.request());
        request.set_timeout(self.remaining());
        if let Some(authorization) = &self.authorization {
            request
                .metadata_mut()
                .insert("authorization", authorization.clone());
        }
        let call = self.server.clone().generate_stream(request).await?;
        let mut stream = call.into_inner();
        while let Some(message) = stream.message().await? {
            show(message, generation)?;
            let most = self.arguments.cancel_after.unwrap_or(usize::MAX);
            if generation.len() >= most {
                // Dropping the stream cancels the call.
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Attempts until the generation is complete or cancelled.
    async fn generate(&self, generation: &mut Generation) -> Result<bool, Status> {
        let mut failures = 0;
        loop {
            let before = generation.len();
            let attempt = tokio::time::timeout_at(self.deadline.into(), self.attempt(generation));
            // `grpc-timeout` tells the server; a server that is not there cannot answer it.
            let Ok(outcome) = attempt.await else {
                return Err(Status::deadline_exceeded("the deadline has passed"));
            };
            let error = match outcome {
                Ok(finished) => return Ok(finished),
                Err(_) if generation.is_complete() => return Ok(true),
                Err(error) => error,
            };
            failures = if generation.len() > before {
                1
            } else {
                failures + 1
            };
            if failures > MOST_FAILURES || !status::is_passing(&error) {
                return Err(error);
            }
            // What the server says, else twice as long after each failure.
            let pause = status::retry_delay(&error)
                .unwrap_or_else(|| LONGEST_PAUSE.min(FIRST_PAUSE * 2u32.pow(failures - 1)));
            status::show(&error);
            eprintln!(
                "again in {:.3} s with {} tokens",
                pause.as_secs_f64(),
                generation.len()
            );
            tokio::time::sleep(pause.min(self.remaining())).await;
        }
    }
}

fn show(message: GenerateStreamResponse, generation: &mut Generation) -> Result<(), Status> {
    match message.event {
        Some(Event::PromptInfo(info)) => generation.begin(info),
        Some(Event::Tokens(tokens)) => {
            print!("{}", tokens.text);
            io::stdout().flush()?;
            generation.take(tokens)?;
        }
        Some(Event::Round(round)) => show_round(&round),
        Some(Event::FinishInfo(finish)) => generation.end(finish),
        None => {}
    }
    Ok(())
}

/// How each token of a round came; those behind a refused one were not judged.
fn show_round(round: &RoundTrace) {
    for token in &round.drafted {
        let fate = if token.accepted {
            "accepted"
        } else {
            "refused"
        };
        eprintln!(
            "{} {fate} exit={} entropy={:.4}",
            token.token_id, token.exit_head, token.entropy
        );
    }
    match round.plain_reason() {
        PlainReason::Unspecified => eprintln!("{} corrected", round.correction),
        reason => eprintln!("{} plain {}", round.correction, reason.as_str_name()),
    }
}

fn show_finish(finish: &FinishInfo) {
    let drafts = finish.speculative_decoding.clone().unwrap_or_default();
    eprintln!(
        "{} generated={} resumed={} drafted={} accepted={}",
        finish.finish_reason().as_str_name(),
        finish.generated_token_count,
        finish.resumed_token_count,
        drafts.num_draft_tokens,
        drafts.num_accepted_tokens
    );
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.deadline <= 0.0 {
        bail!("--deadline must be above 0");
    }
    let mut generation = Generation::new(arguments.request());
    let client = Client::new(arguments)?;
    let outcome = client.generate(&mut generation).await;
    println!();
    match outcome {
        Ok(true) if !generation.is_complete() => {
            let tokens = generation.len();
            bail!("the stream ended before the answer, after {tokens} tokens");
        }
        Ok(true) => generation.finish().map_or((), show_finish),
        Ok(false) => eprintln!("cancelled after {} tokens", generation.len()),
        Err(error) => {
            status::show(&error);
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}
