//! The client that resumes, and calls that their connection does not take, against services in this process.

#![expect(
    clippy::unwrap_used,
    reason = "a failed step of a test is a failed test, helpers included"
)]

use dssd::client::Client;
use dssd_common::{checkpoint::demo, serve::open_model};
use dssd_proto::v1::{GenerateRequest, generate_request::Prompt};
use serde_json::Value;
use std::{
    io::{Read as _, copy},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    process::Command,
    thread,
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Uri;

/// A verifier of the demo model.
struct Verifier {
    address: SocketAddr,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<verify_svc::Result<()>>,
}

impl Verifier {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut verify_svc::Config)) -> Self {
        let (checkpoint, tokenizer) = open_model(None).unwrap();
        let mut config = verify_svc::Config::for_model(demo::folder().unwrap());
        change(&mut config);
        let listener = listener().await;
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let service = verify_svc::run_with(
            config,
            checkpoint,
            tokenizer,
            listener.into(),
            shutdown.clone(),
        );
        Self {
            address,
            shutdown,
            task: tokio::spawn(service),
        }
    }

    fn uri(&self) -> Uri {
        uri(self.address)
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

async fn listener() -> tokio::net::TcpListener {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    listener.await.unwrap()
}

/// An address at which nobody listens.
async fn nowhere() -> Uri {
    uri(listener().await.local_addr().unwrap())
}

fn uri(address: SocketAddr) -> Uri {
    format!("http://{address}").parse().unwrap()
}

fn request() -> GenerateRequest {
    GenerateRequest {
        prompt: Some(Prompt::Text("Once upon a time".to_owned())),
        max_new_tokens: Some(150),
        temperature: Some(0.9),
        ignore_eos: true,
        ..GenerateRequest::default()
    }
}

/// A way to `server` on which every connection breaks after so many bytes of answers.
fn breaking_way(server: SocketAddr, bytes: u64) -> Uri {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut server = TcpStream::connect(server).unwrap();
            let (mut requests, mut to_server) =
                (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || copy(&mut requests, &mut to_server));
            thread::spawn(move || {
                _ = copy(&mut server.by_ref().take(bytes), &mut client);
                _ = client.shutdown(Shutdown::Both);
                _ = server.shutdown(Shutdown::Both);
            });
        }
    });
    uri(address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_stream_goes_on_elsewhere_with_the_same_tokens() {
    let verifier = Verifier::start().await;
    let direct = verifier.uri();
    Client::new(std::slice::from_ref(&direct))
        .ready()
        .await
        .unwrap();

    let way = breaking_way(verifier.address, 2000);
    // Nobody listens at the second address: connecting fails, and the third one is tried.
    let mut client = Client::new(&[way, nowhere().await, direct.clone()]);
    let broken = client.generate(request(), &mut |_| ()).await.unwrap();
    assert!(broken.resumed >= 1);

    let whole = GenerateRequest {
        seed: Some(broken.prompt_info.sampling.as_ref().unwrap().seed),
        ..request()
    };
    let mut client = Client::new(&[direct]);
    let whole = client.generate(whole, &mut |_| ()).await.unwrap();
    assert_eq!(whole.resumed, 0);
    assert_eq!(broken.token_ids, whole.token_ids);
    assert_eq!(broken.text, whole.text);
    verifier.stop().await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error_and_not_a_hang() {
    let outcome = Client::new(&[nowhere().await])
        .generate(request(), &mut |_| ())
        .await;
    let error = format!("{:#}", outcome.err().unwrap());
    assert!(
        error.contains("Unavailable") && error.contains("refused"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_finished_in_time_is_an_error_here_and_over_there() {
    let verifier = Verifier::start().await;
    let client = Client::new(&[verifier.uri()]);
    client.ready().await.unwrap();
    let long = GenerateRequest {
        max_new_tokens: Some(1000),
        ..request()
    };
    let outcome = client
        .clone()
        .within(Some(Duration::from_millis(5)))
        .generate(long, &mut |_| ())
        .await;
    let error = format!("{:#}", outcome.err().unwrap());
    // Whichever side notices first.
    let told = error.contains("--deadline") || error.contains("DeadlineExceeded");
    assert!(told, "{error}");
    // The server has stopped, too: what follows has it for itself.
    let mut within = client.within(Some(Duration::from_secs(60)));
    let whole = within.generate(request(), &mut |_| ()).await;
    assert_eq!(whole.unwrap().token_ids.len(), 150);
    verifier.stop().await;
}

/// As many calls as a channel in steady use has when its connection grows old, time and again.
#[tokio::test(flavor = "multi_thread")]
async fn no_call_of_the_load_generator_is_lost_to_an_old_connection() {
    let verifier = Verifier::start_with(|config| {
        config.serve.door.max_connection_age = Duration::from_secs(1);
    })
    .await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_dssd"));
    command
        .args(["bench", "load", "--endpoint", &verifier.uri().to_string()])
        .args(["--no-ladder", "--rate", "60", "--duration", "6", "--json"])
        .args(["--warm-up", "0", "--output-tokens", "fixed:64"]);
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    let output = output.unwrap().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let open = &report["open_loop"];
    assert!(open["finished"].as_u64() > Some(100), "{open}");
    assert_eq!(open["errors"], 0, "{open}");
    verifier.stop().await;
}
