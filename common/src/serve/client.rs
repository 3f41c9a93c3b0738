//! Who calls.

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};
use tonic::Request;

/// Tells clients apart without knowing their secrets: the hash of the bearer token that a call
/// came with. Calls without a token are all of one client, the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClientId([u8; 32]);

impl ClientId {
    /// The client that holds `token`.
    pub fn of_token(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }

    /// Tells clients apart, as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The client of a call, as whoever checked its token noted it down.
    pub fn of_call<T>(request: &Request<T>) -> Self {
        request.extensions().get().copied().unwrap_or_default()
    }

    /// Whether it is one of these, in a time that tells nothing but their number.
    pub(super) fn is_among(&self, clients: &[Self]) -> bool {
        let none = Choice::from(0);
        let found = clients
            .iter()
            .fold(none, |found, client| found | self.0.ct_eq(&client.0));
        found.into()
    }
}

#[cfg(test)]
mod tests {
    use super::ClientId;
    use tonic::Request;

    #[test]
    fn a_call_is_of_the_client_that_was_noted_down() {
        let mut request = Request::new(());
        assert_eq!(ClientId::of_call(&request), ClientId::default());
        let client = ClientId::of_token(b"secret");
        request.extensions_mut().insert(client);
        assert_eq!(ClientId::of_call(&request), client);
        assert_ne!(client, ClientId::of_token(b"other"));
    }
}
