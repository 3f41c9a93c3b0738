//! Requests that cannot be read.

use std::task::{Context, Poll};
use tonic::{
    Code, Status,
    body::Body,
    codegen::http::{Request, Response},
    server::NamedService,
};
use tower::{Service, util::MapResponse};

type Map = fn(Response<Body>) -> Response<Body>;

/// How the services begin to say that something is a fault of theirs; an id follows.
const FAULT: &str = "internal error ";

/// A gRPC service that blames a request which cannot be read on its sender, with INVALID_ARGUMENT.
///
/// The transport says INTERNAL to bytes that are no message; here that means a fault of ours.
#[derive(Clone)]
pub struct Readable<S>(MapResponse<S, Map>);

impl<S> Readable<S> {
    /// Such a service around another one.
    pub fn new(service: S) -> Self {
        Self(MapResponse::new(service, readable))
    }
}

impl<S: NamedService> NamedService for Readable<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Readable<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = <MapResponse<S, Map> as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.0.call(request)
    }
}

fn readable(response: Response<Body>) -> Response<Body> {
    match Status::from_header_map(response.headers()) {
        Some(status) if status.code() == Code::Internal => blame_sender(status).into_http(),
        _ => response,
    }
}

/// The status that a client is told where reading its message gave `status`.
pub fn blame_sender(status: Status) -> Status {
    if status.code() != Code::Internal || status.message().starts_with(FAULT) {
        return status;
    }
    let reason = format!("the request cannot be read: {}", status.message());
    Status::invalid_argument(reason)
}

/// Longest text of a refusal, in bytes. It travels in a header, twice, and with escapes.
const MOST_TEXT: usize = 1000;

/// The text of a refusal, which may quote what it refuses, cut to what a header has room for.
pub fn clipped(mut text: String) -> String {
    if text.len() > MOST_TEXT {
        text.truncate(text.floor_char_boundary(MOST_TEXT));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{blame_sender, clipped};
    use tonic::{Code, Status};

    #[test]
    fn only_what_has_an_id_is_a_fault_of_ours() {
        let unread = blame_sender(Status::internal("failed to decode"));
        assert_eq!(unread.code(), Code::InvalidArgument);
        assert!(unread.message().contains("failed to decode"), "{unread}");
        let fault = Status::internal("internal error 1234: the engine");
        assert_eq!(blame_sender(fault).code(), Code::Internal);
        let gone = Status::unavailable("gone");
        assert_eq!(blame_sender(gone).code(), Code::Unavailable);
    }

    #[test]
    fn quotes_are_cut_between_characters() {
        assert_eq!(clipped("short".to_owned()), "short");
        let cut = clipped("日".repeat(1000));
        assert!(cut.len() < 1010 && cut.ends_with("日…"), "{cut}");
    }
}
