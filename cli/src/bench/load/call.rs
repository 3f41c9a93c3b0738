//! One generation, timed and checked where the client is.

use crate::client::never_left;
use dssd_common::serve::Wire;
use dssd_proto::v1::{
    FinishInfo, GenerateRequest, GenerateStreamResponse, Tokens, generate_stream_response::Event,
    generation_client::GenerationClient,
};
use std::time::Duration;
use tokio::{sync::oneshot, time::Instant};
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt as _;

/// A call, once it was due.
pub(super) struct Call {
    pub(super) server: GenerationClient<Wire>,
    pub(super) request: GenerateRequest,
    /// When it was to be sent: every time is counted from here, however late the client is.
    pub(super) due: Instant,
    pub(super) limit: Duration,
}

/// A message with tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Arrival {
    pub(super) at: Instant,
    pub(super) tokens: u32,
}

/// What became of a call.
pub(super) struct Outcome {
    pub(super) due: Instant,
    pub(super) ended: Instant,
    pub(super) arrivals: Vec<Arrival>,
    pub(super) answer: Answer,
    pub(super) end: End,
}

/// What was generated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) token_ids: Vec<u32>,
    pub(super) text: String,
}

/// How a call ended.
pub(super) enum End {
    /// All tokens came, each once and in order.
    Finished(Box<FinishInfo>),
    /// There was no room, and nothing had begun; when to try again, if that was told.
    Refused(Option<Duration>),
    /// Some other status.
    Failed(Code, String),
    /// Tokens are missing, doubled or out of order.
    Wrong(String),
}

/// Why a stream ended before its end.
enum Fault {
    Status(Status),
    Order(String),
}

impl Call {
    /// Runs to its end; `first` is told of the first token, or dropped without one.
    pub(super) async fn run(mut self, first: Option<oneshot::Sender<()>>) -> Outcome {
        let mut received = Received {
            first,
            arrivals: Vec::new(),
            answer: Answer::default(),
        };
        let wanted = self.request.max_new_tokens;
        let stream = received.follow(&mut self.server, self.request, self.limit);
        // The server keeps the time, too; whoever does not answer at all is given up here.
        let end = match tokio::time::timeout(self.limit, stream).await {
            Ok(Ok(finish)) => received.check(finish, wanted),
            Ok(Err(Fault::Status(status))) => received.failed(&status),
            Ok(Err(Fault::Order(what))) => End::Wrong(what),
            Err(_) => End::Failed(
                Code::DeadlineExceeded,
                format!(
                    "not finished after {:?}, the time given by --timeout",
                    self.limit
                ),
            ),
        };
        Outcome {
            due: self.due,
            ended: Instant::now(),
            arrivals: received.arrivals,
            answer: received.answer,
            end,
        }
    }
}

/// What has come so far.
struct Received {
    first: Option<oneshot::Sender<()>>,
    arrivals: Vec<Arrival>,
    answer: Answer,
}

impl Received {
    async fn follow(
        &mut self,
        server: &mut GenerationClient<Wire>,
        request: GenerateRequest,
        limit: Duration,
    ) -> Result<FinishInfo, Fault> {
        let stream = open(server, request, limit).await;
        let mut stream = stream.map_err(Fault::Status)?;
        while let Some(message) = stream.message().await.map_err(Fault::Status)? {
            let GenerateStreamResponse { event } = message;
            match event {
                Some(Event::Tokens(tokens)) => self.take(tokens).map_err(Fault::Order)?,
                Some(Event::FinishInfo(finish)) => return Ok(finish),
                Some(Event::PromptInfo(_) | Event::Round(_)) | None => {}
            }
        }
        Err(Fault::Status(Status::data_loss(
            "the stream ended without `finish_info`",
        )))
    }

    fn take(&mut self, tokens: Tokens) -> Result<(), String> {
        let at = Instant::now();
        let (index, expected) = (tokens.first_index as usize, self.answer.token_ids.len());
        if index != expected {
            return Err(format!("token {index} came where {expected} was expected"));
        }
        if let Some(first) = self.first.take() {
            // Whoever waits may have gone.
            _ = first.send(());
        }
        self.arrivals.push(Arrival {
            at,
            tokens: tokens.token_ids.len() as u32,
        });
        self.answer.token_ids.extend(tokens.token_ids);
        self.answer.text.push_str(&tokens.text);
        Ok(())
    }

    /// Whether as many tokens came as the server says, and as were asked for.
    fn check(&self, finish: FinishInfo, wanted: Option<u32>) -> End {
        let came = self.answer.token_ids.len();
        if finish.generated_token_count as usize != came {
            let told = finish.generated_token_count;
            return End::Wrong(format!("{came} tokens came, and the server counts {told}"));
        }
        match wanted {
            Some(wanted) if wanted as usize != came => {
                End::Wrong(format!("{came} tokens came where {wanted} were asked for"))
            }
            _ => End::Finished(Box::new(finish)),
        }
    }

    fn failed(&self, status: &Status) -> End {
        match status.code() {
            Code::ResourceExhausted if self.arrivals.is_empty() => {
                let told = status.get_details_retry_info();
                End::Refused(told.map(|info| info.retry_delay.unwrap_or_default()))
            }
            code => End::Failed(code, crate::client::failure(status).to_string()),
        }
    }
}

/// Attempts of a call that does not leave the client, with longer and longer pauses between them.
const ATTEMPTS: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(1);

/// Sends the call, again if it did not leave the client.
async fn open(
    server: &mut GenerationClient<Wire>,
    call: GenerateRequest,
    limit: Duration,
) -> Result<Streaming<GenerateStreamResponse>, Status> {
    let end = Instant::now() + limit;
    let mut attempt = 0;
    loop {
        let mut request = Request::new(call.clone());
        request.set_timeout(end.saturating_duration_since(Instant::now()));
        match server.generate_stream(request).await {
            Ok(stream) => return Ok(stream.into_inner()),
            Err(status) if attempt < ATTEMPTS && never_left(&status) => {}
            Err(status) => return Err(status),
        }
        tokio::time::sleep(FIRST_PAUSE * 2u32.pow(attempt)).await;
        attempt += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, End, Received};
    use dssd_proto::v1::{FinishInfo, Tokens};
    use std::time::Duration;
    use tonic::{Code, Status};
    use tonic_types::{ErrorDetails, StatusExt as _};

    fn received(messages: &[(u32, &[u32])]) -> (Received, Result<(), String>) {
        let mut received = Received {
            first: None,
            arrivals: Vec::new(),
            answer: Answer::default(),
        };
        let mut all = messages.iter().map(|&(first_index, token_ids)| Tokens {
            first_index,
            token_ids: token_ids.to_vec(),
            ..Tokens::default()
        });
        let outcome = all.try_for_each(|tokens| received.take(tokens));
        (received, outcome)
    }

    fn finish(generated_token_count: u32) -> FinishInfo {
        FinishInfo {
            generated_token_count,
            ..FinishInfo::default()
        }
    }

    #[test]
    fn tokens_are_due_each_once_and_in_order() {
        let (whole, outcome) = received(&[(0, &[5]), (1, &[6, 7]), (3, &[8])]);
        outcome.unwrap();
        assert_eq!(whole.answer.token_ids, [5, 6, 7, 8]);
        assert!(matches!(whole.check(finish(4), Some(4)), End::Finished(_)));
        for gap in [[(0, &[5u32][..]), (2, &[6])], [(0, &[5, 6]), (1, &[6])]] {
            assert!(received(&gap).1.unwrap_err().contains("expected"));
        }
    }

    #[test]
    fn another_number_than_told_or_asked_for_is_wrong() {
        let (whole, _) = received(&[(0, &[5]), (1, &[6])]);
        assert!(matches!(whole.check(finish(3), Some(2)), End::Wrong(_)));
        assert!(matches!(whole.check(finish(2), Some(3)), End::Wrong(_)));
        assert!(matches!(whole.check(finish(2), None), End::Finished(_)));
    }

    #[test]
    fn no_room_is_a_refusal_before_the_first_token_alone() {
        let told = ErrorDetails::with_retry_info(Some(Duration::from_secs(2)));
        let status = Status::with_error_details(Code::ResourceExhausted, "full", told);
        let (nothing, _) = received(&[]);
        let delay = match nothing.failed(&status) {
            End::Refused(delay) => delay,
            _ => panic!("no refusal"),
        };
        assert_eq!(delay, Some(Duration::from_secs(2)));
        let bare = Status::resource_exhausted("full");
        assert!(matches!(nothing.failed(&bare), End::Refused(None)));
        let (begun, _) = received(&[(0, &[5])]);
        let failed = begun.failed(&status);
        assert!(matches!(failed, End::Failed(Code::ResourceExhausted, _)));
        let gone = nothing.failed(&Status::unavailable("gone"));
        assert!(matches!(gone, End::Failed(Code::Unavailable, _)));
    }
}
