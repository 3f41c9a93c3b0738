//! Websites that are open in the same browser must not reach the page through it.
//!
//! A site may point its own name at this machine (DNS rebinding) and would then be the page's
//! origin. So the page goes by no name that anybody could give it.

use super::failure::Failure;
use crate::Error;
use axum::{
    body::Body,
    extract::{Request, State},
    http::{
        HeaderMap,
        header::{CONTENT_TYPE, HOST},
        uri::Authority,
    },
    middleware::Next,
    response::Response,
};
use dssd_common::serve::Gate;
use futures::StreamExt as _;
use std::net::IpAddr;
use tonic::Status;

/// The gRPC call that `POST /api/generate` counts as.
const GENERATE: &str = "/dssd.v1.Generation/GenerateStream";

/// Refuses callers without a token where one is needed, and notes down whose it is. The caller's seat
/// is held until the answer has ended or is dropped.
pub(super) async fn check_token(
    State(gate): State<Gate>,
    mut request: Request,
    next: Next,
) -> Result<Response, Failure> {
    let path = match request.uri().path() {
        "/api/generate" => GENERATE,
        path => path,
    };
    let (client, seat) = gate.enter(path, request.headers())?;
    request.extensions_mut().insert(client);
    let response = next.run(request).await;
    Ok(response.map(|body| {
        let parts = body.into_data_stream();
        Body::from_stream(parts.inspect(move |_| _ = &seat))
    }))
}

/// Refuses requests that know the server by a name, unless calls need a token that no website has.
pub(super) async fn check_host(
    State(gate): State<Gate>,
    request: Request,
    next: Next,
) -> Result<Response, Failure> {
    let host = request.headers().get(HOST);
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    if gate.is_locked() || is_nobodys_name(host) {
        return Ok(next.run(request).await);
    }
    let refusal = Status::permission_denied(format!(
        "the page goes by IP addresses and by localhost alone, not by `{host}`: a website could have that name"
    ));
    Err(refusal.into())
}

/// Whether `host`, with or without a port, is an IP address or a name for the own machine.
fn is_nobodys_name(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let name = authority.host();
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

/// Refuses a body that is not told to be JSON: other types can be sent from any website without
/// the browser asking here first.
///
/// # Errors
/// In that case.
pub(super) fn check_json(headers: &HeaderMap) -> crate::Result<()> {
    let kind = headers.get(CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    match essence.eq_ignore_ascii_case("application/json") {
        true => Ok(()),
        false => Err(Error::field("content-type", "must be application/json")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_are_nobodys_names() {
        for host in ["127.0.0.1:9090", "[::1]:9090", "10.0.0.7", "LocalHost:9090"] {
            assert!(is_nobodys_name(host), "{host}");
        }
        for host in ["", "a.example:9090", "localhost.a.example", "127.0.0.1.a.b"] {
            assert!(!is_nobodys_name(host), "{host}");
        }
    }
}
