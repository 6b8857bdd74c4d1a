use std::{net::SocketAddr, path::Path, sync::Arc};

use net::tls;
use spec::{NodeCondition, Tenant};
use store::{Store, Txn};
use tokio::sync::RwLock;
use tokio_rustls::TlsAcceptor;

use super::{
    config::Config, error::ApiError, principal::Principal, quota::Quotas, resolver::ImageResolver,
    resolving::ResolvingLimits, types::Credential,
};
use crate::{
    Error,
    plan::{HostNames, NodeWatch, Reconciler},
    state::{
        State,
        ca::crypto,
        files,
        issuer::Issuer,
        keys, now,
        records::{CredentialRecord, Guarded},
        tokens,
    },
};

/// What handlers use.
pub(crate) struct Api {
    pub state: Arc<State>,
    pub node_watch: Arc<NodeWatch>,
    pub reconciler: Reconciler,
    pub issuer: Issuer,
    pub resolver: Arc<dyn ImageResolver>,
    pub resolving: ResolvingLimits,
    /// What join tokens and credentials name; nothing without a TCP listener.
    pub address: Option<String>,
    /// Where the bundled registry is.
    pub registry: Option<String>,
    pub quotas: Quotas,
    /// Held shared while something is put into a cluster, and alone while one is deleted.
    pub clusters: RwLock<()>,
    /// The OpenAPI document. It is made from the table of routes, which handlers do not see.
    pub document: serde_json::Value,
}

impl Api {
    /// Begins the next epoch on `store`.
    pub async fn start(
        config: Config,
        store: Arc<dyn Store>,
        address: Option<SocketAddr>,
    ) -> Result<Self, Error> {
        let Config { data_dir, advertise, tenant, domain, registry, resolver, .. } = config;
        let issuer = Issuer::open(&data_dir)?;
        let state = Arc::new(State::open(store).await?);
        let names = HostNames { operator: tenant, domain };
        let node_watch = Arc::new(NodeWatch::new(state.clone(), names));
        let api = Self {
            reconciler: Reconciler::new(state.clone(), node_watch.clone()),
            state,
            node_watch,
            issuer,
            resolver,
            resolving: ResolvingLimits::new(),
            address: advertise.or_else(|| address.map(|address| address.to_string())),
            registry,
            quotas: Quotas::default(),
            clusters: RwLock::default(),
            document: serde_json::Value::Null,
        };
        api.write_credential(&data_dir).await?;
        Ok(api)
    }

    #[must_use]
    pub fn describing(self, document: serde_json::Value) -> Self {
        Self { document, ..self }
    }

    pub fn operator(&self) -> &Tenant {
        &self.node_watch.names.operator
    }

    /// The operator's credential. It is the same at each start, because its token can be made
    /// again.
    async fn write_credential(&self, folder: &Path) -> Result<(), Error> {
        let Some(address) = self.address.clone() else { return Ok(()) };
        let token = self.issuer.token("credential of the operator");
        let key = keys::credential(&tokens::hashed(&token));
        let tenant = self.operator().clone();
        let record = CredentialRecord { tenant: tenant.clone(), created: now() };
        self.state.commit(Txn::new().create(key, &record)).await?; // or it is there
        let ca_fingerprint = self.issuer.ca.fingerprint.clone();
        let credential = Credential { address, ca_fingerprint, tenant, token };
        let text = serde_json::to_vec_pretty(&credential).expect("it has string keys");
        files::write_private(&folder.join("credential.json"), &text)
    }

    pub fn acceptor(&self) -> Result<TlsAcceptor, Error> {
        let ca = &self.issuer.ca;
        let (leaf, key) = ca.server(now())?;
        let roots = tls::roots([ca.certificate.clone()]).map_err(crypto("trust the CA"))?;
        let chain = vec![leaf, ca.certificate.clone()];
        let config = tls::server(chain, key, roots, tls::Clients::CertifiedOrUnauthenticated);
        Ok(config.map_err(crypto("set up TLS"))?.into())
    }

    /// Every request of a node is a heartbeat, whatever becomes of it.
    pub fn note_heartbeat(&self, principal: &Principal) {
        if let Principal::Node { id, .. } = principal
            && self.state.reports.heard(id) != NodeCondition::Ready
        {
            self.state.wake_reconciler(); // it may have work again
        }
    }

    /// Answers while the model is not read yet: a node would take it for "nothing should run".
    /// Revision 0 has nothing in it, and the epoch is later.
    pub fn check_model(&self) -> Result<(), ApiError> {
        match self.state.model().rev {
            0 => Err(ApiError::starting()),
            _ => Ok(()),
        }
    }
}
