//! `GET /api/server`: the model, the server's limits and drafters, and how busy it is.

use super::{Page, failure::Failure};
use axum::{Json, extract::State};
use dssd_proto::v1::{self, generation_server::Generation as _};
use serde::Serialize;
use tonic::Request;

#[derive(Serialize)]
pub(super) struct ServerView {
    model: ModelView,
    version: String,
    limits: LimitsView,
    default_policy: String,
    allow_lossy: bool,
    drafters: Vec<DrafterView>,
    load: LoadView,
}

#[derive(Serialize)]
struct ModelView {
    model_name: String,
    architecture: String,
    numerics_id: String,
    vocabulary_size: u32,
    layer_count: u32,
    hidden_size: u32,
    dtype: String,
    device: String,
}

#[derive(Serialize)]
struct LimitsView {
    max_context: u32,
    max_sequences: u32,
    max_queue: u32,
    max_draft_tokens: u32,
    default_max_new_tokens: u32,
}

#[derive(Serialize)]
struct DrafterView {
    address: String,
    state: &'static str,
    reason: String,
    load: DrafterLoadView,
}

#[derive(Serialize)]
struct DrafterLoadView {
    sequences: u32,
    free_kv_blocks: u32,
    step_us: u64,
}

#[derive(Serialize)]
struct LoadView {
    running: u32,
    waiting: u32,
    free_kv_blocks: u32,
    kv_blocks: u32,
    step_us: u64,
}

/// What the server tells of itself.
pub(super) async fn server(State(page): State<Page>) -> Result<Json<ServerView>, Failure> {
    let server = &page.server;
    let model = server
        .get_model_info(Request::new(v1::GetModelInfoRequest {}))
        .await?;
    let info = server
        .get_server_info(Request::new(v1::GetServerInfoRequest {}))
        .await?
        .into_inner();
    let load = server
        .get_load(Request::new(v1::GetLoadRequest {}))
        .await?
        .into_inner();
    Ok(Json(ServerView {
        model: model.into_inner().into(),
        version: info.version,
        limits: info.limits.unwrap_or_default().into(),
        default_policy: info.default_policy,
        allow_lossy: info.allow_lossy,
        drafters: info.drafters.into_iter().map(Into::into).collect(),
        load: LoadView {
            running: load.running,
            waiting: load.waiting,
            free_kv_blocks: load.free_kv_blocks,
            kv_blocks: load.kv_blocks,
            step_us: load.step_us,
        },
    }))
}

impl From<v1::GetModelInfoResponse> for ModelView {
    fn from(model: v1::GetModelInfoResponse) -> Self {
        Self {
            model_name: model.model_name,
            architecture: model.architecture,
            numerics_id: model.numerics_id,
            vocabulary_size: model.vocabulary_size,
            layer_count: model.layer_count,
            hidden_size: model.hidden_size,
            dtype: model.dtype,
            device: model.device,
        }
    }
}

impl From<v1::Limits> for LimitsView {
    fn from(limits: v1::Limits) -> Self {
        Self {
            max_context: limits.max_context,
            max_sequences: limits.max_sequences,
            max_queue: limits.max_queue,
            max_draft_tokens: limits.max_draft_tokens,
            default_max_new_tokens: limits.default_max_new_tokens,
        }
    }
}

impl From<v1::DrafterStatus> for DrafterView {
    fn from(drafter: v1::DrafterStatus) -> Self {
        let state = drafter.state().as_str_name();
        let load = drafter.load.unwrap_or_default();
        Self {
            address: drafter.address,
            state,
            reason: drafter.reason,
            load: DrafterLoadView {
                sequences: load.sequences,
                free_kv_blocks: load.free_kv_blocks,
                step_us: load.step_us,
            },
        }
    }
}
