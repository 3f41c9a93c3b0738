//! gRPC in, commands to the engine out.

mod answer;
mod deadline;
mod early_exit;
mod identity;
mod prompt;
mod request;
mod speculation;

use crate::{
    Error,
    drafters::Drafters,
    engine::{EngineHandle, EventSender, ScoreRequest},
    metrics::{Call, Metrics},
    served::Served,
};
use deadline::Deadline;
use dssd_common::serve::{ClientId, Identity};
use dssd_proto::v1::{self, generation_server::Generation};
use futures::stream::BoxStream;
use std::{sync::Arc, time::Instant};
use tokio::{sync::oneshot, task::spawn_blocking};
use tonic::{Request, Response, Status};

/// The Generation service.
pub(crate) struct Server {
    engine: EngineHandle,
    served: Arc<Served>,
    drafters: Option<Drafters>,
    metrics: Arc<Metrics>,
}

type Answer<T> = Result<Response<T>, Status>;
type Messages = BoxStream<'static, Result<v1::GenerateStreamResponse, Status>>;

impl Server {
    pub(crate) fn new(
        engine: EngineHandle,
        served: Served,
        drafters: Option<Drafters>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            engine,
            served: Arc::new(served),
            drafters,
            metrics,
        }
    }

    /// Checks a request and has it admitted. Dropping the messages ends the generation.
    async fn start(
        &self,
        client: ClientId,
        request: v1::GenerateRequest,
        deadline: Deadline,
        identity: Identity,
    ) -> crate::Result<Messages> {
        let call = self.metrics.call(deadline.instant(), identity);
        let started = self.admit(client, request, deadline, Arc::clone(&call));
        started.await.inspect_err(|error| call.rejected(error))
    }

    async fn admit(
        &self,
        client: ClientId,
        request: v1::GenerateRequest,
        deadline: Deadline,
        call: Arc<Call>,
    ) -> crate::Result<Messages> {
        self.engine.look(client, call.arrived())?;
        let checked = self
            .blocking(move |served| served.check_generate(request))
            .await?;
        let (events, received) = EventSender::new();
        let identity = call.identity().clone();
        let request = checked.into_engine_request(client, deadline.instant(), events, call);
        self.engine.generate(request.engine).await?;
        Ok(answer::messages(request.prompt_info, received, identity))
    }

    async fn score_tokens(
        &self,
        client: ClientId,
        request: v1::ScoreRequest,
        deadline: Deadline,
    ) -> crate::Result<v1::ScoreResponse> {
        let arrived = Instant::now();
        self.engine.look(client, arrived)?;
        let checked = self
            .blocking(move |served| served.check_score(request))
            .await?;
        let (reply, answer) = oneshot::channel();
        let request = ScoreRequest {
            client,
            tokens: checked.tokens.clone(),
            first_index: checked.first_index,
            top: checked.top,
            early_exit: checked.early_exit,
            arrived,
            deadline: deadline.instant(),
            reply,
        };
        let score = self.engine.score(request, answer).await?;
        Ok(v1::ScoreResponse {
            token_ids: checked.tokens,
            first_index: checked.first_index as u32,
            logprobs: score.logprobs,
            numerics_id: checked.numerics_id,
            lossy: score.early_exit.is_some(),
            early_exit: score.early_exit,
        })
    }

    /// Runs what may take long for a long text away from the threads that carry messages.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Served) -> crate::Result<T> + Send + 'static,
    ) -> crate::Result<T> {
        let served = Arc::clone(&self.served);
        spawn_blocking(move || work(&served))
            .await
            .map_err(|error| Error::internal("checking a request", error))?
    }
}

#[tonic::async_trait]
impl Generation for Server {
    type GenerateStreamStream = Messages;

    async fn generate(
        &self,
        mut request: Request<v1::GenerateRequest>,
    ) -> Answer<v1::GenerateResponse> {
        let identity = identity::of_generation("generate", &mut request)?;
        let known_as = identity.clone();
        let answered = async {
            let deadline = Deadline::of(request.metadata())?;
            let whole = async {
                let client = ClientId::of_call(&request);
                let request = request.into_inner();
                let messages = self.start(client, request, deadline, known_as).await?;
                answer::collect(messages).await
            };
            deadline.bound(whole).await.map(Response::new)
        };
        identity.answer(answered).await
    }

    async fn generate_stream(
        &self,
        mut request: Request<v1::GenerateRequest>,
    ) -> Answer<Self::GenerateStreamStream> {
        let identity = identity::of_generation("generate", &mut request)?;
        let known_as = identity.clone();
        let answered = async {
            let deadline = Deadline::of(request.metadata())?;
            let client = ClientId::of_call(&request);
            let request = request.into_inner();
            let started = async { Ok(self.start(client, request, deadline, known_as).await?) };
            deadline.bound(started).await.map(Response::new)
        };
        identity.answer(answered).await
    }

    async fn score(&self, request: Request<v1::ScoreRequest>) -> Answer<v1::ScoreResponse> {
        let identity = identity::of_call("score", request.metadata())?;
        let answered = async {
            let deadline = Deadline::of(request.metadata())?;
            let client = ClientId::of_call(&request);
            let scored = async {
                let request = request.into_inner();
                let scored = self.score_tokens(client, request, deadline).await;
                Ok(scored.inspect_err(|error| self.metrics.rejected(error))?)
            };
            deadline.bound(scored).await.map(Response::new)
        };
        identity.answer(answered).await
    }

    async fn abort(&self, request: Request<v1::AbortRequest>) -> Answer<v1::AbortResponse> {
        let client = ClientId::of_call(&request);
        let request_id = request.into_inner().request_id;
        if request_id.is_empty() {
            return Err(Error::field("request_id", "is empty: name a generation").into());
        }
        self.engine.abort(client, request_id);
        Ok(Response::new(v1::AbortResponse {}))
    }

    async fn tokenize(
        &self,
        request: Request<v1::TokenizeRequest>,
    ) -> Answer<v1::TokenizeResponse> {
        let text = request.into_inner().text;
        let token_ids = self.blocking(move |served| served.tokenize("text", &text));
        Ok(Response::new(v1::TokenizeResponse {
            token_ids: token_ids.await?,
        }))
    }

    async fn detokenize(
        &self,
        request: Request<v1::DetokenizeRequest>,
    ) -> Answer<v1::DetokenizeResponse> {
        let token_ids = request.into_inner().token_ids;
        let text = self.blocking(move |served| served.detokenize(&token_ids));
        Ok(Response::new(v1::DetokenizeResponse { text: text.await? }))
    }

    async fn get_model_info(
        &self,
        _: Request<v1::GetModelInfoRequest>,
    ) -> Answer<v1::GetModelInfoResponse> {
        Ok(Response::new(self.served.model.clone()))
    }

    async fn get_server_info(
        &self,
        _: Request<v1::GetServerInfoRequest>,
    ) -> Answer<v1::GetServerInfoResponse> {
        Ok(Response::new(v1::GetServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            limits: Some(self.served.limits),
            default_policy: self.served.default_policy.to_string(),
            allow_lossy: self.served.exits.is_some(),
            drafters: self
                .drafters
                .as_ref()
                .map_or_else(Vec::new, Drafters::status),
        }))
    }

    async fn get_load(&self, _: Request<v1::GetLoadRequest>) -> Answer<v1::GetLoadResponse> {
        Ok(Response::new(self.engine.load().await?))
    }
}
