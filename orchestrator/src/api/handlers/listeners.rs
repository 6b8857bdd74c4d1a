//! Ports of the ingresses that services have: which one is whose.

use http::StatusCode;
use spec::{IngressSettings, Port};
use store::Txn;

use crate::{
    api::{call::Call, error::ApiError},
    state::{
        hosts::PortClaim,
        keys,
        records::{DefinitionRecord, Guarded, ServiceKey, Stored},
    },
};

/// `txn`, in which the service also gets the ports that it is to have and loses those that it had.
pub(super) async fn claim(
    call: &Call,
    key: &ServiceKey,
    before: &IngressSettings,
    after: &IngressSettings,
    mut txn: Txn,
) -> Result<Txn, ApiError> {
    let (tenant, cluster, service) = key;
    let ports = |settings: &IngressSettings| {
        settings.listeners.iter().map(|one| one.port).collect::<std::collections::BTreeSet<_>>()
    };
    let (had, wanted) = (ports(before), ports(after));
    for port in had.union(&wanted) {
        let at = keys::port(port);
        let stored: Option<Stored<PortClaim>> = call.state().get(at.clone()).await?;
        let claim = PortClaim {
            port: *port,
            tenant: tenant.clone(),
            cluster: cluster.clone(),
            service: service.clone(),
        };
        match (stored, wanted.contains(port)) {
            (None, true) => {
                check_reserved(call, *port)?;
                txn = txn.create(at, &claim);
            }
            (Some(stored), true) if stored.value != claim => {
                return Err(taken(&claim, &stored.value));
            }
            (Some(stored), false) if stored.value == claim => {
                txn = txn.remove(at, stored.mod_rev);
            }
            (Some(_), true | false) | (None, false) => {}
        }
    }
    Ok(txn)
}

fn check_reserved(call: &Call, port: Port) -> Result<(), ApiError> {
    let Some(range) = call.api.ingress_ports else {
        return Err(ApiError::invalid("this platform has no ports for listeners of services")
            .hint("its operator sets some aside: margay up --ingress-ports 20000-20100"));
    };
    match range.contains(port.number) {
        true => Ok(()),
        false => Err(ApiError::invalid(format!(
            "port `{port}` is none of those that the operator has set aside for services"
        ))
        .hint(format!("use one of {range}"))),
    }
}

/// Another tenant is not named: which ports it has is not for others to know.
fn taken(wanted: &PortClaim, owner: &PortClaim) -> ApiError {
    let PortClaim { cluster, service, .. } = owner;
    let message = match owner.tenant == wanted.tenant {
        true => {
            format!("port `{}` is that of service `{service}` in cluster `{cluster}`", owner.port)
        }
        false => format!("port `{}` is taken", owner.port),
    };
    ApiError::new(StatusCode::CONFLICT, "port-taken", message).hint("choose another port")
}

/// Whether every listener leads to a port of the definition.
pub(super) fn check(
    definition: &DefinitionRecord,
    settings: &IngressSettings,
) -> Result<(), ApiError> {
    let mut listeners = settings.listeners.iter();
    let Some(listener) = listeners.find(|one| definition.listener_port(one).is_none()) else {
        return Ok(());
    };
    let (id, port) = (&definition.id, listener.port);
    let protocol = port.transport.word();
    Err(match listener.container_port {
        Some(number) => {
            let asked = Port { number, ..port };
            let message = format!("listener `{port}`: task definition `{id}` has no port {asked}");
            ApiError::invalid(message).hint(format!(
                "add it to a container: ports = [{{ container_port = {number}, protocol = \
                 \"{protocol}\" }}]"
            ))
        }
        None => {
            let suffix = if port.transport.is_tcp() { "" } else { "/udp" };
            let message =
                format!("listener `{port}`: task definition `{id}` has no port for `{protocol}`");
            ApiError::invalid(message).hint(format!(
                "name one, as in --listener {}:PORT{suffix}, or add it to a container: ports = [{{ \
                 container_port = PORT, protocol = \"{protocol}\" }}]",
                port.number
            ))
        }
    })
}
