use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use audit::AuditLog;
use net::tls::{self, CertificateFiles};
use spec::{NodeCondition, PortRange, Tenant, Timestamp};
use store::{Store, Txn};
use tokio::{sync::RwLock, time::interval};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{
    bodies::BodyBudgets, config::Config, error::ApiError, principal::Principal, quota::Quotas,
    resolver::ImageResolver, resolving::ResolvingLimits, streams::Streams, types::Credential,
};
use crate::{
    Error,
    limits::{OPERATOR_CREDENTIAL_TIME, OPERATOR_CREDENTIAL_WATCHED_EVERY},
    plan::{HostNames, NodeWatch, Reconciler},
    state::{
        State,
        ca::crypto,
        credentials::{CredentialRecord, CredentialScope, new_serial},
        files,
        issuer::Issuer,
        keys, now,
        records::encode,
        tokens,
    },
};

/// The name of the operator's own way in over TCP, in `credential.json`.
pub(crate) const OPERATOR_CREDENTIAL: &str = "operator";

/// What handlers use.
pub(crate) struct Api {
    /// For the operator's credential, and the account at an authority.
    pub data_dir: PathBuf,
    pub state: Arc<State>,
    pub node_watch: Arc<NodeWatch>,
    pub reconciler: Reconciler,
    pub issuer: Issuer,
    pub resolver: Arc<dyn ImageResolver>,
    pub resolving: ResolvingLimits,
    pub bodies: BodyBudgets,
    pub streams: Streams,
    pub audit: Arc<AuditLog>,
    /// What join tokens and credentials name; nothing without a TCP listener.
    pub address: Option<String>,
    /// Where the bundled registry is.
    pub registry: Option<String>,
    pub quotas: Quotas,
    /// Whether an authority is asked for certificates of hosts.
    pub has_acme: bool,
    /// The ports of ingresses that services may have.
    pub ingress_ports: Option<PortRange>,
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
        let (acme, ingress_ports) = (config.acme, config.ingress_ports);
        let issuer = Issuer::open(&data_dir)?;
        let path = data_dir.join("audit");
        let audit = AuditLog::open(&path).map_err(|source| Error::Io { path, source })?;
        let state = Arc::new(State::open(store).await?);
        let names = HostNames { operator: tenant, domain };
        let node_watch = Arc::new(NodeWatch::new(state.clone(), names));
        let api = Self {
            data_dir,
            reconciler: Reconciler::new(state.clone(), node_watch.clone()),
            state,
            node_watch,
            issuer,
            resolver,
            resolving: ResolvingLimits::new(),
            bodies: BodyBudgets::new(),
            streams: Streams::new(),
            audit: Arc::new(audit),
            address: advertise.or_else(|| address.map(|address| address.to_string())),
            registry,
            quotas: Quotas::default(),
            has_acme: acme.is_some(),
            ingress_ports,
            clusters: RwLock::default(),
            document: serde_json::Value::Null,
        };
        api.state.name_credentials().await?;
        api.renew_operator_credential().await?;
        Ok(api)
    }

    #[must_use]
    pub fn describing(self, document: serde_json::Value) -> Self {
        Self { document, ..self }
    }

    pub fn operator(&self) -> &Tenant {
        &self.node_watch.names.operator
    }

    /// What join tokens and credentials name.
    pub fn address_for_clients(&self) -> Result<String, ApiError> {
        self.address
            .clone()
            .ok_or_else(|| ApiError::invalid("this control plane listens on its Unix socket only"))
    }

    /// Keeps the operator's credential fresh until `end`.
    pub async fn watch_operator_credential(&self, end: CancellationToken) {
        let mut next = interval(OPERATOR_CREDENTIAL_WATCHED_EVERY);
        while end.run_until_cancelled(next.tick()).await.is_some() {
            if let Some(Err(error)) =
                end.run_until_cancelled(self.renew_operator_credential()).await
            {
                tracing::error!(?error, "cannot renew the operator's credential");
            }
        }
    }

    /// Makes `credential.json` anew when half of its time is over, when it is missing or not the
    /// one that is stored, and when the address has changed. The secret before is refused from then
    /// on.
    async fn renew_operator_credential(&self) -> Result<(), Error> {
        let Some(address) = self.address.clone() else { return Ok(()) };
        let (tenant, now) = (self.operator().clone(), now());
        let name = OPERATOR_CREDENTIAL.parse().expect("a word is a name");
        let stored = self.state.credential(&tenant, &name).await?.map(|stored| stored.value);
        let ca_fingerprint = self.issuer.ca.fingerprint.clone();
        let path = self.data_dir.join("credential.json");
        let kept = files::read_private(&path)?;
        let kept = kept.and_then(|bytes| spec::json::from_slice::<Credential>(&bytes).ok());
        if let (Some(record), Some(file)) = (stored, kept)
            && record.secret == tokens::hashed(&file.secret)
            && (&file.address, &file.ca_fingerprint) == (&address, &ca_fingerprint)
            && now.since(record.created) < OPERATOR_CREDENTIAL_TIME / 2
        {
            return Ok(());
        }
        let secret = tokens::random_hex();
        let end = now.millis() + OPERATOR_CREDENTIAL_TIME.as_millis() as u64;
        let record = CredentialRecord {
            tenant: tenant.clone(),
            name,
            scope: CredentialScope::Manage,
            created: now,
            expires: Timestamp::from_millis(end),
            last_used: None,
            serial: new_serial(),
            secret: tokens::hashed(&secret),
            replaces: None,
        };
        let key = keys::credential(&tenant, &record.name);
        self.state.commit(Txn::new().put(key, encode(&record))).await?;
        self.write_operator_credential(&Credential {
            address,
            ca_fingerprint,
            ca_pem: Some(self.issuer.ca.pem.clone()),
            tenant,
            name: Some(record.name),
            scope: record.scope,
            expires: Some(record.expires),
            secret,
        })
        .await
    }

    pub async fn write_operator_credential(&self, credential: &Credential) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(credential).expect("it has string keys");
        let path = self.data_dir.join("credential.json");
        let written = tokio::task::spawn_blocking(move || files::write_private(&path, &text));
        written.await.map_err(|join| Error::Io {
            path: self.data_dir.clone(),
            source: std::io::Error::other(join),
        })?
    }

    /// TLS of the platform's authority. A client that calls another name than the parts of a
    /// platform do is shown the certificate in `files`, when there is one: one port serves both,
    /// because a client says the name that it wants to see in its first message.
    pub fn acceptor(&self, files: Option<&CertificateFiles>) -> Result<TlsAcceptor, Error> {
        let ca = &self.issuer.ca;
        let (leaf, key) = ca.server(self.address.as_deref(), now())?;
        let roots = tls::roots([ca.certificate.clone()]).map_err(crypto("trust the CA"))?;
        let chain = vec![leaf, ca.certificate.clone()];
        let clients = tls::Clients::CertifiedOrUnauthenticated;
        let config = match files {
            None => tls::server(chain, key, roots, clients),
            Some(files) => {
                let own = tls::pair_of(chain, key).map_err(crypto("set up TLS"))?;
                tls::server_beside(files, own, &tls::CONTROL_PLANE_NAMES, roots, clients)
            }
        };
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
