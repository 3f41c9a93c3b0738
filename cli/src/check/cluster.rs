//! The servers that a check talks to.

use super::{
    faults::{FaultyDrafter, Restarts},
    setting::Exits,
};
use crate::{
    client::Client,
    oracle::{Oracle, OracleSettings, Truth},
    pair::{self, Model, Service},
};
use anyhow::{Context, Result};
use dssd_common::serve::WorkAhead;
use dssd_proto::v1::{GetDrafterInfoRequest, drafting_client::DraftingClient};
use std::time::Duration;
use tonic::transport::{Endpoint, Uri};

/// Probability that the oracle proposes the true token.
const ORACLE_ACCEPTANCE: f64 = 0.7;
const ORACLE_SEED: u64 = 7;
/// What every drafter of an unknown server is taken to have.
const ASSUMED_EXITS: Exits = Exits {
    heads: 1,
    calibrated: false,
};
/// Faulty ways to one drafter: while one is left out for a fault, others carry on.
const FAULTY_WAYS: u64 = 6;

/// A verify-svc with its drafters, and where possible others with drafters of other kinds.
pub(super) struct Cluster {
    pub(super) drafted: Client,
    /// Its drafters work ahead, although they share its machine.
    pub(super) ahead: Option<Client>,
    pub(super) oracle: Option<OracleSide>,
    pub(super) exits: Exits,
    services: Vec<Service>,
    restarts: Option<Restarts>,
}

/// A verify-svc whose drafter knows what comes.
pub(super) struct OracleSide {
    pub(super) client: Client,
    pub(super) truth: Truth,
}

impl Cluster {
    /// A running server.
    pub(super) async fn remote(drafted: Client) -> Result<Self> {
        drafted.ready().await?;
        Ok(Self {
            drafted,
            ahead: None,
            oracle: None,
            exits: ASSUMED_EXITS,
            services: Vec::new(),
            restarts: None,
        })
    }

    /// All services in this process; with `faults`, their drafters fail in every way.
    pub(super) async fn local(model: &Model, faults: bool) -> Result<Self> {
        let drafter = pair::drafter(model, pair::listener().await?)?;
        let ahead = pair::drafter_with(model, pair::listener().await?, |config| {
            config.work_ahead = WorkAhead::On;
        })?;
        let truth = Truth::default();
        let settings = OracleSettings {
            acceptance: ORACLE_ACCEPTANCE,
            seed: ORACLE_SEED,
        };
        let oracle = pair::own_drafter(Oracle::new(truth.clone(), settings)).await?;
        let exits = exits(&drafter.uri()?).await?;
        let mut services = Vec::new();
        let mut restarts = None;
        let (mut drafts, mut oracles) = (vec![drafter.uri()?], vec![oracle.uri()?]);
        let mut aheads = vec![ahead.uri()?];
        if faults {
            drafts = faulty_ways(&drafter, 0, &mut services).await?;
            oracles = faulty_ways(&oracle, FAULTY_WAYS, &mut services).await?;
            aheads = faulty_ways(&ahead, 2 * FAULTY_WAYS, &mut services).await?;
            let restarting = Restarts::start(model).await?;
            drafts.push(restarting.uri()?);
            restarts = Some(restarting);
        }
        let drafted = pair::verifier(model, drafts, pair::listener().await?)?;
        let with_oracle = pair::verifier(model, oracles, pair::listener().await?)?;
        let with_ahead = pair::verifier(model, aheads, pair::listener().await?)?;
        let cluster = Self {
            drafted: Client::new(&[drafted.uri()?]),
            ahead: Some(Client::new(&[with_ahead.uri()?])),
            oracle: Some(OracleSide {
                client: Client::new(&[with_oracle.uri()?]),
                truth,
            }),
            exits,
            // Verifiers end first, then what they are connected to.
            services: [drafted, with_oracle, with_ahead]
                .into_iter()
                .chain(services)
                .chain([drafter, oracle, ahead])
                .collect(),
            restarts,
        };
        cluster.drafted.ready().await?;
        if let Some(ahead) = &cluster.ahead {
            ahead.ready().await?;
        }
        if let Some(oracle) = &cluster.oracle {
            oracle.client.ready().await?;
        }
        Ok(cluster)
    }

    /// Stops what was started.
    pub(super) async fn stop(self) -> Result<()> {
        if let Some(restarts) = self.restarts {
            restarts.stop().await?;
        }
        for service in self.services {
            service.stop().await?;
        }
        Ok(())
    }
}

async fn faulty_ways(to: &Service, seed: u64, services: &mut Vec<Service>) -> Result<Vec<Uri>> {
    let mut ways = Vec::new();
    for way in 0..FAULTY_WAYS {
        let service = pair::own_drafter(FaultyDrafter::new(&to.uri()?, seed + way)).await?;
        ways.push(service.uri()?);
        services.push(service);
    }
    Ok(ways)
}

async fn exits(drafter: &Uri) -> Result<Exits> {
    let channel = Endpoint::from(drafter.clone())
        .connect_timeout(Duration::from_secs(5))
        .connect()
        .await?;
    let info = DraftingClient::new(channel)
        .get_drafter_info(GetDrafterInfoRequest {})
        .await
        .context("the drafter tells nothing about itself")?;
    let info = info.into_inner();
    Ok(Exits {
        heads: info.exit_layers.len().max(1),
        calibrated: !info.calibration_id.is_empty(),
    })
}
