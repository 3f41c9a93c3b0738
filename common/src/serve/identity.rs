//! What a call is known by.

use super::Trail;
use crate::{Error, Result};
use tonic::{
    Response, Status,
    metadata::{MetadataMap, MetadataValue},
};
use tracing::Instrument as _;

/// The metadata that names a request.
const REQUEST_ID: &str = "x-request-id";

/// Longest name of a request, in bytes.
pub const MAX_REQUEST_ID: usize = 256;

/// What a call is known by: in logs, in traces, and to those who are called in turn. Clones are
/// of the same call.
#[derive(Clone, Debug)]
pub struct Identity {
    request_id: String,
    trail: Trail,
    log: tracing::Span,
}

impl Default for Identity {
    /// That of a call of which nobody knows.
    fn default() -> Self {
        Self {
            request_id: String::new(),
            trail: Trail::default(),
            log: tracing::Span::none(),
        }
    }
}

impl Identity {
    /// A call by this name, with its span.
    pub fn new(request_id: String, trail: Trail) -> Self {
        // Errors are the last thing that is filtered out, and need it most.
        let log = tracing::error_span!("request", request_id = request_id.as_str());
        trail.tell("request_id", &request_id);
        Self {
            request_id,
            trail,
            log,
        }
    }

    /// The name that metadata give a call, if any.
    ///
    /// # Errors
    /// If it is too long, or has other characters than printable ASCII ones.
    pub fn named_in(metadata: &MetadataMap) -> Result<Option<String>> {
        let unfit = |reason: String| Error::InvalidParameter {
            field: REQUEST_ID,
            reason,
        };
        let Some(value) = metadata.get(REQUEST_ID) else {
            return Ok(None);
        };
        let Ok(name) = value.to_str() else {
            return Err(unfit("must be printable ASCII".to_owned()));
        };
        match name.len() {
            0 => Ok(None),
            1..=MAX_REQUEST_ID if is_printable(name) => Ok(Some(name.to_owned())),
            1..=MAX_REQUEST_ID => Err(unfit("must be printable ASCII".to_owned())),
            length => Err(unfit(format!(
                "has {length} bytes; at most {MAX_REQUEST_ID}"
            ))),
        }
    }

    /// The name.
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// The span.
    pub fn trail(&self) -> &Trail {
        &self.trail
    }

    /// Does something whose log lines name the call.
    pub fn in_log<T>(&self, work: impl FnOnce() -> T) -> T {
        self.log.in_scope(work)
    }

    /// A future whose log lines name the call.
    pub fn logged<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        work.instrument(self.log.clone())
    }

    /// An answer that tells the name, be it an error.
    pub async fn answer<T>(
        &self,
        work: impl Future<Output = std::result::Result<Response<T>, Status>>,
    ) -> std::result::Result<Response<T>, Status> {
        let mut answer = self.logged(work).await;
        self.name(match &mut answer {
            Ok(response) => response.metadata_mut(),
            Err(status) => status.metadata_mut(),
        });
        answer
    }

    /// Names call and span to whom is called in turn.
    pub fn inject(&self, metadata: &mut MetadataMap) {
        self.name(metadata);
        self.trail.inject(metadata);
    }

    /// A name of other characters than metadata may have is not told.
    fn name(&self, metadata: &mut MetadataMap) {
        let printable = !self.request_id.is_empty() && is_printable(&self.request_id);
        if let Some(value) = printable
            .then(|| MetadataValue::try_from(&self.request_id).ok())
            .flatten()
        {
            metadata.insert(REQUEST_ID, value);
        }
    }
}

fn is_printable(name: &str) -> bool {
    name.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &[u8]) -> Result<Option<String>> {
        let mut headers = tonic::codegen::http::HeaderMap::new();
        headers.insert(REQUEST_ID, name.try_into().unwrap());
        Identity::named_in(&MetadataMap::from_headers(headers))
    }

    #[test]
    fn a_name_is_short_and_printable() {
        assert_eq!(named(b"abc 1").unwrap().as_deref(), Some("abc 1"));
        assert_eq!(named(b"").unwrap(), None);
        assert_eq!(Identity::named_in(&MetadataMap::new()).unwrap(), None);
        for unfit in [&b"a\xff"[..], b"a\tb", &[b'a'; MAX_REQUEST_ID + 1]] {
            let error = named(unfit).unwrap_err().to_string();
            assert!(error.contains("x-request-id"), "{error}");
        }
    }

    #[test]
    fn a_name_is_told_where_metadata_can_hold_it() {
        let told = |name: &str| {
            let mut metadata = MetadataMap::new();
            Identity::new(name.to_owned(), Trail::default()).inject(&mut metadata);
            metadata
                .get(REQUEST_ID)
                .map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(told("abc").as_deref(), Some("abc"));
        assert_eq!(told("für Elise"), None);
        assert_eq!(told("a\nb"), None);
        assert_eq!(told(""), None);
    }
}
