//! Server reflection, in both versions, of both services.

use crate::support::*;
use dssd_common::serve::Switch;
use tonic::{Code, transport::Channel};

/// The names of all services, by one version of the protocol.
macro_rules! listed {
    ($version:ident, $channel:expr) => {{
        use tonic_reflection::pb::$version::{
            ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
            server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
        };
        let asked = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut client = ServerReflectionClient::new($channel);
        let answers = client
            .server_reflection_info(tokio_stream::once(asked))
            .await;
        let answer = answers.unwrap().into_inner().message().await.unwrap();
        let Some(MessageResponse::ListServicesResponse(list)) = answer.unwrap().message_response
        else {
            panic!("a list of services is asked for");
        };
        let names = list.service.into_iter().map(|service| service.name);
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }};
}

async fn check(channel: Channel, service: &str) {
    for names in [
        listed!(v1, channel.clone()),
        listed!(v1alpha, channel.clone()),
    ] {
        for expected in [service, "grpc.health.v1.Health"] {
            assert!(names.iter().any(|name| name == expected), "{names:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_services_list_themselves() {
    let verifier = verifier(|_| {}).await;
    check(channel(&verifier).await, "dssd.v1.Generation").await;
    let drafter = drafter().await;
    check(channel(&drafter).await, "dssd.v1.Drafting").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_can_be_off() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    };
    let verifier = verifier(|config| config.serve.reflection = Switch::Off).await;
    let mut client = ServerReflectionClient::new(channel(&verifier).await);
    let asked = tokio_stream::once(ServerReflectionRequest::default());
    let status = client.server_reflection_info(asked).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}
