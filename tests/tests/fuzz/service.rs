//! Both services, over gRPC: bytes that are or are not requests, and requests with any values.

use crate::{
    bytes::{self, EDGES},
    folder,
    harness::Target,
};
use dssd_common::{
    checkpoint::{Architecture, Checkpoint, demo},
    serve::{KvMemory, ServeArgs},
    tokenizer::Tokenizer,
};
use dssd_proto::v1;
use dssd_tests::Raw;
use prost::Message;
use rand::{Rng as _, seq::IndexedRandom as _};
use rand_chacha::ChaCha8Rng;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpListener, runtime::Runtime, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Uri},
};

const VERIFIER: Target = Target {
    name: "verify-svc",
    share: 0.1,
};
const DRAFTER: Target = Target {
    name: "draft-svc",
    share: 0.05,
};
const VOCABULARY: usize = 4096;
const CONTEXT: usize = 64;
/// An answer that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(40);

fn model() -> (Arc<Checkpoint>, Option<Arc<Tokenizer>>) {
    let checkpoint = folder::small(Architecture::Llama, VOCABULARY);
    let tokenizer = Tokenizer::open(&demo::folder().unwrap()).unwrap();
    (Arc::new(checkpoint), tokenizer.map(Arc::new))
}

fn small(serve: &mut ServeArgs) {
    serve.threads = Some(1);
    serve.kv_memory = Some(KvMemory::Bytes(2 << 20));
    serve.max_context = Some(CONTEXT);
    serve.policy = Some("fixed:0:2".to_owned());
}

/// A service in this process, and a way to it.
struct Running {
    runtime: Runtime,
    address: SocketAddr,
    grpc: Grpc<Channel>,
}

impl Running {
    fn start<F: Future + Send + 'static>(service: impl FnOnce(TcpListener) -> F) -> Self
    where
        F::Output: Send,
    {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_all().build().unwrap();
        let bound = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = bound.local_addr().unwrap();
        runtime.spawn(service(bound));
        let uri: Uri = format!("http://{address}").parse().unwrap();
        let channel = runtime.block_on(async { Channel::builder(uri).connect().await });
        let grpc = Grpc::new(channel.unwrap());
        Self {
            runtime,
            address,
            grpc,
        }
    }

    /// Makes a call, and says how it ended; answers are read to their end.
    fn call(&mut self, path: &'static str, messages: Vec<Vec<u8>>, deadline: &str) -> Code {
        let mut request = Request::new(tokio_stream::iter(messages));
        if let (false, Ok(value)) = (deadline.is_empty(), deadline.parse()) {
            request.metadata_mut().insert("grpc-timeout", value);
        }
        let grpc = &mut self.grpc;
        let call = async {
            grpc.ready().await.unwrap();
            let path = PathAndQuery::from_static(path);
            let answers = grpc.streaming(request, path, Raw).await?;
            let mut answers = answers.into_inner();
            while answers.message().await?.is_some() {}
            Ok::<(), Status>(())
        };
        let ended = self
            .runtime
            .block_on(async { timeout(PATIENCE, call).await });
        match ended.expect("an answer in time") {
            Ok(()) => Code::Ok,
            Err(status) => {
                let ours = [
                    Code::InvalidArgument,
                    Code::ResourceExhausted,
                    Code::FailedPrecondition,
                    Code::AlreadyExists,
                    Code::DeadlineExceeded,
                    Code::Cancelled,
                ];
                assert!(ours.contains(&status.code()), "{path}: {status}");
                status.code()
            }
        }
    }
}

const RPCS: [&str; 9] = [
    "/dssd.v1.Generation/Generate",
    "/dssd.v1.Generation/GenerateStream",
    "/dssd.v1.Generation/Score",
    "/dssd.v1.Generation/Abort",
    "/dssd.v1.Generation/Tokenize",
    "/dssd.v1.Generation/Detokenize",
    "/dssd.v1.Generation/GetModelInfo",
    "/dssd.v1.Generation/GetServerInfo",
    "/dssd.v1.Generation/GetLoad",
];

#[test]
fn requests_to_the_verifier() {
    let (checkpoint, tokenizer) = model();
    let drafter = drafter(checkpoint.clone(), tokenizer.clone());
    let mut config = verify_svc::Config::for_model("none".into());
    small(&mut config.serve);
    config.allow_lossy = true;
    config.default_max_new_tokens = 4;
    config.drafts = vec![format!("http://{}", drafter.address).parse().unwrap()];
    let mut running = Running::start(|listener| {
        let shutdown = CancellationToken::new();
        verify_svc::run_with(config, checkpoint, tokenizer, listener.into(), shutdown)
    });
    VERIFIER.run(|random| {
        let (path, mut message) = match random.random_range(0..10) {
            0..5 => (
                RPCS[random.random_range(0..2)],
                generate(random).encode_to_vec(),
            ),
            5..7 => (RPCS[2], score(random).encode_to_vec()),
            _ => (*RPCS.choose(random).unwrap(), seed(random)),
        };
        if random.random_bool(0.3) {
            let other = seed(random);
            bytes::mutate(random, &mut message, &other);
        }
        running.call(path, vec![message], deadline(random)) == Code::Ok
    });
    let idle = "/dssd.v1.Generation/GetLoad";
    assert_eq!(running.call(idle, vec![Vec::new()], ""), Code::Ok);
}

fn drafter(checkpoint: Arc<Checkpoint>, tokenizer: Option<Arc<Tokenizer>>) -> Running {
    let mut config = draft_svc::Config::for_model("none".into());
    small(&mut config.serve);
    Running::start(|listener| {
        let shutdown = CancellationToken::new();
        draft_svc::run_with(config, checkpoint, tokenizer, listener.into(), shutdown)
    })
}

#[test]
fn messages_to_the_drafter() {
    let (checkpoint, tokenizer) = model();
    let fingerprint = checkpoint.fingerprint().unwrap();
    let hash = tokenizer.as_ref().unwrap().hash().to_owned();
    let mut running = drafter(checkpoint, tokenizer);
    DRAFTER.run(|random| {
        let mut first = open(random);
        first.checkpoint_fingerprint.clone_from(&fingerprint);
        first.tokenizer_hash.clone_from(&hash);
        let mut length = first.token_ids.len() as u32;
        let mut messages = vec![verifier(v1::verifier_message::Message::Open(first))];
        for epoch in 1..random.random_range(1..6) {
            let commit = commit(random, epoch, &mut length);
            messages.push(verifier(v1::verifier_message::Message::Commit(commit)));
        }
        if random.random_bool(0.5) {
            let at = random.random_range(0..messages.len());
            let other = seed(random);
            bytes::mutate(random, &mut messages[at], &other);
        }
        let path = "/dssd.v1.Drafting/Draft";
        running.call(path, messages, deadline(random)) == Code::Ok
    });
    let info = "/dssd.v1.Drafting/GetDrafterInfo";
    assert_eq!(running.call(info, vec![Vec::new()], ""), Code::Ok);
}

fn deadline(random: &mut ChaCha8Rng) -> &'static str {
    let odd = [
        "1S",
        "99999999H",
        "0n",
        "1n",
        "-1S",
        "1",
        "S",
        "12345678901S",
        "1 S",
        "5m",
    ];
    match random.random_bool(0.05) {
        true => odd.choose(random).unwrap(),
        false => "",
    }
}

/// An encoded message of some kind.
pub(crate) fn seed(random: &mut ChaCha8Rng) -> Vec<u8> {
    match random.random_range(0..8) {
        0 => generate(random).encode_to_vec(),
        1 => score(random).encode_to_vec(),
        2 => v1::AbortRequest {
            request_id: text(random),
        }
        .encode_to_vec(),
        3 => v1::TokenizeRequest { text: text(random) }.encode_to_vec(),
        4 => v1::DetokenizeRequest {
            token_ids: ids(random),
        }
        .encode_to_vec(),
        5 => verifier(v1::verifier_message::Message::Open(open(random))),
        6 => {
            let commit = commit(random, 3, &mut 9);
            verifier(v1::verifier_message::Message::Commit(commit))
        }
        _ => v1::DrafterMessage {
            message: Some(v1::drafter_message::Message::Resync(v1::Resync {
                epoch: 3,
                held_position: 4,
            })),
        }
        .encode_to_vec(),
    }
}

fn verifier(message: v1::verifier_message::Message) -> Vec<u8> {
    let message = Some(message);
    v1::VerifierMessage { message }.encode_to_vec()
}

fn text(random: &mut ChaCha8Rng) -> String {
    bytes::text(random, &["Once upon", " a time", "\n", " ", "aaaa"], 5)
}

fn ids(random: &mut ChaCha8Rng) -> Vec<u32> {
    let count = match random.random_range(0..20) {
        0 => 0,
        1 => random.random_range(50..80),
        _ => random.random_range(1..12),
    };
    (0..count).map(|_| id(random)).collect()
}

fn id(random: &mut ChaCha8Rng) -> u32 {
    match random.random_range(0..100) {
        0 => edge(random),
        _ => random.random_range(0..VOCABULARY as u32),
    }
}

fn edge(random: &mut ChaCha8Rng) -> u32 {
    *EDGES.choose(random).unwrap() as u32
}

/// Seldom, and then a number that is often out of range.
fn odd(random: &mut ChaCha8Rng) -> Option<u32> {
    random.random_bool(0.1).then(|| edge(random))
}

fn real(random: &mut ChaCha8Rng) -> Option<f32> {
    let numbers = [
        0.0,
        -0.0,
        0.5,
        0.9,
        1.0,
        1.5,
        -1.5,
        2.0,
        -2.0,
        f32::MIN_POSITIVE,
        1e-45,
        f32::MAX,
        f32::MIN,
        f32::INFINITY,
        f32::NAN,
    ];
    random
        .random_bool(0.25)
        .then(|| *numbers.choose(random).unwrap())
}

fn generate(random: &mut ChaCha8Rng) -> v1::GenerateRequest {
    use v1::generate_request::Prompt;
    let prompt = match random.random_bool(0.4) {
        true => Prompt::Text(text(random)),
        false => Prompt::TokenIds(v1::TokenIds { ids: ids(random) }),
    };
    let seldom = random.random_bool(0.1);
    v1::GenerateRequest {
        request_id: if seldom { text(random) } else { String::new() },
        prompt: random.random_bool(0.98).then_some(prompt),
        temperature: real(random),
        top_k: odd(random),
        top_p: real(random),
        min_p: real(random),
        seed: random.random_bool(0.1).then(|| random.random()),
        repetition_penalty: real(random),
        presence_penalty: real(random),
        frequency_penalty: real(random),
        logit_bias: (0..random.random_range(0..3))
            .map(|_| (id(random), real(random).unwrap_or(1.0)))
            .collect(),
        max_new_tokens: match random.random_range(0..10) {
            0 => Some(edge(random)),
            1..4 => None,
            _ => Some(random.random_range(1..12)),
        },
        min_new_tokens: odd(random),
        stop_strings: (0..random.random_range(0..2))
            .map(|_| text(random))
            .collect(),
        stop_token_ids: if seldom { ids(random) } else { Vec::new() },
        include_stop_strings: random.random_bool(0.5),
        ignore_eos: random.random_bool(0.5),
        logprobs: odd(random),
        cache_salt: if random.random_bool(0.05) {
            text(random)
        } else {
            String::new()
        },
        resume: random.random_bool(0.05).then(|| v1::Resume {
            token_ids: ids(random),
            seed: random.random(),
            numerics_id: text(random),
        }),
        speculation: random.random_bool(0.5).then(|| speculation(random)),
    }
}

fn speculation(random: &mut ChaCha8Rng) -> v1::Speculation {
    let policies = [
        "",
        "",
        "",
        "auto",
        "off",
        "fixed",
        "fixed:0:4",
        "fixed:9:9",
        "entropy",
        "entropy:1",
        "del",
        "adaedl:0",
        "product:0:0.5",
        "max-prob:1:0.5:keep",
        "guess",
    ];
    v1::Speculation {
        mode: *[0, 0, 0, 1, 2, 3, 3, 4, -1, i32::MAX]
            .choose(random)
            .unwrap(),
        policy: (*policies.choose(random).unwrap()).to_owned(),
        max_draft_tokens: odd(random),
        exit_head: odd(random),
        target_agreement: real(random),
        entropy_threshold: real(random),
        trace: random.random_bool(0.3),
    }
}

fn score(random: &mut ChaCha8Rng) -> v1::ScoreRequest {
    use v1::score_request::Prompt;
    let prompt = match random.random_bool(0.4) {
        true => Prompt::Text(text(random)),
        false => Prompt::TokenIds(v1::TokenIds { ids: ids(random) }),
    };
    v1::ScoreRequest {
        request_id: String::new(),
        prompt: random.random_bool(0.98).then_some(prompt),
        first_index: odd(random),
        logprobs: odd(random),
        speculation: random.random_bool(0.2).then(|| speculation(random)),
    }
}

fn open(random: &mut ChaCha8Rng) -> v1::Open {
    let token_ids = ids(random);
    let sampling = v1::SamplingSettings {
        temperature: real(random).unwrap_or(0.0),
        top_k: odd(random).unwrap_or(0),
        top_p: real(random).unwrap_or(1.0),
        min_p: real(random).unwrap_or(0.0),
        seed: 1,
        repetition_penalty: real(random).unwrap_or(1.0),
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        logit_bias: [(id(random), 1.0)].into(),
        min_new_tokens: odd(random).unwrap_or(0),
        max_new_tokens: odd(random).unwrap_or(40),
        stop_token_ids: vec![0, id(random)],
    };
    v1::Open {
        request_id: "fuzz".to_owned(),
        checkpoint_fingerprint: String::new(),
        tokenizer_hash: String::new(),
        vocabulary_size: VOCABULARY as u32,
        prompt_length: odd(random).unwrap_or(token_ids.len() as u32),
        token_ids,
        sampling: random.random_bool(0.98).then_some(sampling),
        speculation: random.random_bool(0.3).then(|| speculation(random)),
        last_epoch: u64::from(odd(random).unwrap_or(0)),
    }
}

/// A Commit that mostly continues what was committed; `length` becomes what is committed then.
fn commit(random: &mut ChaCha8Rng, epoch: u64, length: &mut u32) -> v1::Commit {
    let token_ids: Vec<u32> = (0..random.random_range(1..4)).map(|_| id(random)).collect();
    let first_position = odd(random).unwrap_or(*length);
    *length = first_position.saturating_add(token_ids.len() as u32);
    v1::Commit {
        epoch,
        first_position,
        token_ids,
        kv_position: odd(random).unwrap_or(length.saturating_sub(1)),
        accepted: (epoch > 1).then(|| odd(random).unwrap_or(0)),
        proposal_epoch: (epoch > 1).then(|| epoch - 1),
        max_draft_tokens: odd(random).unwrap_or(2),
        draft_budget_us: random
            .random_bool(0.5)
            .then(|| *EDGES.choose(random).unwrap()),
        verify_cost_us: vec![*EDGES.choose(random).unwrap(); random.random_range(0..4)],
    }
}
