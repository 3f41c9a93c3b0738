//! What the page asks for: a part of GenerateRequest in JSON, by the same names.

use crate::{Error, Result};
use dssd_proto::v1::{self, generate_request::Prompt};
use serde::Deserialize;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Body {
    text: String,
    max_new_tokens: Option<u32>,
    temperature: Option<f32>,
    top_k: Option<u32>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    seed: Option<Seed>,
    stop_strings: Vec<String>,
    ignore_eos: bool,
    speculation: Speculation,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Speculation {
    policy: String,
    max_draft_tokens: Option<u32>,
    target_agreement: Option<f32>,
}

/// In quotes where it comes from a browser, whose numbers are not exact beyond 53 bits.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "must be a whole number from 0 to 18446744073709551615"
)]
enum Seed {
    Number(u64),
    Quoted(String),
}

/// Reads a request; every round of its answer will be told.
///
/// # Errors
/// INVALID_ARGUMENT with the path of the field that cannot be read.
pub(super) fn read(json: &[u8]) -> Result<v1::GenerateRequest> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let body: Body = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let field = match error.path().to_string().as_str() {
            "." => "body".to_owned(),
            path => path.to_owned(),
        };
        Error::field(field, error.inner().to_string())
    })?;
    reader
        .end()
        .map_err(|error| Error::field("body", error.to_string()))?;
    Ok(v1::GenerateRequest {
        prompt: Some(Prompt::Text(body.text)),
        max_new_tokens: body.max_new_tokens,
        temperature: body.temperature,
        top_k: body.top_k,
        top_p: body.top_p,
        min_p: body.min_p,
        seed: body.seed.map(Seed::number).transpose()?,
        stop_strings: body.stop_strings,
        ignore_eos: body.ignore_eos,
        speculation: Some(v1::Speculation {
            policy: body.speculation.policy,
            max_draft_tokens: body.speculation.max_draft_tokens,
            target_agreement: body.speculation.target_agreement,
            trace: true,
            ..v1::Speculation::default()
        }),
        ..v1::GenerateRequest::default()
    })
}

impl Seed {
    fn number(self) -> Result<u64> {
        match self {
            Self::Number(number) => Ok(number),
            Self::Quoted(text) => text.parse().map_err(|_| {
                let reason = format!("is `{text}`; must be a whole number from 0 to {}", u64::MAX);
                Error::field("seed", reason)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn what_cannot_be_read_is_told_by_its_path() {
        let error = |json: &str| read(json.as_bytes()).unwrap_err().to_string();
        for (json, field) in [
            ("", "body: "),
            ("5", "body: "),
            (r#"{"text": "a"} more"#, "body: "),
            (r#"{"text": 5}"#, "text: "),
            (r#"{"temperature": "hot"}"#, "temperature: "),
            (r#"{"temperature": 1e99999}"#, "temperature: "),
            (r#"{"max_new_tokens": -1}"#, "max_new_tokens: "),
            (r#"{"seed": "18446744073709551616"}"#, "seed: "),
            (r#"{"seed": 1.5}"#, "seed: "),
            (r#"{"prompt": "a"}"#, "prompt: "),
            (r#"{"speculation": {"mode": 3}}"#, "speculation.mode: "),
        ] {
            let error = error(json);
            assert!(error.starts_with(field), "{json}: {error}");
        }
    }

    #[test]
    fn seeds_are_exact_to_the_last_bit() {
        let seed = |json: &str| read(json.as_bytes()).unwrap().seed;
        let largest = Some(u64::MAX);
        assert_eq!(seed(r#"{"seed": "18446744073709551615"}"#), largest);
        assert_eq!(seed(r#"{"seed": 18446744073709551615}"#), largest);
        assert_eq!(seed("{}"), None);
    }
}
