//! Those who have no business here, on both hops; and those who have.

use crate::{pki::*, support::*};
use dssd_common::serve::{DoorArgs, Wire};
use dssd_proto::v1::{self, DrafterState, generation_client::GenerationClient};
use std::{net::SocketAddr, path::PathBuf, time::Duration};
use tonic::{Code, transport::Uri};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

/// Services that want a certificate and a token of their callers.
struct Guarded {
    folder: Folder,
    ca: Ca,
}

impl Guarded {
    fn new() -> Self {
        let (folder, ca) = (Folder::new(), Ca::new("ours"));
        folder.write("ca.pem", &ca.pem);
        folder.identity("server", &ca.leaf("localhost"));
        folder.identity("client", &ca.leaf("client"));
        folder.write("tokens", &format!("{TOKEN}\n"));
        Self { folder, ca }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn close(&self, door: &mut DoorArgs) {
        door.tls_cert = Some(self.path("server.pem"));
        door.tls_key = Some(self.path("server.key"));
        door.tls_client_ca = Some(self.path("ca.pem"));
        door.token_file = Some(self.path("tokens"));
    }

    fn identity(&self, name: &str) -> Option<(PathBuf, PathBuf)> {
        let path = |kind: &str| self.path(&format!("{name}.{kind}"));
        Some((path("pem"), path("key")))
    }

    /// Certificates that are not good enough, in the folder under these names.
    fn bad_identities(&self) -> [&'static str; 2] {
        let foreign = Ca::new("theirs");
        self.folder.write("foreign-ca.pem", &foreign.pem);
        self.folder.identity("foreign", &foreign.leaf("client"));
        self.folder.identity("expired", &self.ca.expired("client"));
        ["foreign", "expired"]
    }
}

fn uri(scheme: &str, host: &str, address: SocketAddr) -> Uri {
    let port = address.port();
    format!("{scheme}://{host}:{port}").parse().unwrap()
}

async fn ask(wire: Wire) -> Result<(), Code> {
    let mut client = GenerationClient::new(wire);
    let answer = client.get_server_info(v1::GetServerInfoRequest {}).await;
    answer.map(drop).map_err(|status| status.code())
}

/// Asks until the server, which may be starting still, answers.
async fn ask_patiently(wire: Wire) {
    let asking = async { while ask(wire.clone()).await.is_err() {} };
    let asked = tokio::time::timeout(Duration::from_secs(60), asking).await;
    asked.expect("who has all that is wanted gets in");
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_get_nothing_of_a_verifier() {
    let guarded = Guarded::new();
    let verifier = verifier(|config| guarded.close(&mut config.serve.door)).await;
    let ca = || Some(guarded.path("ca.pem"));
    let client = || guarded.identity("client");
    let here = uri("https", "localhost", verifier.address);
    ask_patiently(dialer(ca(), client(), Some(TOKEN)).wire(&here)).await;

    let refused = async |what: &str, wire: Wire, as_known: bool| {
        let code = ask(wire).await.expect_err(what);
        assert_eq!(code == Code::Unauthenticated, as_known, "{what}: {code:?}");
    };
    let no_certificate = dialer(ca(), None, Some(TOKEN)).wire(&here);
    refused("no certificate", no_certificate, false).await;
    for bad in guarded.bad_identities() {
        let wire = dialer(ca(), guarded.identity(bad), Some(TOKEN)).wire(&here);
        refused(bad, wire, false).await;
    }
    let foreign_ca = Some(guarded.path("foreign-ca.pem"));
    let other_ca = dialer(foreign_ca, client(), Some(TOKEN)).wire(&here);
    refused("a server of another CA", other_ca, false).await;
    let elsewhere = uri("https", "127.0.0.1", verifier.address);
    let other_name = dialer(ca(), client(), Some(TOKEN)).wire(&elsewhere);
    refused("a server of another name", other_name, false).await;
    let plain = dialer(None, None, Some(TOKEN)).wire(&uri("http", "localhost", verifier.address));
    refused("no encryption", plain, false).await;
    let no_token = dialer(ca(), client(), None).wire(&here);
    refused("no token", no_token.clone(), true).await;
    let wrong_token = dialer(ca(), client(), Some(OTHER_TOKEN)).wire(&here);
    refused("a wrong token", wrong_token, true).await;

    let mut health = HealthClient::new(no_token.clone());
    let told = health.check(HealthCheckRequest::default()).await;
    told.expect("health needs no token");
    let reflected = reflect(no_token).await.unwrap_err();
    assert_eq!(reflected, Code::Unauthenticated);
    let reflected = reflect(dialer(ca(), client(), Some(TOKEN)).wire(&here)).await;
    reflected.expect("reflection is for those who have a token");
    verifier.stop().await;
}

async fn reflect(wire: Wire) -> Result<(), Code> {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest,
    };
    let asked = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(wire);
    let answers = client
        .server_reflection_info(tokio_stream::once(asked))
        .await;
    let mut answers = answers.map_err(|status| status.code())?.into_inner();
    answers
        .message()
        .await
        .map(drop)
        .map_err(|status| status.code())
}

/// What a verifier says of its only drafter once that is ready or left out.
async fn drafter_of(client: &mut GenerationClient<Wire>) -> v1::DrafterStatus {
    loop {
        // A drafter is only called for a generation.
        let generating = client.generate(sampled(60, 1)).await;
        generating.unwrap();
        let info = client.get_server_info(v1::GetServerInfoRequest {}).await;
        let drafters = info.unwrap().into_inner().drafters;
        // The name may have addresses on which nobody listens, too.
        let ours = |drafter: &v1::DrafterStatus| drafter.address.starts_with("127.0.0.1:");
        let Some(drafter) = drafters.into_iter().find(ours) else {
            continue;
        };
        if drafter.state() == DrafterState::Ready || !drafter.reason.is_empty() {
            return drafter;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_get_nothing_of_a_drafter() {
    let guarded = Guarded::new();
    let (checkpoint, _) = open_demo();
    let drafter = drafter_at("127.0.0.1:0", checkpoint, |config| {
        guarded.close(&mut config.serve.door)
    })
    .await;
    let [foreign, expired] = guarded.bad_identities();
    guarded.folder.write("wrong-token", OTHER_TOKEN);
    let cases = [
        ("no certificate", "localhost", "ca", None, "tokens"),
        (foreign, "localhost", "ca", Some(foreign), "tokens"),
        (expired, "localhost", "ca", Some(expired), "tokens"),
        (
            "another CA",
            "localhost",
            "foreign-ca",
            Some("client"),
            "tokens",
        ),
        ("another name", "127.0.0.1", "ca", Some("client"), "tokens"),
        ("no token", "localhost", "ca", Some("client"), ""),
        (
            "a wrong token",
            "localhost",
            "ca",
            Some("client"),
            "wrong-token",
        ),
    ];
    for (what, host, ca, identity, token) in cases {
        let verifier = verifier(|config| {
            config.drafts = vec![uri("https", host, drafter.address)];
            config.dial.draft_tls_ca = Some(guarded.path(&format!("{ca}.pem")));
            let identity = identity.and_then(|name| guarded.identity(name));
            (config.dial.draft_tls_cert, config.dial.draft_tls_key) = identity.unzip();
            config.dial.draft_token_file = (!token.is_empty()).then(|| guarded.path(token));
        })
        .await;
        let mut client = GenerationClient::new(dialer(None, None, None).wire(&verifier.uri()));
        until_up(&mut client).await;
        let told = tokio::time::timeout(Duration::from_secs(60), drafter_of(&mut client)).await;
        let told = told.expect(what);
        assert_ne!(told.state(), DrafterState::Ready, "{what}");
        let unauthenticated = told.reason.contains("Unauthenticated");
        assert_eq!(
            unauthenticated,
            what.contains("token"),
            "{what}: {}",
            told.reason
        );
        let answer = client.generate(request(40)).await.unwrap().into_inner();
        let finish = answer.finish_info.unwrap();
        assert_eq!(finish.speculative_decoding.unwrap().num_drafts, 0, "{what}");
        verifier.stop().await;
    }
    drafter.stop().await;
}

async fn until_up(client: &mut GenerationClient<Wire>) {
    let up = async {
        while client
            .get_server_info(v1::GetServerInfoRequest {})
            .await
            .is_err()
        {}
    };
    tokio::time::timeout(Duration::from_secs(60), up)
        .await
        .expect("the verifier starts");
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_belong_here_get_speculated_answers() {
    let guarded = Guarded::new();
    let (checkpoint, _) = open_demo();
    let drafter = drafter_at("127.0.0.1:0", checkpoint, |config| {
        guarded.close(&mut config.serve.door)
    })
    .await;
    let verifier = verifier(|config| {
        guarded.close(&mut config.serve.door);
        config.drafts = vec![uri("https", "localhost", drafter.address)];
        config.dial.draft_tls_ca = Some(guarded.path("ca.pem"));
        config.dial.draft_tls_cert = Some(guarded.path("client.pem"));
        config.dial.draft_tls_key = Some(guarded.path("client.key"));
        config.dial.draft_token_file = Some(guarded.path("tokens"));
    })
    .await;
    let ca = Some(guarded.path("ca.pem"));
    let dialer = dialer(ca, guarded.identity("client"), Some(TOKEN));
    let wire = dialer.wire(&uri("https", "localhost", verifier.address));
    let mut client = GenerationClient::new(wire);
    until_up(&mut client).await;
    let expected = client.generate(plain(sampled(200, 5))).await.unwrap();
    let expected = expected.into_inner().token_ids;
    let speculating = async {
        loop {
            let answer = client.generate(sampled(200, 5)).await.unwrap().into_inner();
            assert_eq!(answer.token_ids, expected);
            let finish = answer.finish_info.unwrap().speculative_decoding.unwrap();
            if finish.num_accepted_tokens > 0 {
                break;
            }
        }
    };
    let speculated = tokio::time::timeout(Duration::from_secs(60), speculating).await;
    speculated.expect("drafts come through the guarded hop");
    verifier.stop().await;
    drafter.stop().await;
}
