//! The page of verify-svc and its two calls, through HTTP.

use crate::support::*;
use dssd_common::serve::Switch;
use dssd_proto::v1::{DrafterState, GetLoadRequest, GetServerInfoRequest};
use serde_json::{Value, json};
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};
use tokio::task::spawn_blocking;
use tonic::transport::Uri;

const LIMIT: Duration = Duration::from_secs(60);
const JSON: &str = "content-type: application/json\r\n";

/// A verifier with the page, which is there once calls are answered.
async fn showing(change: impl FnOnce(&mut verify_svc::Config)) -> Verifier {
    let verifier = verifier(|config| {
        config.page = Switch::On;
        change(config);
    })
    .await;
    let mut client = client(&verifier).await;
    client
        .get_server_info(GetServerInfoRequest {})
        .await
        .unwrap();
    verifier
}

/// A verifier with the page and a drafter that is ready.
async fn showing_pair() -> (Verifier, Drafter) {
    let drafter = drafter().await;
    let draft: Uri = drafter.uri();
    let verifier = showing(|config| config.drafts = vec![draft]).await;
    let mut client = client(&verifier).await;
    let ready = async {
        loop {
            // A drafter is known to be ready once it has worked for a generation.
            generate(&mut client, request(8)).await;
            let info = client.get_server_info(GetServerInfoRequest {}).await;
            let drafters = info.unwrap().into_inner().drafters;
            if drafters
                .iter()
                .any(|drafter| drafter.state() == DrafterState::Ready)
            {
                break;
            }
        }
    };
    tokio::time::timeout(LIMIT, ready).await.unwrap();
    (verifier, drafter)
}

/// A connection on which a request was sent. Answers to HTTP 1.0 are not chunked.
fn sent(address: SocketAddr, line: &str, headers: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let length = body.len();
    let host = match headers.contains("host:") {
        true => String::new(),
        false => format!("host: {address}\r\n"),
    };
    let head = format!("{line} HTTP/1.0\r\n{host}{headers}content-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    // A server that refuses a large body need not read it.
    _ = stream.write_all(body.as_bytes());
    stream
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn lines(&self) -> Vec<Value> {
        let lines = self.body.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

async fn ask(verifier: &Verifier, line: &str, headers: &str, body: &str) -> Answer {
    let (line, headers, body) = (line.to_owned(), headers.to_owned(), body.to_owned());
    let address = verifier.http;
    let read = move || {
        let mut answer = String::new();
        let mut stream = sent(address, &line, &headers, &body);
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        Answer {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    };
    spawn_blocking(read).await.unwrap()
}

async fn get(verifier: &Verifier, path: &str) -> Answer {
    ask(verifier, &format!("GET {path}"), "", "").await
}

async fn generate_json(verifier: &Verifier, request: &Value) -> Answer {
    ask(verifier, "POST /api/generate", JSON, &request.to_string()).await
}

fn sampled_json(max_new_tokens: u32, seed: &str) -> Value {
    json!({
        "text": PROMPT, "max_new_tokens": max_new_tokens, "ignore_eos": true,
        "temperature": 0.8, "top_p": 0.95, "seed": seed,
    })
}

/// The messages of one kind.
fn of_kind<'a>(lines: &'a [Value], kind: &str) -> Vec<&'a Value> {
    lines.iter().filter_map(|line| line.get(kind)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_page_unless_it_is_wanted() {
    let verifier = verifier(|_| {}).await;
    assert_eq!(get(&verifier, "/").await.status, 404);
    assert_eq!(get(&verifier, "/api/server").await.status, 404);
    let answer = generate_json(&verifier, &sampled_json(5, "1")).await;
    assert_eq!(answer.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_needs_nothing_but_its_own_files() {
    let verifier = showing(|_| {}).await;
    let page = get(&verifier, "/").await;
    assert_eq!(page.status, 200);
    assert!(
        page.head
            .contains("content-security-policy: default-src 'self';")
    );
    assert!(page.head.contains("x-content-type-options: nosniff"));
    assert!(!page.head.contains("access-control-allow"));
    // The policy would stop a script in the document, and a style.
    for banned in ["<script>", "<style", " style=", " onclick=", "javascript:"] {
        assert!(!page.body.contains(banned), "{banned}");
    }
    let mut wanted: Vec<String> = quoted_after(&page.body, &["href=", "src="]);
    let mut seen = 0;
    while let Some(path) = wanted.pop() {
        let file = get(&verifier, &format!("/{path}")).await;
        assert_eq!(file.status, 200, "{path}");
        assert!(file.head.contains("content-security-policy:"), "{path}");
        let kind = match path.rsplit('.').next().unwrap() {
            "css" => "text/css",
            "js" => "text/javascript",
            _ => "image/svg+xml",
        };
        assert!(file.head.contains(&format!("content-type: {kind}")));
        assert!(!file.body.contains("innerHTML"), "{path}");
        let modules = quoted_after(&file.body, &["from "]);
        wanted.extend(modules.iter().map(|path| path.replace("./", "")));
        seen += 1;
        assert!(seen < 100, "modules import each other without end");
    }
    assert!(seen >= 7, "{seen} files");
}

/// What stands in quotes behind one of `marks`.
fn quoted_after(text: &str, marks: &[&str]) -> Vec<String> {
    let behind = |mark: &&str| {
        let mark = format!("{mark}\"");
        let parts = text.split(&mark).skip(1);
        let quoted = parts.map(|part| part.split('"').next().unwrap().to_owned());
        quoted.collect::<Vec<_>>()
    };
    marks.iter().flat_map(behind).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_has_the_tokens_of_the_grpc_call() {
    let (verifier, drafter) = showing_pair().await;
    let mut client = client(&verifier).await;
    let expected = generate(&mut client, sampled(60, u64::MAX)).await;
    let answer = generate_json(&verifier, &sampled_json(60, &u64::MAX.to_string())).await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: application/x-ndjson"));
    let lines = answer.lines();
    let info = &lines[0]["prompt_info"];
    let told = expected.prompt_info.unwrap();
    assert_eq!(info["numerics_id"], told.numerics_id);
    assert_eq!(info["prompt_token_count"], told.prompt_token_count);
    assert_eq!(info["sampling"]["seed"], u64::MAX.to_string());
    assert_eq!(info["speculation"]["policy"], "fixed:0:2");
    let (mut ids, mut text, mut pieces) = (Vec::new(), String::new(), Vec::new());
    for tokens in of_kind(&lines, "tokens") {
        assert_eq!(tokens["first_index"], ids.len());
        let here = tokens["token_ids"].as_array().unwrap();
        assert_eq!(here.len(), tokens["pieces"].as_array().unwrap().len());
        ids.extend(here.iter().map(|id| id.as_u64().unwrap() as u32));
        text += tokens["text"].as_str().unwrap();
        pieces.extend(tokens["pieces"].as_array().unwrap().clone());
    }
    assert_eq!((&ids, &text), (&expected.token_ids, &expected.text));
    let joined: String = pieces.iter().map(|p| p["text"].as_str().unwrap()).collect();
    assert_eq!(joined, text);
    check_sources(&lines, &ids, &pieces);
    verifier.stop().await;
    drafter.stop().await;
}

/// Every token is told to come from where the rounds say that it came from.
fn check_sources(lines: &[Value], ids: &[u32], pieces: &[Value]) {
    let rounds = of_kind(lines, "round");
    let finish = &lines.last().unwrap()["finish_info"];
    assert_eq!(finish["finish_reason"], "FINISH_REASON_LENGTH");
    let told = &finish["speculative_decoding"];
    let count = |kind: &str| pieces.iter().filter(|piece| piece["kind"] == kind).count();
    assert_eq!(told["num_accepted_tokens"], count("accepted"));
    assert_eq!(told["num_drafts"], count("correction"));
    assert!(count("accepted") > 0, "some drafts are right");
    let mut at = 0;
    let mut take = |id: &Value| {
        at += 1;
        assert_eq!(*id, ids[at]);
        &pieces[at]
    };
    for round in rounds {
        let drafted = round["drafted"].as_array().unwrap();
        for token in drafted.iter().take_while(|token| token["accepted"] == true) {
            let piece = take(&token["token_id"]);
            assert_eq!(piece["kind"], "accepted");
            assert_eq!(piece["round"], round["round"]);
            assert_eq!(piece["exit_head"], token["exit_head"]);
            assert_eq!(piece["entropy"], token["entropy"]);
        }
        let piece = take(&round["correction"]);
        let refused = drafted.iter().find(|token| token["accepted"] == false);
        match drafted.is_empty() {
            true => assert_eq!(piece["plain_reason"], round["plain_reason"]),
            false => assert_eq!(&piece["refused"], refused.unwrap_or(&Value::Null)),
        }
    }
    assert_eq!(at + 1, ids.len(), "every token belongs to a round");
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_the_page_ends_the_generation() {
    let verifier = showing(|_| {}).await;
    let mut client = client(&verifier).await;
    let address = verifier.http;
    let request = sampled_json(900, "4").to_string();
    let reading = spawn_blocking(move || {
        let mut reader = BufReader::new(sent(address, "POST /api/generate", JSON, &request));
        let mut line = String::new();
        while !line.starts_with("{\"tokens\"") {
            line.clear();
            assert!(reader.read_line(&mut line).unwrap() > 0);
        }
        reader
    });
    let reader = reading.await.unwrap();
    let load = client.get_load(GetLoadRequest {}).await.unwrap();
    assert_eq!(load.into_inner().running, 1);
    drop(reader);
    becomes_idle(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_tell_code_and_field() {
    let verifier = showing(|_| {}).await;
    let cases = [
        (json!({"text": "a", "temperature": -1}), "temperature"),
        (json!({"text": "a", "max_new_tokens": 0}), "max_new_tokens"),
        (json!({"text": "a", "seed": "x"}), "seed"),
        (json!({"text": ""}), "text"),
        (json!({"text": "a", "resume": 1}), "resume"),
        (
            json!({"text": "a", "speculation": {"policy": "guess"}}),
            "speculation.policy",
        ),
    ];
    for (request, field) in cases {
        let answer = generate_json(&verifier, &request).await;
        assert_eq!(answer.status, 400, "{request}");
        let error = &answer.json()["error"];
        assert_eq!(error["code"], "INVALID_ARGUMENT", "{error}");
        let violation = &error["details"]["field_violations"][0];
        assert_eq!(violation["field"], field, "{error}");
        assert!(!violation["description"].as_str().unwrap().is_empty());
    }
    let text = ask(&verifier, "POST /api/generate", "", "{\"text\": \"a\"}").await;
    assert_eq!(text.status, 400, "any website could send this");
    assert!(text.body.contains("application/json"));
    let named = ask(&verifier, "GET /", "host: evil.example\r\n", "").await;
    assert_eq!(named.status, 403);
    assert!(named.body.contains("evil.example"), "{}", named.body);
    assert_eq!(
        ask(&verifier, "DELETE /api/server", "", "").await.status,
        405
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_bounded() {
    let verifier = showing(|_| {}).await;
    let request = json!({"text": "a".repeat(64 << 10)}).to_string();
    let address = verifier.http;
    let status = spawn_blocking(move || {
        let mut line = String::new();
        let stream = sent(address, "POST /api/generate", JSON, &request);
        BufReader::new(stream).read_line(&mut line).unwrap();
        line
    });
    let status = status.await.unwrap();
    assert!(status.contains(" 413 "), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_the_page_is_told_when_to_come_again() {
    let verifier = showing(|config| {
        config.serve.max_sequences = 1;
        config.max_queue = Some(0);
    })
    .await;
    let mut client = client(&verifier).await;
    let mut first = client
        .generate_stream(request(900))
        .await
        .unwrap()
        .into_inner();
    first.message().await.unwrap();
    let answer = generate_json(&verifier, &sampled_json(5, "1")).await;
    assert_eq!(answer.status, 429);
    let error = &answer.json()["error"];
    assert_eq!(error["code"], "RESOURCE_EXHAUSTED");
    let seconds = error["details"]["retry_after_seconds"].as_f64().unwrap();
    assert!(seconds > 0.0);
    let header = format!("retry-after: {}", seconds.ceil());
    assert!(answer.head.contains(&header), "{}", answer.head);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_tells_of_itself() {
    let (verifier, drafter) = showing_pair().await;
    let answer = get(&verifier, "/api/server").await;
    assert_eq!(answer.status, 200);
    let told = answer.json();
    assert_eq!(told["model"]["model_name"], "demo");
    assert_eq!(told["default_policy"], "fixed:0:2");
    assert_eq!(told["load"]["running"], 0);
    let drafters = told["drafters"].as_array().unwrap();
    assert_eq!(drafters.len(), 1);
    assert_eq!(drafters[0]["address"], drafter.address.to_string());
    assert_eq!(drafters[0]["state"], "DRAFTER_STATE_READY");
    verifier.stop().await;
    drafter.stop().await;
}
