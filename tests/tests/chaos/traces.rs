//! One request is one trace over both services.

use crate::{
    collector::{Collector, Told},
    logged::Logged,
    processes::Kind,
};
use dssd_proto::v1::{
    FinishInfo, GenerateRequest, SpeculativeDecoding, generate_request::Prompt,
    generation_client::GenerationClient,
};
use std::{fs, path::Path, time::Duration};
use tokio::time::timeout;
use tonic::{Request, transport::Channel};

/// Time for a verifier to find its drafter, on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);
/// Nothing is sent before the end of the process, but for a full batch.
const NEVER: &str = "3600000";
const FLAGS: [&str; 6] = [
    "--threads",
    "1",
    "--kv-memory",
    "256MiB",
    "--policy",
    "fixed:0:2",
];

/// Asks until a drafter takes part; returns the number of that try, and how it ended.
async fn drafted(client: &mut GenerationClient<Channel>) -> (u64, FinishInfo) {
    for attempt in 1.. {
        let mut request = Request::new(GenerateRequest {
            prompt: Some(Prompt::Text("Once upon a time there was".to_owned())),
            max_new_tokens: Some(24),
            ..GenerateRequest::default()
        });
        let metadata = request.metadata_mut();
        let parent = format!("00-{attempt:032x}-{attempt:016x}-01");
        metadata.insert("traceparent", parent.parse().unwrap());
        let name = format!("mine-{attempt}");
        metadata.insert("x-request-id", name.parse().unwrap());
        // It may be loading still.
        let Ok(answer) = client.generate(request).await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        assert_eq!(answer.metadata().get("x-request-id").unwrap(), &name);
        let answer = answer.into_inner();
        assert_eq!(answer.prompt_info.unwrap().request_id, name);
        let info = answer.finish_info.unwrap();
        let drafts = info.speculative_decoding.as_ref().unwrap();
        if drafts.num_drafts > 0 && drafts.drafter_losses == 0 {
            return (attempt, info);
        }
    }
    unreachable!("attempts have no end")
}

/// The spans of one trace.
struct Trace(Vec<Told>);

impl Trace {
    fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Told> {
        self.0.iter().filter(move |told| told.span.name == name)
    }

    fn only<'a>(&'a self, name: &'a str) -> &'a Told {
        let found: Vec<&Told> = self.named(name).collect();
        assert_eq!(found.len(), 1, "{name}: {:?}", self.0);
        found[0]
    }

    /// Those within a span; each lies within its time.
    fn within<'a>(&'a self, parent: &Told, name: &'a str) -> Vec<&'a Told> {
        let is_child = |told: &&Told| told.span.parent_span_id == parent.span.span_id;
        let found: Vec<&Told> = self.named(name).filter(is_child).collect();
        for told in &found {
            let (whole, part) = (&parent.span, &told.span);
            assert!(whole.start_time_unix_nano <= part.start_time_unix_nano);
            assert!(part.start_time_unix_nano <= part.end_time_unix_nano);
            // The drafter learns of a stream's end after its verifier.
            if told.service == parent.service {
                assert!(
                    part.end_time_unix_nano <= whole.end_time_unix_nano,
                    "{told:?}"
                );
            }
        }
        found
    }
}

fn sum(told: &[&Told], key: &str) -> u64 {
    told.iter().map(|told| told.number(key)).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_one_trace_over_both_services() {
    let collector = Collector::start().await;
    let endpoint = format!("http://{}", collector.address);
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_BSP_SCHEDULE_DELAY", NEVER.to_owned()),
    ];
    let drafter = Logged::start(Kind::Drafter, &FLAGS, &variables).await;
    let draft = format!("http://{}", drafter.address);
    let flags = [&FLAGS[..], &["--draft", &draft, "--drain-delay", "0"]].concat();
    let verifier = Logged::start(Kind::Verifier, &flags, &variables).await;
    let channel = Channel::from_shared(format!("http://{}", verifier.address)).unwrap();
    let mut client = GenerationClient::new(channel.connect_lazy());
    let drafted = timeout(LIMIT, drafted(&mut client)).await;
    let (attempt, info) = drafted.expect("a drafter takes part in time");
    drop(client);
    // What was not sent is sent at the end.
    let said = [verifier.end().await, drafter.end().await];

    let mut spans = collector.told();
    spans.retain(|told| told.span.trace_id == u128::from(attempt).to_be_bytes());
    assert!(!spans.is_empty(), "{said:?}");
    let trace = Trace(spans);
    let whole = trace.only("generate");
    assert_eq!(whole.service, "verify-svc");
    assert_eq!(whole.span.parent_span_id, attempt.to_be_bytes());
    let told = |key| whole.attribute(key).unwrap_or_default();
    assert_eq!(told("request_id"), format!("mine-{attempt}"));
    assert_eq!(told("finish_reason"), "length");
    assert_eq!(told("policy"), "fixed:0:2");
    assert_eq!(whole.number("generated_tokens"), 24);
    let prompt = u64::from(info.prompt_token_count);
    assert_eq!(whole.number("prompt_tokens"), prompt);
    assert_eq!(trace.within(whole, "queue").len(), 1);
    assert_eq!(trace.within(whole, "prefill").len(), 1);
    rounds(&trace, whole, &info.speculative_decoding.unwrap());

    let stream = trace.only("drafting");
    assert_eq!(stream.service, "draft-svc");
    assert_eq!(
        stream.attribute("request_id"),
        whole.attribute("request_id")
    );
    assert_eq!(trace.within(whole, "drafting").len(), 1);
    let drafts = trace.within(stream, "draft");
    assert_eq!(drafts.len() as u64, stream.number("drafts"));
    assert!(drafts.len() as u64 >= info_drafts(&trace));
    assert!(drafts.iter().any(|draft| draft.number("tokens") == 2));
    explained(&trace);
}

/// Rounds tell what the client was told.
fn rounds(trace: &Trace, whole: &Told, drafts: &SpeculativeDecoding) {
    let rounds = trace.within(whole, "round");
    assert_eq!(rounds.len() as u64, whole.number("rounds"));
    let verify = |told: &&&Told| told.attribute("kind").as_deref() == Some("verify");
    let verified: Vec<&Told> = rounds.iter().filter(verify).copied().collect();
    assert_eq!(verified.len() as u64, drafts.num_drafts);
    assert_eq!(sum(&verified, "drafted"), drafts.num_draft_tokens);
    assert_eq!(sum(&verified, "accepted"), drafts.num_accepted_tokens);
    let plain: u64 = drafts.plain_rounds.iter().map(|round| round.count).sum();
    assert_eq!((rounds.len() - verified.len()) as u64, plain);
    for round in verified {
        assert_eq!(trace.within(round, "verify").len(), 1);
        let waits = trace.within(round, "draft wait");
        assert_eq!(waits.len(), 1);
        let time = waits[0].span.end_time_unix_nano - waits[0].span.start_time_unix_nano;
        assert!(waits[0].number("wire_us") <= time / 1000);
    }
}

/// Drafts that were verified.
fn info_drafts(trace: &Trace) -> u64 {
    let verify = |told: &&Told| told.attribute("kind").as_deref() == Some("verify");
    trace.named("round").filter(verify).count() as u64
}

/// Every span and attribute has its line in the documentation.
fn explained(trace: &Trace) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs::read_to_string(root.join("docs/operations/tracing.md")).unwrap();
    for told in &trace.0 {
        let line = format!("| `{}` |", told.span.name);
        let line = text.lines().find(|text| text.starts_with(&line));
        let line = line.unwrap_or_else(|| panic!("{} is not explained", told.span.name));
        for attribute in &told.span.attributes {
            let key = format!("`{}`", attribute.key);
            assert!(line.contains(&key), "{key} is not explained: {line}");
        }
    }
}
