//! Bearer tokens: the list of a server, and the one that a client sends.

use super::{
    ClientId, Secret,
    watched::{Text, Watched},
};
use crate::{Error, Result};
use std::{path::PathBuf, sync::Arc};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataMap, MetadataValue},
    service::Interceptor,
};

/// Shortest token that a server takes: 128 random bits in hexadecimal.
const MIN_LENGTH: usize = 32;
/// Longest token: it must fit beside other metadata.
const MAX_LENGTH: usize = 1024;
/// Most tokens of one file.
const MAX_TOKENS: usize = 1024;
/// The metadata key that carries a token.
const AUTHORIZATION: &str = "authorization";
const SCHEME: &str = "Bearer ";

/// The tokens that a server takes, from a file of one a line.
pub(super) struct Keyring(Watched<Vec<ClientId>>);

impl Keyring {
    /// Reads the file, and follows it.
    ///
    /// # Errors
    /// If it cannot be read, has no token, or one that is unfit.
    pub(super) fn open(path: PathBuf) -> Result<Self> {
        let clients = |texts: &[Text]| -> Result<Vec<ClientId>> {
            let tokens = tokens(&texts[0])?;
            let client = |token: &Secret| ClientId::of_token(token.expose().as_bytes());
            Ok(tokens.iter().map(client).collect())
        };
        Watched::start(vec![path], clients).map(Self)
    }

    /// The client that a call comes from. It takes as long for a wrong token as for a right one.
    ///
    /// # Errors
    /// UNAUTHENTICATED without a token, and with a wrong one.
    pub(super) fn client(&self, metadata: &MetadataMap) -> std::result::Result<ClientId, Status> {
        let sent = metadata.get(AUTHORIZATION).map(MetadataValue::as_bytes);
        let token = sent.and_then(|sent| {
            let (scheme, token) = sent.split_at_checked(SCHEME.len())?;
            scheme
                .eq_ignore_ascii_case(SCHEME.as_bytes())
                .then_some(token)
        });
        let Some(token) = token else {
            return Err(Status::unauthenticated(
                "a token is needed: send metadata `authorization: Bearer TOKEN`",
            ));
        };
        let client = ClientId::of_token(token);
        if client.is_among(&self.0.current()) {
            return Ok(client);
        }
        Err(Status::unauthenticated("the token is not known here"))
    }
}

/// What a client sends with every call: a token, or nothing.
#[derive(Clone, Default)]
pub struct Bearer(Option<Arc<Watched<MetadataValue<Ascii>>>>);

impl Bearer {
    /// A token that never changes.
    ///
    /// # Errors
    /// If it has other characters than a token may have.
    pub(super) fn fixed(token: &Secret) -> Result<Self> {
        let value = header(token).ok_or_else(|| Error::InvalidParameter {
            field: "--token",
            reason: format!("must be {CHARACTERS}"),
        })?;
        let never = Watched::start(Vec::new(), move |_| Ok(value.clone()))?;
        Ok(Self(Some(Arc::new(never))))
    }

    /// The first token of a file, which is followed.
    ///
    /// # Errors
    /// As a server finds them.
    pub(super) fn from_file(path: PathBuf) -> Result<Self> {
        let first = |texts: &[Text]| {
            let token = tokens(&texts[0])?.into_iter().next();
            let value = token.as_ref().and_then(header);
            value.ok_or_else(|| texts[0].error(NO_TOKEN))
        };
        Ok(Self(Some(Arc::new(Watched::start(vec![path], first)?))))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> std::result::Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            let value = MetadataValue::clone(&value.current());
            request.metadata_mut().insert(AUTHORIZATION, value);
        }
        Ok(request)
    }
}

const NO_TOKEN: &str =
    "has no token: write one a line; empty lines and lines that begin with # do not count";
const CHARACTERS: &str = "visible ASCII characters without blanks";

/// The tokens of a file. What is wrong is told by the number of the line, and never by its text.
fn tokens(text: &Text) -> Result<Vec<Secret>> {
    let lines = std::str::from_utf8(&text.bytes).map_err(|_| text.error("is no text in UTF-8"))?;
    let mut tokens = Vec::new();
    for (number, line) in (1..).zip(lines.lines()) {
        let token = line.trim();
        if token.is_empty() || token.starts_with('#') {
            continue;
        }
        let is_wrong = |what: String| text.error(format!("line {number}: {what}"));
        if !(MIN_LENGTH..=MAX_LENGTH).contains(&token.len()) {
            return Err(is_wrong(format!(
                "a token must have {MIN_LENGTH} to {MAX_LENGTH} characters, this one has {}; `openssl rand -hex 32` makes a good one",
                token.len()
            )));
        }
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(is_wrong(format!("a token must be {CHARACTERS}")));
        }
        if tokens.len() == MAX_TOKENS {
            return Err(is_wrong(format!("more than {MAX_TOKENS} tokens")));
        }
        tokens.push(Secret::from(token.to_owned()));
    }
    match tokens.is_empty() {
        false => Ok(tokens),
        true => Err(text.error(NO_TOKEN)),
    }
}

fn header(token: &Secret) -> Option<MetadataValue<Ascii>> {
    let token = token.expose();
    let fits = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    let value = fits.then(|| format!("{SCHEME}{token}"))?;
    let mut value = MetadataValue::try_from(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "0123456789abcdef0123456789abcdef";
    const TWO: &str = "fedcba9876543210fedcba9876543210";

    fn file(content: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        std::fs::write(&path, content).unwrap();
        (dir, path)
    }

    fn sent(authorization: &str) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata.insert(AUTHORIZATION, authorization.parse().unwrap());
        metadata
    }

    #[tokio::test]
    async fn each_token_of_the_file_is_a_client_and_nothing_else_is() {
        let (_dir, path) = file(&format!("# of team one\n{ONE}\n\n  {TWO}  \n"));
        let keyring = Keyring::open(path).unwrap();
        let one = keyring.client(&sent(&format!("Bearer {ONE}"))).unwrap();
        let two = keyring.client(&sent(&format!("bearer {TWO}"))).unwrap();
        assert_eq!(one, ClientId::of_token(ONE.as_bytes()));
        assert_ne!(one, two);
        let wrong = [
            format!("Bearer {}", &ONE[1..]),
            format!("Bearer {ONE}0"),
            format!("Basic {ONE}"),
            ONE.to_owned(),
            "Bearer ".to_owned(),
            "Bearer # of team one".to_owned(),
            String::new(),
        ];
        for wrong in wrong {
            let status = keyring.client(&sent(&wrong)).unwrap_err();
            assert_eq!(status.code(), tonic::Code::Unauthenticated, "{wrong}");
        }
        keyring.client(&MetadataMap::new()).unwrap_err();
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_file_is_told_without_its_secrets() {
        let refused = |content: &str| {
            let (_dir, path) = file(content);
            let error = Keyring::open(path).err().unwrap().to_string();
            assert!(error.contains("tokens"), "{error}");
            error
        };
        assert!(refused("# nothing\n\n").contains("no token"));
        let short = refused(&format!("{ONE}\nhunter2\n"));
        assert!(short.contains("line 2") && !short.contains("hunter2"));
        let blank = refused(&format!("{ONE} {TWO}\n"));
        assert!(blank.contains("line 1") && !blank.contains(ONE));
        assert!(refused(&format!("{ONE}ä\n")).contains("visible"));
        let many = format!("{ONE}\n").repeat(MAX_TOKENS + 1);
        assert!(refused(&many).contains("1025"));
    }

    #[tokio::test]
    async fn a_client_sends_the_first_token_and_never_shows_it() {
        let (_dir, path) = file(&format!("{TWO}\n{ONE}\n"));
        let mut bearer = Bearer::from_file(path).unwrap();
        let request = bearer.call(Request::new(())).unwrap();
        let expected = format!("Bearer {TWO}");
        assert_eq!(
            request.metadata().get(AUTHORIZATION).unwrap(),
            expected.as_str()
        );
        assert!(!format!("{request:?}").contains(TWO));
        let secret: Secret = TWO.parse().unwrap();
        assert!(!format!("{secret:?}").contains(TWO));
        let error = Bearer::fixed(&"two words".to_owned().into()).err().unwrap();
        assert!(!error.to_string().contains("two"), "{error}");
        let nothing = Bearer::default().call(Request::new(())).unwrap();
        assert!(nothing.metadata().is_empty());
    }
}
