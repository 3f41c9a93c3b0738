//! Connections that grow old, and those that never begin.

use crate::support::*;
use dssd_proto::v1;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn an_old_connection_gives_way_to_a_new_one_and_its_calls_end() {
    let verifier = verifier(|config| {
        config.serve.door.max_connection_age = Duration::from_secs(1);
        config.serve.door.max_connection_age_grace = Duration::from_secs(1);
        config.serve.max_step_rows = 1;
    })
    .await;
    let mut client = client(&verifier).await;
    // So many and so slow that none is done in the two seconds of a connection.
    let mut long = Vec::new();
    for _ in 0..12 {
        long.push(
            client
                .generate_stream(request(1000))
                .await
                .unwrap()
                .into_inner(),
        );
    }
    for mut stream in long {
        let end = loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a stream that is cut off says so"),
                Err(status) => break status,
            }
        };
        assert_eq!(end.code(), Code::Unavailable, "{end}");
        assert!(end.message().contains("go on with another"), "{end}");
    }
    // The work has ended with the calls; new ones find a new connection by themselves.
    let idle = async {
        loop {
            // A call may be told that its connection closes under it: the next one gets another.
            if let Ok(load) = client.get_load(v1::GetLoadRequest {}).await {
                let load = load.into_inner();
                if load.running == 0 && load.free_kv_blocks == load.kv_blocks {
                    break;
                }
            }
        }
    };
    let idle = tokio::time::timeout(Duration::from_secs(60), idle).await;
    idle.expect("nobody waits for anything");
    verifier.stop().await;
}

/// A peer that says nothing is cut off, on an encrypted port too, and holds up nobody meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn silence_is_not_waited_for() {
    use crate::pki::{Ca, Folder, dialer};
    use dssd_proto::v1::generation_client::GenerationClient;
    let (folder, ca) = (Folder::new(), Ca::new("ours"));
    let ca_file = folder.write("ca.pem", &ca.pem);
    let (certificate, key) = folder.identity("server", &ca.leaf("localhost"));
    let encrypted = verifier(|config| {
        config.serve.door.tls_cert = Some(certificate);
        config.serve.door.tls_key = Some(key);
    })
    .await;
    let open = verifier(|_| {}).await;
    let mut silent = Vec::new();
    // More than there may be handshakes at once.
    for (address, count) in [(encrypted.address, 260), (open.address, 10)] {
        for _ in 0..count {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        // The beginning of a greeting is none.
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"PRI *").await.unwrap();
        silent.push(slow);
    }
    let uri = format!("https://localhost:{}", encrypted.address.port());
    let wire = dialer(Some(ca_file), None, None).wire(&uri.parse().unwrap());
    let mut speaking = GenerationClient::new(wire);
    let heard = async { while speaking.get_load(v1::GetLoadRequest {}).await.is_err() {} };
    let heard = tokio::time::timeout(Duration::from_secs(30), heard).await;
    heard.expect("who speaks is heard");
    let mut client = client(&open).await;
    client.get_load(v1::GetLoadRequest {}).await.unwrap();
    let cut = async {
        for mut stream in silent {
            let mut rest = Vec::new();
            // An orderly end or a reset; what the server said before does not matter.
            _ = stream.read_to_end(&mut rest).await;
        }
    };
    let cut = tokio::time::timeout(Duration::from_secs(60), cut).await;
    cut.expect("who says nothing is cut off");
    open.stop().await;
    encrypted.stop().await;
}
