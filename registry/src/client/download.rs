//! Files at URLs, which need no registry.

use std::io::Write;

use http::{StatusCode, Uri};

use super::{
    Client,
    origin::{Origin, is_loopback},
    session::{Call, Session, Target},
};
use crate::{Error, ProtocolFault};

impl Client {
    /// Writes the file at `url` to `out`, and returns its length. Redirects are followed, to
    /// nothing that is less secure.
    ///
    /// # Errors
    /// When it is no URL of HTTPS, or of HTTP on this machine; when it has more than `bytes_max`
    /// bytes; as for every request; and [`Error::File`] when it cannot be written.
    pub async fn download(
        &self,
        url: &str,
        out: &mut impl Write,
        bytes_max: u64,
    ) -> Result<u64, Error> {
        let unusable = || Error::InvalidUrl { url: url.to_owned() };
        let uri: Uri = url.parse().map_err(|_| unusable())?;
        let origin = Origin::of_uri(&uri).ok_or_else(unusable)?;
        let registry = origin.to_string();
        if !origin.secure && !is_loopback(&registry) {
            return Err(unusable());
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let session =
            Session { context: &self.0, origin, registry: registry.clone(), scopes: Vec::new() };
        let response = session.follow(Call::get(Target::Path(path), url)).await?;
        let response = session.expect(url, response, &[StatusCode::OK]).await?;
        let mut receiving = session.context.transport.receive(&session.origin, url, response);
        let mut length = 0;
        while let Some(bytes) = receiving.next().await? {
            length += bytes.len() as u64;
            if length > bytes_max {
                let subject = url.to_owned();
                let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
                let source = ProtocolFault::TooLarge { subject, bytes_max };
                return Err(Error::Protocol { registry, source });
            }
            out.write_all(&bytes).map_err(|source| Error::File {
                action: "write the file of",
                path: url.into(),
                source,
            })?;
        }
        Ok(length)
    }
}
