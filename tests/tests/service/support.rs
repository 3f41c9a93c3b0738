//! Services in this process, and requests to them.

use dssd_common::{
    checkpoint::{Checkpoint, demo},
    model::Span,
    sampling::{History, Sampler, SamplingParams, Scratch},
    serve::{DeviceName, Dtype, Listeners, ModelSettings},
    tokenizer::Tokenizer,
};
use dssd_proto::v1::{
    self, GenerateRequest, Speculation, SpeculationMode, TokenIds, generate_request::Prompt,
    generation_client::GenerationClient,
};
use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Uri};

pub(crate) const PROMPT: &str = "Once upon a time there was a little girl who";

/// A service that runs until it is stopped.
pub(crate) struct Running<E> {
    pub(crate) address: SocketAddr,
    /// Where probes and metrics are.
    pub(crate) http: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<Result<(), E>>,
}

impl<E: std::fmt::Debug> Running<E> {
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    pub(crate) fn uri(&self) -> Uri {
        format!("http://{}", self.address).parse().unwrap()
    }
}

pub(crate) type Verifier = Running<verify_svc::Error>;
pub(crate) type Drafter = Running<draft_svc::Error>;

pub(crate) fn open_demo() -> (Arc<Checkpoint>, Option<Arc<Tokenizer>>) {
    dssd_common::serve::open_model(None).unwrap()
}

/// A verifier on a free port.
pub(crate) async fn verifier(change: impl FnOnce(&mut verify_svc::Config)) -> Verifier {
    let (checkpoint, tokenizer) = open_demo();
    verifier_of(checkpoint, tokenizer, change).await
}

pub(crate) async fn verifier_of(
    checkpoint: Arc<Checkpoint>,
    tokenizer: Option<Arc<Tokenizer>>,
    change: impl FnOnce(&mut verify_svc::Config),
) -> Verifier {
    let mut config = verify_svc::Config::for_model(demo::folder().unwrap());
    config.serve.threads = Some(1);
    // Tests of what becomes of drafts want some, whether they pay here or not.
    config.serve.policy = Some("fixed:0:2".to_owned());
    config.serve.drain_delay = Duration::ZERO;
    change(&mut config);
    let (listeners, address, http) = listeners("127.0.0.1:0").await;
    let shutdown = CancellationToken::new();
    let service = verify_svc::run_with(config, checkpoint, tokenizer, listeners, shutdown.clone());
    Running {
        address,
        http,
        shutdown,
        task: tokio::spawn(service),
    }
}

/// A drafter on `address`.
pub(crate) async fn drafter_at(
    address: &str,
    checkpoint: Arc<Checkpoint>,
    change: impl FnOnce(&mut draft_svc::Config),
) -> Drafter {
    let (_, tokenizer) = open_demo();
    let mut config = draft_svc::Config::for_model(demo::folder().unwrap());
    config.serve.threads = Some(1);
    // Tests of what becomes of drafts want some, whether they pay here or not.
    config.serve.policy = Some("fixed:0:2".to_owned());
    change(&mut config);
    let (listeners, address, http) = listeners(address).await;
    let shutdown = CancellationToken::new();
    let service = draft_svc::run_with(config, checkpoint, tokenizer, listeners, shutdown.clone());
    Running {
        address,
        http,
        shutdown,
        task: tokio::spawn(service),
    }
}

pub(crate) async fn drafter() -> Drafter {
    drafter_at("127.0.0.1:0", open_demo().0, |_| {}).await
}

/// With the addresses of gRPC and of HTTP.
pub(crate) async fn listeners(address: &str) -> (Listeners, SocketAddr, SocketAddr) {
    let grpc = TcpListener::bind(address).await.unwrap();
    let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = (grpc.local_addr().unwrap(), http.local_addr().unwrap());
    let http = Some(http);
    (Listeners { grpc, http }, addresses.0, addresses.1)
}

/// Status and body of what the HTTP port answers.
pub(crate) async fn http_get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
    let ask = move || {
        let mut stream = std::net::TcpStream::connect(address)?;
        stream.set_read_timeout(Some(std::time::Duration::from_secs(20)))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer: std::io::Result<String> = tokio::task::spawn_blocking(ask).await.unwrap();
    let answer = answer?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((status.unwrap_or(0), body.to_owned()))
}

pub(crate) async fn channel<E: std::fmt::Debug>(service: &Running<E>) -> Channel {
    Channel::builder(service.uri()).connect().await.unwrap()
}

pub(crate) async fn client(verifier: &Verifier) -> GenerationClient<Channel> {
    GenerationClient::new(channel(verifier).await)
}

/// Greedy, of exactly `max_new_tokens`.
pub(crate) fn request(max_new_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        prompt: Some(Prompt::Text(PROMPT.to_owned())),
        max_new_tokens: Some(max_new_tokens),
        ignore_eos: true,
        ..GenerateRequest::default()
    }
}

/// Sampled, of exactly `max_new_tokens`.
pub(crate) fn sampled(max_new_tokens: u32, seed: u64) -> GenerateRequest {
    GenerateRequest {
        temperature: Some(0.8),
        top_p: Some(0.95),
        seed: Some(seed),
        ..request(max_new_tokens)
    }
}

pub(crate) fn ids(ids: Vec<u32>) -> Option<Prompt> {
    Some(Prompt::TokenIds(TokenIds { ids }))
}

pub(crate) fn plain(request: GenerateRequest) -> GenerateRequest {
    GenerateRequest {
        speculation: Some(Speculation {
            mode: SpeculationMode::Off.into(),
            ..Speculation::default()
        }),
        ..request
    }
}

pub(crate) async fn generate(
    client: &mut GenerationClient<Channel>,
    request: GenerateRequest,
) -> v1::GenerateResponse {
    client.generate(request).await.unwrap().into_inner()
}

/// Waits until the verifier holds nothing any more: each question is answered after a step.
pub(crate) async fn becomes_idle(client: &mut GenerationClient<Channel>) {
    let idle = async {
        loop {
            let load = client.get_load(v1::GetLoadRequest {}).await.unwrap();
            let load = load.into_inner();
            if load.running == 0 && load.free_kv_blocks == load.kv_blocks {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), idle)
        .await
        .expect("the engine frees what nobody wants");
}

/// Greedy decoding without any service: one token at a time through the library.
pub(crate) fn library_tokens(prompt: &[u32], count: usize) -> Vec<u32> {
    let (checkpoint, _) = open_demo();
    let settings = ModelSettings {
        device: DeviceName::Cpu,
        threads: Some(1),
        dtype: Dtype::Auto,
        kv_memory: None,
        preallocate_kv: false,
        max_sequences: 1,
        max_context: None,
        band_ends: vec![checkpoint.config().layers],
    };
    let mut model = settings.load(&checkpoint).unwrap();
    let vocabulary = model.decoder.vocabulary();
    let sampler = Sampler::new(SamplingParams::default(), vocabulary, Vec::new()).unwrap();
    let mut history = History::new(prompt, &[]);
    let sequence = model.kv.open(prompt.len() + count).unwrap();
    let (mut logits, mut scratch) = (Vec::new(), Scratch::default());
    while history.generated().len() < count {
        let computed = model.kv.len(sequence, 0);
        let span = Span {
            sequence,
            end: history.len(),
            tokens: &history.tokens()[computed..],
        };
        let states = model.decoder.advance(&mut model.kv, 0, &[span]).unwrap();
        let last = states[states.len() - checkpoint.config().hidden..].to_vec();
        model.decoder.logits(&last, &mut logits).unwrap();
        let token = sampler.choose(&logits, &history, &mut scratch).unwrap();
        history.push(token);
    }
    history.generated().to_vec()
}
