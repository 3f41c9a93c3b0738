//! The HTTP port of both services: probes through the life of a service.

use crate::support::*;
use dssd_common::checkpoint::demo;
use std::{net::SocketAddr, path::Path, process::Command, time::Duration};
use tokio_util::sync::CancellationToken;

/// Waits until `/readyz` answers with `status`.
async fn readiness_becomes(address: SocketAddr, status: u16) {
    let becomes = async {
        while http_get(address, "/readyz").await.unwrap().0 != status {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, becomes).await.unwrap();
}

/// A copy of the demo model whose configuration is a pipe: loading waits until it is written.
fn pausing_model(folder: &Path) {
    let demo = demo::folder().unwrap();
    for file in std::fs::read_dir(&demo).unwrap() {
        let file = file.unwrap();
        if file.file_name() != "config.json" {
            std::os::unix::fs::symlink(file.path(), folder.join(file.file_name())).unwrap();
        }
    }
    let made = Command::new("mkfifo")
        .arg(folder.join("config.json"))
        .status();
    assert!(made.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_port_answers_while_the_model_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    pausing_model(folder.path());
    let mut config = verify_svc::Config::for_model(folder.path().to_owned());
    config.serve.model_name = Some("stories".to_owned());
    let (listeners, _, http) = listeners("127.0.0.1:0").await;
    let shutdown = CancellationToken::new();
    let service = tokio::spawn(verify_svc::run(config, listeners, shutdown.clone()));
    assert_eq!(http_get(http, "/livez").await.unwrap().0, 200);
    assert_eq!(http_get(http, "/readyz").await.unwrap().0, 503);
    let (status, metrics) = http_get(http, "/metrics").await.unwrap();
    assert_eq!(status, 200);
    assert!(metrics.contains("dssd_build_info{model_name=\"stories\""));
    let text = std::fs::read(demo::folder().unwrap().join("config.json")).unwrap();
    let pipe = folder.path().join("config.json");
    tokio::task::spawn_blocking(move || std::fs::write(pipe, text))
        .await
        .unwrap()
        .unwrap();
    readiness_becomes(http, 200).await;
    shutdown.cancel();
    service.await.unwrap().unwrap();
    assert!(
        http_get(http, "/livez").await.is_err(),
        "the port is closed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_ends_is_alive_and_not_ready() {
    let (verifier, drafter) = tokio::join!(verifier(|_| {}), drafter());
    readiness_becomes(verifier.http, 200).await;
    readiness_becomes(drafter.http, 200).await;
    let mut client = client(&verifier).await;
    let mut stream = client
        .generate_stream(request(1000))
        .await
        .unwrap()
        .into_inner();
    stream.message().await.unwrap();
    verifier.shutdown.cancel();
    readiness_becomes(verifier.http, 503).await;
    assert_eq!(http_get(verifier.http, "/livez").await.unwrap().0, 200);
    assert_eq!(http_get(verifier.http, "/metrics").await.unwrap().0, 200);
    while stream.message().await.unwrap().is_some() {}
    verifier.stop().await;
    drafter.stop().await;
}
