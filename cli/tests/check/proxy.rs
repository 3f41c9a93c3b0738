//! A pair of services behind a proxy that breaks what they say.

use crate::PROMPTS;
use dssd_common::{
    checkpoint::{Checkpoint, demo},
    tokenizer::Tokenizer,
};
use dssd_proto::v1::{
    AbortRequest, AbortResponse, DetokenizeRequest, DetokenizeResponse, GenerateRequest,
    GenerateResponse, GenerateStreamResponse, GetLoadRequest, GetLoadResponse, GetModelInfoRequest,
    GetModelInfoResponse, GetServerInfoRequest, GetServerInfoResponse, ScoreRequest, ScoreResponse,
    SpeculationMode, TokenizeRequest, TokenizeResponse, Tokens,
    generate_request::Prompt,
    generate_stream_response::Event,
    generation_client::GenerationClient,
    generation_server::{Generation, GenerationServer},
};
use futures::{StreamExt as _, stream::BoxStream};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint, Server},
};

/// What the proxy does to speculated answers, always to those of one prompt alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    None,
    /// The first setting gets the second most likely token at one place.
    RunnerUp {
        prompt: usize,
        at: u32,
    },
    /// A log-probability is off by its last bit.
    LogprobBit {
        prompt: usize,
        at: u32,
    },
    /// Whatever is resumed goes on with another seed.
    ResumedSeed,
}

/// The services, until they are stopped.
pub(crate) struct Proxy {
    pub(crate) url: String,
    shutdown: CancellationToken,
    services: tokio::task::JoinSet<()>,
}

impl Proxy {
    /// A pair of the demo model behind a proxy with a fault.
    pub(crate) async fn start(fault: Fault) -> Self {
        let folder = demo::folder().unwrap();
        let checkpoint = Arc::new(Checkpoint::open(&folder).unwrap());
        let tokenizer = Tokenizer::open(&folder).unwrap().map(Arc::new);
        let shutdown = CancellationToken::new();
        let mut services = tokio::task::JoinSet::new();

        let (draft_listener, draft_url) = listener().await;
        let config = draft_svc::Config::for_model(folder.clone());
        let served = draft_svc::run_with(
            config,
            Arc::clone(&checkpoint),
            tokenizer.clone(),
            draft_listener.into(),
            shutdown.clone(),
        );
        services.spawn(async move { served.await.unwrap() });

        let (verify_listener, verify_url) = listener().await;
        let mut config = verify_svc::Config::for_model(folder);
        config.drafts = vec![draft_url.parse().unwrap()];
        let served = verify_svc::run_with(
            config,
            checkpoint,
            tokenizer,
            verify_listener.into(),
            shutdown.clone(),
        );
        services.spawn(async move { served.await.unwrap() });

        let (listener, url) = listener().await;
        let verifier = Endpoint::from_shared(verify_url).unwrap().connect_lazy();
        let server = BrokenServer {
            verifier: GenerationClient::new(verifier),
            fault,
        };
        let served = Server::builder()
            .add_service(GenerationServer::new(server))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let end = shutdown.clone();
        services.spawn(async move {
            _ = end.run_until_cancelled(served).await;
        });
        Self {
            url,
            shutdown,
            services,
        }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.services.join_all().await;
    }
}

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

struct BrokenServer {
    verifier: GenerationClient<Channel>,
    fault: Fault,
}

impl BrokenServer {
    fn verifier(&self) -> GenerationClient<Channel> {
        self.verifier.clone()
    }

    /// Whether the answer to `request` is to be broken.
    fn breaks(&self, request: &GenerateRequest) -> bool {
        let speculation = request.speculation.clone().unwrap_or_default();
        let is_prompt =
            |index: usize| request.prompt == Some(Prompt::Text(PROMPTS[index].to_owned()));
        match self.fault {
            Fault::None => false,
            Fault::RunnerUp { prompt, .. } => {
                let first_setting =
                    request.temperature.is_none() && speculation.policy == "fixed:0:2";
                is_prompt(prompt) && first_setting
            }
            Fault::LogprobBit { prompt, .. } => {
                let speculated = speculation.mode() == SpeculationMode::Auto;
                is_prompt(prompt) && speculated && request.logprobs.is_some()
            }
            Fault::ResumedSeed => request.resume.is_some(),
        }
    }
}

/// Breaks an answer's tokens, if the place is among them.
fn break_tokens(fault: Fault, tokens: &mut Tokens) {
    let (Fault::RunnerUp { at, .. } | Fault::LogprobBit { at, .. }) = fault else {
        return;
    };
    let index = at
        .checked_sub(tokens.first_index)
        .map(|index| index as usize);
    let entry = index.and_then(|index| tokens.logprobs.get_mut(index));
    if let (Some(index), Some(entry)) = (index, entry) {
        match fault {
            Fault::RunnerUp { .. } => tokens.token_ids[index] = entry.top[1].token_id,
            _ => entry.logprob = entry.logprob.next_down(),
        }
    }
    if matches!(fault, Fault::RunnerUp { .. }) {
        // The client did not ask for them.
        tokens.logprobs.clear();
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Generation for BrokenServer {
    type GenerateStreamStream = BoxStream<'static, Result<GenerateStreamResponse, Status>>;

    async fn generate_stream(
        &self,
        request: Request<GenerateRequest>,
    ) -> Answer<Self::GenerateStreamStream> {
        let mut request = request.into_inner();
        let fault = match self.breaks(&request) {
            true => self.fault,
            false => Fault::None,
        };
        match (fault, &mut request.resume) {
            (Fault::RunnerUp { .. }, _) => request.logprobs = Some(2),
            (Fault::ResumedSeed, Some(resume)) => {
                resume.seed += 1000;
                request.seed = None;
            }
            _ => {}
        }
        let answers = self.verifier().generate_stream(request).await?.into_inner();
        let broken = answers.map(move |answer| {
            answer.map(|mut answer| {
                if let Some(Event::Tokens(tokens)) = &mut answer.event {
                    break_tokens(fault, tokens);
                }
                answer
            })
        });
        Ok(Response::new(broken.boxed()))
    }

    async fn generate(&self, request: Request<GenerateRequest>) -> Answer<GenerateResponse> {
        self.verifier().generate(request).await
    }

    async fn score(&self, request: Request<ScoreRequest>) -> Answer<ScoreResponse> {
        self.verifier().score(request).await
    }

    async fn abort(&self, request: Request<AbortRequest>) -> Answer<AbortResponse> {
        self.verifier().abort(request).await
    }

    async fn tokenize(&self, request: Request<TokenizeRequest>) -> Answer<TokenizeResponse> {
        self.verifier().tokenize(request).await
    }

    async fn detokenize(&self, request: Request<DetokenizeRequest>) -> Answer<DetokenizeResponse> {
        self.verifier().detokenize(request).await
    }

    async fn get_model_info(
        &self,
        request: Request<GetModelInfoRequest>,
    ) -> Answer<GetModelInfoResponse> {
        self.verifier().get_model_info(request).await
    }

    async fn get_server_info(
        &self,
        request: Request<GetServerInfoRequest>,
    ) -> Answer<GetServerInfoResponse> {
        self.verifier().get_server_info(request).await
    }

    async fn get_load(&self, request: Request<GetLoadRequest>) -> Answer<GetLoadResponse> {
        self.verifier().get_load(request).await
    }
}
