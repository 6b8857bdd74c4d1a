use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use spec::{Host, forbidden};
use tokio::net::TcpStream;

use super::own_addresses::OwnAddresses;

/// Which addresses this machine connects to on behalf of others: public ones, and an internal one
/// with two keys. The first is that the connection was granted as an internal one, the second that
/// the owner of this machine opens the network. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct AddressRules {
    opened: Arc<[Host]>,
    own: OwnAddresses,
}

impl AddressRules {
    /// On a machine whose owner opens `opened` (addresses and networks). With nothing in it,
    /// loopback, link-local and internal addresses and those of the machine itself are out of reach
    /// whatever was granted.
    pub fn new(opened: impl IntoIterator<Item = Host>) -> Self {
        Self { opened: opened.into_iter().collect(), own: OwnAddresses::default() }
    }

    #[cfg(test)]
    pub(super) fn of_machine(own: &[&str], opened: &[&str]) -> Self {
        let opened = opened.iter().map(|text| Host::Address(text.parse().unwrap()));
        Self { own: OwnAddresses::fixed(own), ..Self::new(opened) }
    }

    /// Why `address` is off limits, if it is; `granted` is whether the first key is there.
    pub fn refusal(&self, address: IpAddr, granted: bool) -> Option<String> {
        let reason = match forbidden(address) {
            Some(reason) => reason.to_string(),
            None if self.own.contains(unmapped(address)) => "this machine's own".to_owned(),
            None => return None,
        };
        (!self.opens(address, granted)).then(|| format!("{address} is {reason}"))
    }

    /// Connects to `address`, unless it is off limits.
    ///
    /// # Errors
    /// [`io::ErrorKind::PermissionDenied`] when it is, and when there is no connection.
    pub async fn connect(&self, address: SocketAddr, granted: bool) -> io::Result<TcpStream> {
        let denied = |why| io::Error::new(io::ErrorKind::PermissionDenied, why);
        if let Some(why) = self.refusal(address.ip(), granted) {
            return Err(denied(why));
        }
        let stream = TcpStream::connect(address).await?;
        // An address that came up a moment ago, or was routed back.
        if is_own(&stream) && !self.opens(address.ip(), granted) {
            return Err(denied(format!("{} is this machine's own", address.ip())));
        }
        Ok(stream)
    }

    /// Whether both keys are there.
    fn opens(&self, address: IpAddr, granted: bool) -> bool {
        let plain = Host::Address(unmapped(address));
        granted && self.opened.iter().any(|host| host.includes(&plain))
    }
}

/// Whether a connection has this machine at both ends.
fn is_own(stream: &TcpStream) -> bool {
    match (stream.local_addr(), stream.peer_addr()) {
        (Ok(local), Ok(peer)) => unmapped(local.ip()) == unmapped(peer.ip()),
        // It is closed already, which its user will notice.
        (Err(_), _) | (_, Err(_)) => false,
    }
}

fn unmapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}
