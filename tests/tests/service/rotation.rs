//! Certificates and tokens that change while the service runs.

use crate::{pki::*, support::*};
use dssd_common::serve::Wire;
use dssd_proto::v1::{self, generation_client::GenerationClient};
use std::{path::PathBuf, time::Duration};
use tonic::Code;

async fn ask(wire: &Wire) -> Result<(), Code> {
    let mut client = GenerationClient::new(wire.clone());
    let answer = client.get_server_info(v1::GetServerInfoRequest {}).await;
    answer.map(drop).map_err(|status| status.code())
}

/// Asks on a new connection each time, until the answer is the one that is waited for.
async fn becomes(what: &str, wire: impl Fn() -> Wire, expected: impl Fn(Result<(), Code>) -> bool) {
    let asking = async {
        while !expected(ask(&wire()).await) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let asked = tokio::time::timeout(Duration::from_secs(60), asking).await;
    asked.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_for_new_connections() {
    let (folder, old) = (Folder::new(), Ca::new("old"));
    let old_ca = folder.write("old-ca.pem", &old.pem);
    let (certificate, key) = folder.identity("server", &old.leaf("localhost"));
    let verifier = verifier(|config| {
        config.serve.door.tls_cert = Some(certificate);
        config.serve.door.tls_key = Some(key);
    })
    .await;
    let uri = format!("https://localhost:{}", verifier.address.port());
    let uri = uri.parse().unwrap();
    let wire = |ca: &PathBuf| dialer(Some(ca.clone()), None, None).wire(&uri);
    becomes("it starts", || wire(&old_ca), |answer| answer.is_ok()).await;
    let held = wire(&old_ca);
    ask(&held).await.unwrap();

    let new = Ca::new("new");
    let new_ca = folder.write("new-ca.pem", &new.pem);
    // Both files cannot change in one moment; in between, the old ones hold.
    folder.identity("server", &new.leaf("localhost"));
    becomes(
        "the new CA is used",
        || wire(&new_ca),
        |answer| answer.is_ok(),
    )
    .await;
    ask(&wire(&old_ca))
        .await
        .expect_err("new connections show the new certificate");
    ask(&held).await.expect("old connections go on");

    // What cannot be used changes nothing: the next good one is taken, and none before it.
    folder.write("server.pem", "no certificate");
    let third = Ca::new("third");
    let third_ca = folder.write("third-ca.pem", &third.pem);
    ask(&wire(&new_ca)).await.unwrap();
    folder.identity("server", &third.leaf("localhost"));
    becomes(
        "the third CA is used",
        || wire(&third_ca),
        |answer| answer.is_ok(),
    )
    .await;
    verifier.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_come_and_go_with_their_file() {
    let folder = Folder::new();
    let tokens = folder.write("tokens", TOKEN);
    let verifier = verifier(|config| config.serve.door.token_file = Some(tokens)).await;
    let uri = verifier.uri();
    let wire = |token| dialer(None, None, Some(token)).wire(&uri);
    becomes("it starts", || wire(TOKEN), |answer| answer.is_ok()).await;
    assert_eq!(ask(&wire(OTHER_TOKEN)).await, Err(Code::Unauthenticated));
    let held = wire(TOKEN);
    ask(&held).await.unwrap();
    folder.write("tokens", &format!("{TOKEN}\n{OTHER_TOKEN}\n"));
    becomes(
        "both are good",
        || wire(OTHER_TOKEN),
        |answer| answer.is_ok(),
    )
    .await;
    ask(&held).await.unwrap();
    folder.write("tokens", OTHER_TOKEN);
    let refused = |answer| answer == Err(Code::Unauthenticated);
    becomes("the first is gone", || wire(TOKEN), refused).await;
    assert_eq!(
        ask(&held).await,
        Err(Code::Unauthenticated),
        "on old connections, too"
    );
    ask(&wire(OTHER_TOKEN)).await.unwrap();
    verifier.stop().await;
}

/// The other side: a client whose token file changes sends the new one, on the same connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_sends_its_drafters_the_new_token() {
    let folder = Folder::new();
    let tokens = folder.write("tokens", TOKEN);
    let own = folder.write("own", OTHER_TOKEN);
    let drafter = drafter_at("127.0.0.1:0", open_demo().0, |config| {
        config.serve.door.token_file = Some(tokens)
    })
    .await;
    let verifier = verifier(|config| {
        config.drafts = vec![drafter.uri()];
        config.dial.draft_token_file = Some(own);
    })
    .await;
    let mut client = client(&verifier).await;
    let drafts = async |client: &mut _| {
        let answer = generate(client, request(60)).await.finish_info.unwrap();
        answer.speculative_decoding.unwrap().num_drafts
    };
    assert_eq!(drafts(&mut client).await, 0, "the token is wrong");
    folder.write("own", TOKEN);
    let drafting = async { while drafts(&mut client).await == 0 {} };
    let drafted = tokio::time::timeout(Duration::from_secs(60), drafting).await;
    drafted.expect("the new token is sent");
    verifier.stop().await;
    drafter.stop().await;
}
