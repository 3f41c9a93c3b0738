//! Messages as bytes: every type that one of the services or their clients decode.

use crate::{bytes, harness::Target, service};
use dssd_proto::v1;
use prost::Message;
use rand::{Rng as _, seq::IndexedRandom as _};

const TARGET: Target = Target {
    name: "message decoding",
    share: 0.05,
};

/// Decodes; what was decoded can be written and read again.
fn decodes<M: Message + Default>(bytes: &[u8]) -> bool {
    match M::decode(bytes) {
        Ok(message) => {
            let written = message.encode_to_vec();
            let read = M::decode(written.as_slice()).unwrap();
            assert_eq!(read.encode_to_vec(), written);
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    }
}

#[test]
fn message_decoding() {
    let decoders: [fn(&[u8]) -> bool; 18] = [
        decodes::<v1::GenerateRequest>,
        decodes::<v1::ScoreRequest>,
        decodes::<v1::AbortRequest>,
        decodes::<v1::TokenizeRequest>,
        decodes::<v1::DetokenizeRequest>,
        decodes::<v1::GetModelInfoRequest>,
        decodes::<v1::GetServerInfoRequest>,
        decodes::<v1::GetLoadRequest>,
        decodes::<v1::GetDrafterInfoRequest>,
        decodes::<v1::VerifierMessage>,
        decodes::<v1::DrafterMessage>,
        decodes::<v1::GetDrafterInfoResponse>,
        decodes::<v1::GenerateResponse>,
        decodes::<v1::GenerateStreamResponse>,
        decodes::<v1::ScoreResponse>,
        decodes::<v1::GetModelInfoResponse>,
        decodes::<v1::GetServerInfoResponse>,
        decodes::<v1::GetLoadResponse>,
    ];
    TARGET.run(|random| {
        let mut message = service::seed(random);
        let other = service::seed(random);
        if random.random_bool(0.95) {
            bytes::mutate(random, &mut message, &other);
        }
        decoders.choose(random).unwrap()(&message)
    });
}
