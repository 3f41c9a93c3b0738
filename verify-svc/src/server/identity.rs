//! What calls are known by.

use crate::{Error, Result};
use dssd_common::serve::{Identity, MAX_REQUEST_ID, Trail};
use dssd_proto::v1::GenerateRequest;
use tonic::{Request, metadata::MetadataMap};
use uuid::Uuid;

/// That of a call to generate, which its request has from here on: by its own name, that of its
/// metadata, or a new one.
///
/// # Errors
/// If the metadata name it and the name cannot be used.
pub(super) fn of_generation(
    span: &'static str,
    request: &mut Request<GenerateRequest>,
) -> Result<Identity> {
    if request.get_ref().request_id.is_empty() {
        request.get_mut().request_id = named(request.metadata())?;
    }
    // One that is too long is refused, and no name.
    let request_id = match &request.get_ref().request_id {
        name if name.len() <= MAX_REQUEST_ID => name.clone(),
        _ => String::new(),
    };
    let trail = Trail::of_call(span, request.metadata());
    Ok(Identity::new(request_id, trail))
}

/// That of a call whose request has no name.
///
/// # Errors
/// As [`of_generation`].
pub(super) fn of_call(span: &'static str, metadata: &MetadataMap) -> Result<Identity> {
    let trail = Trail::of_call(span, metadata);
    Ok(Identity::new(named(metadata)?, trail))
}

fn named(metadata: &MetadataMap) -> Result<String> {
    let named = Identity::named_in(metadata).map_err(Error::from)?;
    Ok(named.unwrap_or_else(|| Uuid::new_v4().to_string()))
}
