//! What logs say of requests, and what they never say.

use crate::{collector::Collector, logged::Logged, processes::Kind};
use dssd_proto::v1::{
    GenerateRequest, GenerateResponse, generate_request::Prompt,
    generation_client::GenerationClient,
};
use std::{fs, time::Duration};
use tempfile::TempDir;
use tokio::time::timeout;
use tonic::{Code, Request, Response, Status, transport::Channel};

/// Time for a service to load and to find its drafter, on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);
const TOKEN: &str = "client-token-0123456789abcdef0123456789abcdef";
const DRAFT_TOKEN: &str = "drafter-token-0123456789abcdef0123456789abcdef";
const COLLECTOR_TOKEN: &str = "collector-token-0123456789";
const MARKER: &str = "Xyzzyplugh";
const SHARED: [&str; 8] = [
    "--threads",
    "1",
    "--kv-memory",
    "256MiB",
    "--policy",
    "fixed:0:2",
    "--drain-delay",
    "0",
];

struct Caller(GenerationClient<Channel>);

impl Caller {
    async fn ask(
        &mut self,
        request: GenerateRequest,
        header: Option<&str>,
    ) -> Result<Response<GenerateResponse>, Status> {
        let mut request = Request::new(request);
        let bearer = format!("Bearer {TOKEN}").parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
        if let Some(name) = header {
            let name = name.parse().unwrap();
            request.metadata_mut().insert("x-request-id", name);
        }
        self.0.generate(request).await
    }

    /// The text of the first answer that a drafter took part in.
    async fn drafted(&mut self) -> String {
        loop {
            let request = GenerateRequest {
                request_id: "the-answered-one".to_owned(),
                ..request(24)
            };
            if let Ok(answer) = self.ask(request, None).await {
                let answer = answer.into_inner();
                let drafts = answer.finish_info.unwrap().speculative_decoding.unwrap();
                if drafts.num_drafts > 0 {
                    return answer.text;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn request(max_new_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        prompt: Some(Prompt::Text(format!("Once upon a time {MARKER} went"))),
        max_new_tokens: Some(max_new_tokens),
        ..GenerateRequest::default()
    }
}

/// What verifier and drafter say in a life with answers and refusals, and a text that was answered.
async fn life(format: &str) -> ([String; 2], String) {
    let collector = Collector::start().await;
    let folder = TempDir::new().unwrap();
    let file = |name: &str, token: &str| {
        let path = folder.path().join(name);
        fs::write(&path, token).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (tokens, draft_tokens) = (file("tokens", TOKEN), file("draft-tokens", DRAFT_TOKEN));
    let variables = [
        ("RUST_LOG", "trace".to_owned()),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            format!("http://{}", collector.address),
        ),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            format!("authorization=Bearer {COLLECTOR_TOKEN}"),
        ),
    ];
    let look = ["--log-format", format];
    let flags = [&SHARED[..], &look, &["--token-file", &draft_tokens]].concat();
    let drafter = Logged::start(Kind::Drafter, &flags, &variables).await;
    let draft = format!("http://{}", drafter.address);
    let to_drafter = ["--draft", &draft, "--draft-token-file", &draft_tokens];
    let flags = [&SHARED[..], &look, &to_drafter, &["--token-file", &tokens]].concat();
    let verifier = Logged::start(Kind::Verifier, &flags, &variables).await;
    let channel = Channel::from_shared(format!("http://{}", verifier.address)).unwrap();
    let mut caller = Caller(GenerationClient::new(channel.connect_lazy()));
    let answered = timeout(LIMIT, caller.drafted()).await;
    let answered = answered.expect("a drafter takes part in time");

    let refused = GenerateRequest {
        request_id: "the-refused-one".to_owned(),
        temperature: Some(-1.0),
        ..request(4)
    };
    let status = caller.ask(refused, Some("not-this-one")).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let told = status.metadata().get("x-request-id").unwrap();
    assert_eq!(told, "the-refused-one");
    let outside = caller.ask(request(0), Some("the-one-named-outside")).await;
    let status = outside.unwrap_err();
    let told = status.metadata().get("x-request-id").unwrap();
    assert_eq!(told, "the-one-named-outside");
    let long = "x".repeat(257);
    let status = caller.ask(request(4), Some(&long)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("x-request-id"), "{status:?}");
    drop(caller);
    ([verifier.end().await, drafter.end().await], answered)
}

/// A line that says of a request what is looked for.
fn says(said: &str, name: &str, what: &str) -> bool {
    let mut lines = said.lines();
    lines.any(|line| line.contains(name) && line.contains(what))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_name_requests_and_tell_no_secret_and_no_text() {
    for format in ["text", "json"] {
        let ([verifier, drafter], answered) = life(format).await;
        assert!(says(&verifier, "the-answered-one", "a generation ended"));
        for refused in ["the-refused-one", "the-one-named-outside"] {
            assert!(says(&verifier, refused, "refused"), "{format}: {refused}");
        }
        assert!(drafter.contains("the-answered-one"), "{format}");
        assert!(answered.len() > 20, "{answered:?}");
        let never = [
            TOKEN,
            DRAFT_TOKEN,
            COLLECTOR_TOKEN,
            MARKER,
            answered.as_str(),
        ];
        for said in [&verifier, &drafter] {
            for text in never {
                let line = said.lines().find(|line| line.contains(text));
                assert_eq!(line, None, "{format}: {text}");
            }
        }
    }
}
