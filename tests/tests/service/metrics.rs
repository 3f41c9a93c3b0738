//! What Prometheus is told: the names, and that it is what clients are told.

use crate::support::*;
use dssd_proto::v1::{
    self, AbortRequest, FinishInfo, GenerateRequest, Resume, Speculation, SpeculationMode,
    generate_stream_response::Event,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};
use tonic::Code;

/// Names and types of verify-svc. Three stand beside the protocol's: `dssd_lossy_requests_total` and
/// `dssd_early_exit_tokens_total`, as answers that may differ from the model's are to be seen, and
/// `dssd_refusal_delay_seconds`.
const VERIFY: [(&str, &str); 32] = [
    ("dssd_build_info", "info"),
    ("dssd_copied_logits_rows_total", "counter"),
    ("dssd_draft_length", "histogram"),
    ("dssd_draft_stop_total", "counter"),
    ("dssd_draft_wait_seconds", "histogram"),
    ("dssd_drafter_errors_total", "counter"),
    ("dssd_drafters", "gauge"),
    ("dssd_e2e_request_latency_seconds", "histogram"),
    ("dssd_early_exit_tokens_total", "counter"),
    ("dssd_exit_agreement_drift", "gauge"),
    ("dssd_exit_head_total", "counter"),
    ("dssd_inter_token_latency_seconds", "histogram"),
    ("dssd_kv_cache_usage_ratio", "gauge"),
    ("dssd_lossy_requests_total", "counter"),
    ("dssd_num_requests_running", "gauge"),
    ("dssd_num_requests_waiting", "gauge"),
    ("dssd_plain_rounds_total", "counter"),
    ("dssd_prefix_cache_hit_tokens_total", "counter"),
    ("dssd_refusal_delay_seconds", "histogram"),
    ("dssd_rejected_requests_total", "counter"),
    ("dssd_request_queue_time_seconds", "histogram"),
    ("dssd_requests_total", "counter"),
    ("dssd_resumed_requests_total", "counter"),
    (
        "dssd_spec_decode_num_accepted_tokens_per_pos_total",
        "counter",
    ),
    ("dssd_spec_decode_num_accepted_tokens_total", "counter"),
    ("dssd_spec_decode_num_draft_tokens_total", "counter"),
    ("dssd_spec_decode_num_drafts_total", "counter"),
    ("dssd_stale_proposals_total", "counter"),
    ("dssd_time_to_first_token_seconds", "histogram"),
    ("dssd_verified_rows_total", "counter"),
    ("dssd_verify_batch_rows", "histogram"),
    ("dssd_verify_step_seconds", "histogram"),
];

/// Names and types of draft-svc.
const DRAFT: [(&str, &str); 8] = [
    ("dssd_build_info", "info"),
    ("dssd_draft_copied_logits_rows_total", "counter"),
    ("dssd_draft_kv_cache_usage_ratio", "gauge"),
    ("dssd_draft_rows", "histogram"),
    ("dssd_draft_sequences", "gauge"),
    ("dssd_draft_step_seconds", "histogram"),
    ("dssd_exit_entropy_nats", "histogram"),
    ("dssd_resync_total", "counter"),
];

/// What a service exposes.
struct Scrape {
    /// By name, as samples have it.
    types: BTreeMap<String, String>,
    /// By name and labels but `model_name`, as `name{label="value"}`.
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    async fn of(http: SocketAddr) -> Self {
        let (status, text) = http_get(http, "/metrics").await.unwrap();
        assert_eq!(status, 200);
        assert!(text.ends_with("# EOF\n"));
        let (mut types, mut samples) = (BTreeMap::new(), BTreeMap::new());
        for line in text.lines() {
            if let Some(line) = line.strip_prefix("# TYPE ") {
                let (name, kind) = line.split_once(' ').unwrap();
                let suffix = match kind {
                    "counter" => "_total",
                    "info" => "_info",
                    _ => "",
                };
                types.insert(format!("{name}{suffix}"), kind.to_owned());
            } else if !line.starts_with('#') {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert!(name.contains("model_name=\"demo\""), "{line}");
                let name = name.replace("model_name=\"demo\",", "");
                let name = name.replace("{model_name=\"demo\"}", "");
                samples.insert(name, value.parse().unwrap());
            }
        }
        Self { types, samples }
    }

    fn types(&self) -> Vec<(&str, &str)> {
        let types = self.types.iter();
        types
            .map(|(name, kind)| (name.as_str(), kind.as_str()))
            .collect()
    }

    /// 0 if there is no such sample.
    fn get(&self, name: &str) -> u64 {
        self.samples.get(name).map_or(0, |&value| value as u64)
    }

    /// All samples of a name by its only label, but those of 0.
    fn by(&self, name: &str, label: &str) -> BTreeMap<String, u64> {
        let start = format!("{name}{{{label}=\"");
        let of = |(name, &value): (&String, &f64)| {
            let label = name.strip_prefix(&start)?.strip_suffix("\"}")?;
            (value > 0.0).then(|| (label.to_owned(), value as u64))
        };
        self.samples.iter().filter_map(of).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_types_are_those_of_the_protocol() {
    let (verifier, drafter) = tokio::join!(verifier(|_| {}), drafter());
    assert_eq!(Scrape::of(verifier.http).await.types(), VERIFY);
    assert_eq!(Scrape::of(drafter.http).await.types(), DRAFT);
}

fn add(sums: &mut BTreeMap<String, u64>, key: String, count: u64) {
    if count > 0 {
        *sums.entry(key).or_default() += count;
    }
}

/// What clients were told, added up.
#[derive(Default)]
struct Told {
    infos: Vec<FinishInfo>,
    tokens: u64,
    resumed: u64,
}

impl Told {
    fn take(&mut self, answer: v1::GenerateResponse) {
        self.tokens += answer.token_ids.len() as u64;
        self.infos.extend(answer.finish_info);
    }

    fn reports(&self) -> impl Iterator<Item = &v1::SpeculativeDecoding> {
        let reports = self.infos.iter();
        reports.filter_map(|info| info.speculative_decoding.as_ref())
    }

    fn sum(&self, of: impl Fn(&v1::SpeculativeDecoding) -> u64) -> u64 {
        self.reports().map(of).sum()
    }

    fn by<T>(
        &self,
        all: impl Fn(&v1::SpeculativeDecoding) -> &[T],
        of: impl Fn(&T) -> (String, u64),
    ) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for (key, count) in self
            .reports()
            .flat_map(|report| all(report).iter().map(&of))
        {
            add(&mut sums, key, count);
        }
        sums
    }

    fn reasons(&self) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for info in &self.infos {
            let name = info.finish_reason().as_str_name();
            add(
                &mut sums,
                name.trim_start_matches("FINISH_REASON_").to_lowercase(),
                1,
            );
        }
        sums
    }

    fn check(&self, scrape: &Scrape) {
        let spec = |name: &str| scrape.get(&format!("dssd_spec_decode_num_{name}_total"));
        let drafts = self.sum(|report| report.num_drafts);
        assert!(drafts > 0, "there are drafts to count");
        assert_eq!(spec("drafts"), drafts);
        assert_eq!(
            spec("draft_tokens"),
            self.sum(|report| report.num_draft_tokens)
        );
        let accepted = self.sum(|report| report.num_accepted_tokens);
        assert_eq!(spec("accepted_tokens"), accepted);
        let per_position = scrape.by(
            "dssd_spec_decode_num_accepted_tokens_per_pos_total",
            "position",
        );
        assert_eq!(per_position.values().sum::<u64>(), accepted);
        assert!(per_position["0"] >= per_position.get("1").copied().unwrap_or(0));
        assert_eq!(scrape.get("dssd_draft_length_count"), drafts);
        assert_eq!(scrape.get("dssd_draft_length_sum"), spec("draft_tokens"));
        let lower = |name: &str, prefix: &str| name.trim_start_matches(prefix).to_lowercase();
        let stops = self.by(
            |report| report.stop_reasons.as_slice(),
            |stop| {
                (
                    lower(stop.reason().as_str_name(), "DRAFT_STOP_REASON_"),
                    stop.count,
                )
            },
        );
        assert_eq!(scrape.by("dssd_draft_stop_total", "reason"), stops);
        let plain = self.by(
            |report| report.plain_rounds.as_slice(),
            |plain| {
                (
                    lower(plain.reason().as_str_name(), "PLAIN_REASON_"),
                    plain.count,
                )
            },
        );
        assert_eq!(scrape.by("dssd_plain_rounds_total", "reason"), plain);
        let heads = self.by(
            |report| report.exit_heads.as_slice(),
            |head| (head.exit_head.to_string(), head.count),
        );
        assert_eq!(scrape.by("dssd_exit_head_total", "head"), heads);
        let stale = self.sum(|report| report.stale_proposals);
        assert_eq!(scrape.get("dssd_stale_proposals_total"), stale);
        assert_eq!(
            scrape.by("dssd_requests_total", "finish_reason"),
            self.reasons()
        );
        assert_eq!(scrape.get("dssd_resumed_requests_total"), self.resumed);
        let first = scrape.get("dssd_time_to_first_token_seconds_count");
        let later = scrape.get("dssd_inter_token_latency_seconds_count");
        assert_eq!(first + later, self.tokens);
        let ended = self.infos.len() as u64;
        assert_eq!(scrape.get("dssd_e2e_request_latency_seconds_count"), ended);
        assert_eq!(scrape.get("dssd_request_queue_time_seconds_count"), ended);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_are_the_sum_of_what_clients_are_told() {
    let drafter = drafter().await;
    let uri = drafter.uri();
    let verifier = verifier(|config| config.drafts = vec![uri]).await;
    let mut client = client(&verifier).await;
    let mut told = Told::default();
    for seed in 0..3 {
        told.take(generate(&mut client, sampled(60, seed)).await);
    }
    let whole = generate(&mut client, request(60)).await;
    let stop = GenerateRequest {
        stop_token_ids: vec![whole.token_ids[12]],
        ..request(60)
    };
    let resume = GenerateRequest {
        resume: Some(Resume {
            token_ids: whole.token_ids[..15].to_vec(),
            seed: whole.prompt_info.clone().unwrap().sampling.unwrap().seed,
            numerics_id: whole.prompt_info.clone().unwrap().numerics_id,
        }),
        ..request(60)
    };
    told.take(whole);
    told.take(generate(&mut client, stop).await);
    told.take(generate(&mut client, plain(request(20))).await);
    told.take(generate(&mut client, resume).await);
    told.resumed += 1;
    let named = GenerateRequest {
        request_id: "mine".to_owned(),
        ..request(900)
    };
    let mut stream = client.generate_stream(named).await.unwrap().into_inner();
    let mut aborted = v1::GenerateResponse::default();
    while let Some(message) = stream.message().await.unwrap() {
        match message.event.unwrap() {
            Event::Tokens(tokens) => aborted.token_ids.extend(tokens.token_ids),
            Event::FinishInfo(info) => aborted.finish_info = Some(info),
            _ => {
                let request_id = "mine".to_owned();
                client.abort(AbortRequest { request_id }).await.unwrap();
            }
        }
    }
    told.take(aborted);
    let scrape = Scrape::of(verifier.http).await;
    told.check(&scrape);
    let verified_rows = scrape.get("dssd_verified_rows_total");
    let drafts = told.sum(|report| report.num_drafts + report.num_draft_tokens);
    assert_eq!(
        verified_rows, drafts,
        "a row for each drafted token, and one for each draft"
    );
    assert_eq!(scrape.get("dssd_drafters{state=\"ready\"}"), 1);
    assert_eq!(scrape.get("dssd_num_requests_waiting"), 0);
    assert_eq!(
        scrape.get("dssd_verify_step_seconds_count"),
        scrape.get("dssd_verify_batch_rows_count")
    );
    let scrape = Scrape::of(drafter.http).await;
    assert!(scrape.get("dssd_draft_step_seconds_count") > 0);
    assert!(scrape.get("dssd_exit_entropy_nats_count{head=\"0\"}") > 0);
    assert!(scrape.get("dssd_draft_rows_sum") >= scrape.get("dssd_draft_rows_count"));
}

/// Waits until a sample has a value.
async fn becomes(http: SocketAddr, name: &str, value: u64) {
    let becomes = async {
        while Scrape::of(http).await.get(name) != value {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let limit = Duration::from_secs(30);
    tokio::time::timeout(limit, becomes).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_without_an_answer_are_counted_by_why() {
    let verifier = verifier(|_| {}).await;
    let mut client = client(&verifier).await;
    let wrong = GenerateRequest {
        temperature: Some(-1.0),
        ..request(10)
    };
    let status = client.generate(wrong).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let scrape = Scrape::of(verifier.http).await;
    let rejected = scrape.by("dssd_rejected_requests_total", "reason");
    assert_eq!(
        rejected,
        BTreeMap::from([("invalid_argument".to_owned(), 1)])
    );
    let stream = client.generate_stream(request(1000)).await.unwrap();
    let running = Scrape::of(verifier.http).await;
    assert!(running.samples["dssd_kv_cache_usage_ratio"] > 0.0);
    assert_eq!(running.get("dssd_num_requests_running"), 1);
    drop(stream);
    let cancelled = "dssd_requests_total{finish_reason=\"cancelled\"}";
    becomes(verifier.http, cancelled, 1).await;
    let mut late = tonic::Request::new(request(1000));
    late.set_timeout(Duration::from_millis(30));
    client.generate(late).await.unwrap_err();
    becomes(verifier.http, "dssd_num_requests_running", 0).await;
    let ended = Scrape::of(verifier.http).await;
    let ended = ended.by("dssd_requests_total", "finish_reason");
    // Whose clock runs out first, the client's or the server's, is open.
    assert_eq!(ended.values().sum::<u64>(), 2, "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lossy_answers_are_seen() {
    let verifier = verifier(|config| config.allow_lossy = true).await;
    let mut client = client(&verifier).await;
    generate(&mut client, request(20)).await;
    let lossy = GenerateRequest {
        speculation: Some(Speculation {
            mode: SpeculationMode::EarlyExit.into(),
            target_agreement: Some(0.8),
            ..Speculation::default()
        }),
        ..request(60)
    };
    let answer = generate(&mut client, lossy).await;
    let exits = answer.finish_info.unwrap().early_exit.unwrap().exit_heads;
    let exits: BTreeMap<String, u64> = exits
        .iter()
        .filter(|left| left.count > 0)
        .map(|left| (left.exit_head.to_string(), left.count))
        .collect();
    assert!(!exits.is_empty(), "tokens left early");
    let scrape = Scrape::of(verifier.http).await;
    assert_eq!(scrape.get("dssd_lossy_requests_total"), 1);
    assert_eq!(scrape.by("dssd_early_exit_tokens_total", "head"), exits);
}

/// Every `dssd_…` word of a text.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| word.starts_with("dssd_"));
    ours.map(str::to_owned).collect()
}

fn docs(file: &str) -> String {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations");
    std::fs::read_to_string(folder.join(file)).unwrap()
}

/// Dashboard, alerts and the table of metrics name what is there, and the table all of it.
#[test]
fn documents_name_metrics_that_exist() {
    let mut series = BTreeSet::new();
    let mut all = BTreeSet::new();
    for (name, kind) in VERIFY.iter().chain(&DRAFT) {
        all.insert((*name).to_owned());
        match *kind {
            "histogram" => {
                series.extend(["bucket", "sum", "count"].map(|part| format!("{name}_{part}")))
            }
            _ => _ = series.insert((*name).to_owned()),
        }
    }
    let dashboard: serde_json::Value = serde_json::from_str(&docs("dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut expressions = String::new();
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let targets = panel["targets"].as_array().unwrap();
        for target in targets {
            expressions += target["expr"].as_str().unwrap();
            expressions += " ";
        }
        assert!(
            panel["title"]
                .as_str()
                .is_some_and(|title| !title.is_empty())
        );
    }
    let alerts: serde_yaml_ng::Value = serde_yaml_ng::from_str(&docs("alerts.yaml")).unwrap();
    for group in alerts["groups"].as_sequence().unwrap() {
        for rule in group["rules"].as_sequence().unwrap() {
            expressions += rule["expr"].as_str().unwrap();
            expressions += " ";
            let told = &rule["annotations"];
            for part in ["summary", "runbook"] {
                assert!(
                    told[part].as_str().is_some_and(|text| text.len() > 20),
                    "{rule:?}"
                );
            }
        }
    }
    let used = names(&expressions);
    assert!(used.len() > 20, "{used:?}");
    let unknown: Vec<_> = used.difference(&series).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    let table = docs("metrics.md");
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
    let described = rows.filter_map(|row| row.split(['`', '{']).next());
    let described: BTreeSet<String> = described.map(str::to_owned).collect();
    assert_eq!(described, all);
}
